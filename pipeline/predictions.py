"""`cryobase predict`: choose the model, and print its answers as a table, JSON or CSV.

`stages/predict.py` computes the answers.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cryobase.pipeline import tables
from cryobase.pipeline.layout import Layout
from cryobase.pipeline.params import Params, load
from cryobase.stages.data.decoding import UndecodableImageError
from cryobase.stages.data.packs import read_image
from cryobase.stages.data.received_pixels import ReceivedPixels
from cryobase.stages.errors import DataError
from cryobase.stages.heads import standing
from cryobase.stages.heads.standing import MissingResultsError
from cryobase.stages.predict import Classifier, image_files


@dataclass(frozen=True)
class Answers:
    """Rows `{"file", "classes": [{"class", "probability"}]}`, or `{"file", "reason"}`."""

    model: str
    rows: list[dict[str, Any]]


def of_head(
    layout: Layout,
    paths: Sequence[Path],
    *,
    model: Path | None,
    top: int,
    params: Params | None = None,
) -> Answers:
    """The most probable classes by a trained head; by default the best, see `evaluate.select`.

    Raises:
        DataError: there is no image file, or no head.
    """
    files = _files(paths)
    params = params or load(layout.params)
    head = model or _best_head(layout, params)
    weights = [one.weights for one in params.extract.sets.values()]
    classifier = Classifier.open(head, [*weights, "imagenet", "none"])
    rows: list[dict[str, Any]] = []
    for one in classifier.predict(files):
        if one.probabilities is None:
            rows.append({"file": str(one.path), "reason": one.reason})
            continue
        order = np.argsort(-one.probabilities, kind="stable")[:top]
        found = [(classifier.classes[k], float(one.probabilities[k])) for k in order]
        rows.append(_row(one.path, found))
    return Answers(str(head), rows)


def of_backbone(backbone: str, paths: Sequence[Path], *, top: int) -> Answers:
    """The most probable ImageNet labels by a base with its original classifier.

    Raises:
        DataError: there is no image file.
        UndecodableImageError: a file is not an image.
    """
    from cryobase.stages.backbones.labels import pixel_spec, top_labels

    files, images = _files(paths), []
    with closing(ReceivedPixels(pixel_spec(backbone))) as decoder:
        for file in files:
            try:
                images.append(decoder.load(read_image(file)))
            except UndecodableImageError as error:
                raise UndecodableImageError(f"{file}: {error}") from None
    labels = top_labels(backbone, np.stack(images), top=top)
    rows = [
        _row(file, [(label.name, label.probability) for label in found])
        for file, found in zip(files, labels, strict=True)
    ]
    return Answers(backbone, rows)


def show(answers: Answers, *, as_json: bool, as_csv: bool) -> None:
    """Print the answers.

    Raises:
        DataError: none of the files is an image.
    """
    if as_json:
        tables.print_json({"model": answers.model, "predictions": answers.rows})
    else:
        tables.show([line for row in answers.rows for line in lines(row)], as_csv=as_csv)
    if all("reason" in row for row in answers.rows):
        raise DataError("predict: no answer for any of the files; their reasons stand above")


def _files(paths: Sequence[Path]) -> list[Path]:
    files = list(image_files(paths))
    if not files:
        raise DataError("predict: no image; name files or directories that hold some")
    return files


def _best_head(layout: Layout, params: Params) -> Path:
    """The best head of all sets by `evaluate.select`, without heads on imported features.

    Cryobase cannot compute imported features for a new image.
    """
    found, foreign = [], params.train.foreign
    for name, sets in params.inputs.items():
        if any(one in foreign for one in sets):
            continue
        try:
            heads = standing.read(layout.results(name), f"run `cryobase evaluate {name}`").heads
        except MissingResultsError:
            continue
        found += [
            (standing.rank(result.parts, params.evaluate.select, name, head), name, head)
            for head, result in heads.items()
        ]
    if not found:
        beside = f"; those of {', '.join(foreign)} have no base here" if foreign else ""
        raise DataError(
            f"predict: no evaluated head{beside}; run `dvc repro`, or name one with --model"
        )
    _, name, head = min(found)
    return layout.head(name, head)


def _row(path: Path, found: Sequence[tuple[str, float]]) -> dict[str, Any]:
    classes = [{"class": name, "probability": round(value, 6)} for name, value in found]
    return {"file": str(path), "classes": classes}


def lines(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One line per class of a file, or one line with the reason why there is no class."""
    for rank, one in enumerate(row.get("classes", ()), 1):
        yield {"file": row["file"], "rank": rank, **one, "reason": ""}
    if "reason" in row:
        none = dict.fromkeys(("rank", "class", "probability"), "")
        yield {"file": row["file"], **none, "reason": row["reason"]}

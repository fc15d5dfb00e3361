"""`cryobase predict`: the model to use, and its answers as a table, JSON or CSV."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import tables
from pipeline.layout import Layout
from pipeline.params import Params, load
from stages.errors import DataError
from stages.heads.predict import Classifier, Prediction, image_files


def show(
    layout: Layout,
    paths: Sequence[Path],
    *,
    model: Path | None,
    top: int,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Print the most probable classes of image files.

    Raises:
        DataError: no file, or none of the files is an image.
    """
    files = list(image_files(paths))
    if not files:
        raise DataError("predict: no image; name files or directories that hold some")
    params = load(layout.params)
    head = model or _best_head(layout, params)
    weights = [one.weights for one in params.extract.sets.values()]
    classifier = Classifier.of_head(head, [*weights, "imagenet", "none"])
    predictions = list(classifier.predict(files))
    rows = [_row(one, classifier.classes, top) for one in predictions]
    if as_json:
        tables.print_json({"model": str(head), "predictions": rows})
    else:
        tables.show([line for row in rows for line in _lines(row)], as_csv=as_csv)
    if all(one.probabilities is None for one in predictions):
        raise DataError(f"predict: none of {len(files)} files is an image; see the reasons above")


def _best_head(layout: Layout, params: Params) -> Path:
    """The head with the best validation accuracy of all sets."""
    candidates: list[tuple[float, Path]] = []
    for name in params.extract.sets:
        path = layout.results(name) / "metrics.json"
        if path.exists():
            metrics = json.loads(path.read_text(encoding="utf-8"))
            scores = metrics["heads"][metrics["best"]]["validation"]
            candidates.append((scores.get("accuracy", 0.0), layout.models(name) / metrics["best"]))
    if not candidates:
        raise DataError("predict: no evaluated head; run: dvc repro, or name one with --model")
    return max(candidates)[1]


def _row(prediction: Prediction, classes: Sequence[str], top: int) -> dict[str, Any]:
    if prediction.probabilities is None:
        return {"file": str(prediction.path), "reason": prediction.reason}
    order = np.argsort(-prediction.probabilities, kind="stable")[:top]
    found = [
        {"class": classes[k], "probability": round(float(prediction.probabilities[k]), 6)}
        for k in order
    ]
    return {"file": str(prediction.path), "classes": found}


def _lines(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One line per class of a file, or one with the reason why there is none."""
    for rank, one in enumerate(row.get("classes", ()), 1):
        yield {"file": row["file"], "rank": rank, **one, "reason": ""}
    if "reason" in row:
        yield {
            "file": row["file"],
            "rank": "",
            "class": "",
            "probability": "",
            "reason": row["reason"],
        }

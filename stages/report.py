"""Stage `report`: one self-contained page, and the same tables as CSV.

It only reads results; heads are ranked by `stages/heads/standing.py`.
"""

import base64
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryobase.stages.errors import DataError
from cryobase.stages.heads import standing
from cryobase.stages.heads.standing import MissingResultsError, Score
from cryobase.stages.outputs import replace, write_table, write_text
from cryobase.store.errors import StoreError
from cryobase.store.files import read_file

PICTURES = "pictures"
MAX_PICTURE = 1 << 24  # bytes; a picture of 4,096 curves has a few megabytes
MAX_PICTURES = 10_000

logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).with_name("report.html")
SCORES = ("accuracy", "f1_macro", "log_loss")
FIRST = ("set", "head", "best", "training")
EPOCHS = ("kept epoch", "overfitting from")
TUNED = ("run", "model", "part", *SCORES, *EPOCHS)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Settings of the page.

    Attributes:
        title: heading of the page.
    """

    title: str = "Cryobase"


def run(
    config: ReportConfig,
    *,
    sets: Mapping[str, Path],
    runs: Mapping[str, Path],
    output: Path,
    ladders: Mapping[str, Path] | None = None,
    select: Score = "accuracy",
) -> None:
    """Write `index.html`, `heads.csv`, `finetune.csv`, and copies of some pictures.

    The copies are of pictures that no stage declares as plots, so that `dvc plots` shows them.
    Results that are missing, because a colleague pulled only a part, are left out with a warning.

    Args:
        config: the page's settings.
        sets: the results directory of each feature set or pair, by name.
        runs: the results directory of each fine-tuning run, by name.
        output: directory of the report.
        ladders: output directory of `cryobase ladder` for each feature set; it need not exist.
        select: the score that orders the heads, see `EvaluateConfig.select`.

    Raises:
        DataError: there are no results of any set or run.
    """
    heads = _head_rows(sets, select)
    tuned = list(_tuned_rows(runs))
    if (sets or runs) and not (heads or tuned):
        raise DataError("report: no results; run `cryobase evaluate`")
    output.mkdir(parents=True, exist_ok=True)
    columns = (
        list(heads[0]) if heads else [*FIRST, *_scores("validation", {}), *_scores("test", {})]
    )
    write_table(output / "heads.csv", columns, (row.values() for row in heads))
    write_table(output / "finetune.csv", TUNED, (row.values() for row in tuned))
    drawn = {**sets, **{f"tuned/{name}": path for name, path in runs.items()}}
    declared = _pictures(drawn, "*.svg")
    others = [
        *_pictures(sets, "heads/*/reliability.svg", "evidence/*.svg"),
        *_pictures({f"ladder/{name}": path for name, path in (ladders or {}).items()}, "*.svg"),
    ]
    _copy(others, output / PICTURES)
    page = _page(
        title=config.title,
        select=select.replace("_", " "),
        heads=heads,
        trained=_trained(heads),
        tuned=tuned,
        pictures=[(title, _data_uri(path)) for title, path in (*declared, *others)],
    )
    write_text(output / "index.html", page)
    for row in heads:
        logger.info(
            "%s", ", ".join(f"{key} {_text(value)}" for key, value in row.items() if value != "")
        )


def _head_rows(sets: Mapping[str, Path], select: Score) -> list[dict[str, Any]]:
    """One row per head of all sets, the best first. Missing scores are blank."""
    found = {}
    for name, directory in sets.items():
        try:
            found[name] = standing.read(directory, f"run `cryobase evaluate {name}`")
        except MissingResultsError as error:
            logger.warning("%s; so it is not in the report", error)
    every = [(name, head) for name, one in found.items() for head in one.heads]
    every.sort(key=lambda pair: standing.rank(found[pair[0]].heads[pair[1]].parts, select, *pair))
    judged = [standing.judging(found[name].heads[head].parts) for name, head in every]
    shown = ["validation", *(["train"] if "train" in judged else []), "test"]
    rows = []
    for name, head in every:
        result = found[name].heads[head]
        best = "yes" if head == found[name].best else ""
        row: dict[str, Any] = {"set": name, "head": head, "best": best}
        row["training"] = result.training
        for part in shown:
            row |= _scores(part, result.parts.get(part, {}))
        rows.append(row)
    return rows


def _scores(part: str, scores: Mapping[str, float]) -> dict[str, Any]:
    return {f"{part} {score}": scores.get(score, "") for score in SCORES}


def _trained(heads: list[dict[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """For each set, the heads that its last training trained, and the heads that it reused."""
    sets: dict[str, dict[str, list[str]]] = {}
    for row in sorted(heads, key=lambda row: str(row["head"])):
        told = sets.setdefault(row["set"], {"trained": [], "reused": []})
        if row["training"]:
            told[row["training"]].append(row["head"])
    return sets


def _tuned_rows(runs: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    """Rows of scores before, between and after the phases; the last has the overfitting epoch."""
    for name, directory in runs.items():
        mend = f"run `cryobase finetune {name}`"
        try:
            metrics = standing.read_document(directory, mend)
        except MissingResultsError as error:
            logger.warning("%s; so it is not in the report", error)
            continue
        phases = [model for model in metrics if re.fullmatch(r"phase_[0-9]{1,4}", model)]
        for model in ("start", *phases, "tuned"):
            for part, scores in standing.parts_of(directory, metrics.get(model, {}), mend).items():
                row: dict[str, Any] = {"run": name, "model": model, "part": part}
                row |= {score: scores.get(score, "") for score in SCORES}
                row |= dict.fromkeys(EPOCHS, "")
                if model == "tuned":
                    known = {key: metrics.get(key.replace(" ", "_")) for key in EPOCHS}
                    row |= {key: epoch for key, epoch in known.items() if isinstance(epoch, int)}
                yield row


def _pictures(directories: Mapping[str, Path], *patterns: str) -> list[tuple[str, Path]]:
    """Title and path of every picture in directories of results that matches a pattern."""
    found = [
        (": ".join([name, *path.relative_to(directory).with_suffix("").parts]), path)
        for name, directory in directories.items()
        for pattern in patterns
        for path in sorted(directory.glob(pattern))
    ]
    if len(found) > MAX_PICTURES:
        raise DataError(
            f"report: {len(found):,} pictures, at most {MAX_PICTURES:,} are shown, the last of them"
            f" {found[-1][1]}; remove what `cryobase evaluate` has not written"
        )
    return found


def _picture(path: Path) -> bytes:
    """Read a picture of results that may come from somebody else.

    Links are refused: the page is sent to others, and a link could put a private file into it.

    Raises:
        DataError: it is not a regular file, or larger than any picture that Cryobase draws.
    """
    try:
        return read_file(path, MAX_PICTURE)
    except StoreError as error:
        raise DataError(f"{error}; remove it, then run `cryobase evaluate`") from None


def _copy(pictures: list[tuple[str, Path]], directory: Path) -> None:
    """Copy pictures into the directory where `dvc plots` looks; DVC warns if it is missing."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for title, path in pictures:
        name = re.sub(r"[^\w.-]+", "-", title)
        replace(directory / f"{name}.svg", _picture(path))


def _data_uri(path: Path) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(_picture(path)).decode('ascii')}"


def _page(**values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["text"] = _text
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(**values)


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)

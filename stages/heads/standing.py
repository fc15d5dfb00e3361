"""The ranking of the heads of a set, from the scores that `evaluate` wrote.

All ranking happens here: `evaluate`, `predict`, `cryobase heads ls` and the report use it.
"""

import csv
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cryobase.stages.errors import DataError
from cryobase.store.errors import StoreError, StoreNotFoundError
from cryobase.store.files import open_regular
from cryobase.store.text import below, component, read_json

METRICS = "metrics.json"
PREDICTIONS = "predictions.csv"  # of a head, a row per image
SCORE = "score.json"  # the few figures that DVC shows side by side
MAX_BYTES = 1 << 26
PARTS = ("validation", "train", "test")
VERBS = ("trained", "reused")

Score = Literal["accuracy", "f1_macro", "log_loss"]
Scores = Mapping[str, float]
LOWER_IS_BETTER = frozenset(("log_loss", "ece"))


def judging(parts: Mapping[str, Any]) -> str | None:
    """The part whose scores choose: validation, or train if there is no validation; never test."""
    return next((part for part in ("validation", "train") if parts.get(part)), None)


def rank(parts: Mapping[str, Scores], select: str, *names: str) -> tuple[Any, ...]:
    """A key that sorts heads, the best first.

    The order is by the score `select` on the part that chooses (see `judging`), then by the lower
    log loss, then by name. Heads without this score come last.

    Args:
        parts: the head's scores, by part of the data.
        select: name of a score, see `EvaluateConfig.select`.
        names: name of the head; if there are several sets, after the name of its set.
    """
    part = judging(parts)
    scores = parts[part] if part else {}
    chosen, loss = scores.get(select), scores.get("log_loss", math.inf)
    if chosen is None:
        return True, 0.0, loss, *names
    return False, chosen if select in LOWER_IS_BETTER else -chosen, loss, *names


def ranked(scores: Mapping[str, Mapping[str, Scores]], select: str) -> list[str]:
    """The names of the heads of one set, the best first, see `rank`."""
    return sorted(scores, key=lambda name: rank(scores[name], select, name))


def score(best: str, parts: Mapping[str, Scores]) -> dict[str, Any]:
    """The content of `score.json`: the best model's accuracy by part, with one interval.

    The interval is that of the last part. `dvc metrics show` makes a column for every figure, so
    there are few.
    """
    accuracy = {part: scores["accuracy"] for part, scores in parts.items() if "accuracy" in scores}
    judged = parts[[*accuracy][-1]] if accuracy else {}
    ends = {
        end: judged[f"accuracy_{end}"] for end in ("low", "high") if f"accuracy_{end}" in judged
    }
    return {"best": best, "accuracy": accuracy | ends}


@dataclass(frozen=True)
class HeadResult:
    """The results of `evaluate` for one head.

    Attributes:
        parts: scores by part of the data; parts without images are left out.
        training: `trained` or `reused`, or empty if unknown.
    """

    parts: Mapping[str, Scores]
    training: str = ""

    @property
    def judged(self) -> Scores:
        """The scores that choose, see `judging`."""
        part = judging(self.parts)
        return self.parts[part] if part else {}


@dataclass(frozen=True)
class Standing:
    """The heads of one set.

    Attributes:
        best: name of the head that was chosen.
        heads: all heads by name.
    """

    best: str
    heads: Mapping[str, HeadResult]


def read(results: Path, mend: str) -> Standing:
    """What `evaluate` wrote into a directory of results, which may come from somebody else.

    Raises:
        DataError: the file is missing (a `MissingResultsError`), or `evaluate` did not write it.
    """
    document = read_document(results, mend)
    try:
        heads = {component(name): _result(entry) for name, entry in document["heads"].items()}
        best = component(document["best"])
        return Standing(best, {best: heads[best], **heads})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _unusable(results / METRICS, error, mend) from None


def images(results: Path, head: str) -> dict[str, int]:
    """The number of images of each part that `evaluate` scored a head on; empty if unknown."""
    path = below(results, "heads", head, PREDICTIONS)
    try:
        with os.fdopen(open_regular(path), encoding="utf-8", errors="replace", newline="") as file:
            counts = Counter(row.get("part") for row in csv.DictReader(file))
    except (StoreError, OSError, csv.Error):
        return {}
    return {part: counts[part] for part in PARTS if counts[part]}


class MissingResultsError(DataError):
    """There is no metrics.json."""


def read_document(results: Path, mend: str) -> dict[str, Any]:
    """The `metrics.json` of a directory of results, which may come from somebody else.

    Raises:
        DataError: the file is missing (a `MissingResultsError`), or is not a JSON object.
    """
    path = results / METRICS
    try:
        return _object("it", read_json(path, MAX_BYTES))
    except StoreNotFoundError:
        raise MissingResultsError(f"{path}: no such file; {mend}") from None
    except (StoreError, TypeError, ValueError) as error:
        raise _unusable(path, error, mend) from None


def parts_of(results: Path, entry: Any, mend: str) -> dict[str, Scores]:
    """The scores by part in one entry of the `metrics.json` of a directory.

    Raises:
        DataError: the entry is not in the form that `evaluate` writes.
    """
    try:
        return _parts(entry)
    except (TypeError, ValueError) as error:
        raise _unusable(results / METRICS, error, mend) from None


def _parts(entry: Any) -> dict[str, Scores]:
    """Scores by part; parts that are null or empty are left out."""
    entry = _object("an entry", entry)
    parts = {part: _numbers(_object(part, entry.get(part) or {})) for part in PARTS}
    return {part: scores for part, scores in parts.items() if scores}


def _result(entry: Any) -> HeadResult:
    parts = _parts(entry)
    training = entry.get("training", "")
    if training not in ("", *VERBS):
        raise ValueError(f"training is {training!r:.40}, not one of {', '.join(VERBS)}")
    return HeadResult(parts, training)


def _numbers(scores: dict[str, Any]) -> dict[str, float]:
    known = {name: value for name, value in scores.items() if value is not None}
    for name, value in known.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name!r:.40} is not a number")
    return known


def _object(what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{what} is not an object")
    return value


def _unusable(path: Path, error: Exception, mend: str) -> DataError:
    reason = f"without {error}" if isinstance(error, KeyError) else str(error)
    return DataError(f"{path}: not what Cryobase writes ({reason}); {mend}")

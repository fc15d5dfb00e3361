"""How far the scores of a set can be trusted: folds, more data, labels, duplicates, leaks.

A label is doubtful if heads that were not trained on its image predict another class. Nothing here
changes labels, splits or heads.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data.splits import PARTS, Splits
from cryobase.stages.errors import DataError
from cryobase.stages.heads import plots
from cryobase.stages.heads.config import HeadParams
from cryobase.stages.heads.finished import heads_in
from cryobase.stages.heads.head import Head
from cryobase.stages.heads.resample import OutOfFold, cross_validate, folds, learning_curve
from cryobase.stages.heads.rows import Floats, LabelledRows, Positions, open_rows
from cryobase.stages.heads.side_by_side import Paths, SideBySide
from cryobase.stages.outputs import write_json, write_table

logger = logging.getLogger(__name__)

BLOCK = 1024


@dataclass(frozen=True)
class Pair:
    """Two rows that look alike.

    Attributes:
        first: the smaller of the two positions.
        second: the larger of the two positions.
        cosine: cosine of the angle between their centred features; 1 if the bytes are equal.
        exact: whether the encoded bytes are equal.
    """

    first: int
    second: int
    cosine: float
    exact: bool


def duplicates(digests: NDArray[np.uint8], positions: Positions) -> list[Pair]:
    """Images whose bytes are equal. Each later copy is paired with the first one."""
    firsts: dict[bytes, int] = {}
    pairs = []
    for position in sorted(positions.tolist()):
        first = firsts.setdefault(digests[position].tobytes(), position)
        if first != position:
            pairs.append(Pair(first, position, 1.0, True))
    return pairs


def near_duplicates(
    rows: LabelledRows, digests: NDArray[np.uint8], positions: Positions, threshold: float = 0.97
) -> list[Pair]:
    """Pairs whose centred features point the same way, closest first; equal bytes are left out.

    Features after a ReLU are never negative, so they all point in similar directions; angles tell
    images apart only after the mean is subtracted. All pairs are compared, block by block: the time
    grows with the square of the number of rows, the memory does not.
    """
    positions = np.sort(positions)
    total = np.zeros(rows.width)
    for block in _blocks(positions):
        total += rows.take(block).sum(0, dtype=np.float64)
    mean = (total / max(1, len(positions))).astype(np.float32)
    pairs = []
    for k, left in enumerate(_blocks(positions)):
        mine = _directions(rows, left, mean)
        for right in list(_blocks(positions))[k:]:
            theirs = mine if right[0] == left[0] else _directions(rows, right, mean)
            cosines = mine @ theirs.T
            for a, b in np.argwhere(cosines >= threshold):
                if left[a] < right[b] and not np.array_equal(digests[left[a]], digests[right[b]]):
                    pair = Pair(int(left[a]), int(right[b]), min(1.0, float(cosines[a, b])), False)
                    pairs.append(pair)
    return sorted(pairs, key=lambda pair: (-pair.cosine, pair.first, pair.second))


def leaks(pairs: list[Pair], train: Positions, test: Positions) -> list[Pair]:
    """The pairs with one row in `train` and the other in `test`."""
    trained, tested = set(train.tolist()), set(test.tolist())
    return [
        pair
        for pair in pairs
        if (pair.first in trained and pair.second in tested)
        or (pair.first in tested and pair.second in trained)
    ]


def _blocks(positions: Positions) -> Iterator[Positions]:
    for start in range(0, len(positions), BLOCK):
        yield positions[start : start + BLOCK]


def _directions(rows: LabelledRows, positions: Positions, mean: Floats) -> Floats:
    centred = rows.take(positions) - mean
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


@dataclass(frozen=True)
class Suspect:
    """A row whose label may be wrong.

    Attributes:
        position: position of the row.
        label: index of the class that the row is labelled with.
        predicted: index of the most probable other class.
        doubt: probability of `predicted` minus the probability of `label`; from -1 to 1.
    """

    position: int
    label: int
    predicted: int
    doubt: float


def label_suspects(answers: OutOfFold, head: str) -> list[Suspect]:
    """All rows, the most doubtful label first.

    The doubt is the negated margin of out-of-fold probabilities, the "normalized margin" of
    confident learning (Northcutt, Jiang and Chuang, 2021).
    """
    rows = np.arange(len(answers.labels))
    probabilities = answers.probabilities[head]
    others = probabilities.copy()
    others[rows, answers.labels] = -1
    rivals = others.argmax(1)
    doubts = probabilities[rows, rivals] - probabilities[rows, answers.labels]
    order = np.lexsort((answers.positions, -doubts))
    columns = (answers.positions, answers.labels, rivals, doubts.round(6))
    ordered = (column[order].tolist() for column in columns)
    return [Suspect(*row) for row in zip(*ordered, strict=True)]


FRACTIONS = (0.0625, 0.125, 0.25, 0.5, 1.0)
FIFTH = 5
FEWEST = 8  # training rows per class below which no fraction is tried


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """How thoroughly `investigate` looks.

    Attributes:
        folds: number of parts into which all rows outside the test split are divided.
        repeats: how many times they are divided, each time differently.
        cosine: the least cosine of centred features at which two images are near-duplicates.
    """

    folds: int = 5
    repeats: int = 1
    cosine: float = 0.97

    def __post_init__(self) -> None:
        if self.folds < 2 or self.repeats < 1 or not 0 < self.cosine <= 1:
            raise ValueError("folds: at least 2; repeats: at least 1; cosine: above 0, at most 1")


def investigate(
    config: Evidence, *, features: Paths, splits: Path, models: Path, best: str, output: Path
) -> dict[str, Any]:
    """Write the evidence for the heads of a set. The labels of the test split are never used.

    Args:
        config: how much to look into.
        features: directory of the set, or of several side by side.
        splits: directory of the splits.
        models: directory of the trained heads.
        best: the head chosen by validation, see `metrics.json`; its learning curve is drawn, and
            its answers are compared with the labels.
        output: gets `evidence.json`, `folds.csv`, `learning_curve.csv`, `learning_curve.svg`,
            `suspects.csv`, `duplicates.csv` and `leaks.csv`.

    Returns:
        The content of `evidence.json`.

    Raises:
        DataError: there is no head named `best`.
    """
    stored, split = SideBySide.open(features), Splits.open(splits)
    params = _params(models, best)
    rows = open_rows(stored, max(head_params.views for head_params in params.values()))
    parts = {part: stored.examples.positions(stored.having(split.ids(part))) for part in PARTS}
    seen = np.sort(np.concatenate([parts["train"], parts["validation"]]))
    tries = [
        cross_validate(rows, seen, _fold(stored, seen, config, k), params)
        for k in range(config.repeats)
    ]
    suspects = label_suspects(tries[0], best)
    pairs, leaked = _alike(rows, stored, parts, config.cosine)
    output.mkdir(parents=True, exist_ok=True)
    _write_rows(output, stored, suspects, {"duplicates.csv": pairs, "leaks.csv": leaked})
    summary = {
        "best": best,
        "folds": _write_folds(output / "folds.csv", tries),
        "learning_curve": _write_curve(output, rows, parts, params[best]),
        "suspects": sum(suspect.doubt > 0 for suspect in suspects),
        "duplicates": sum(pair.exact for pair in pairs),
        "near_duplicates": sum(not pair.exact for pair in pairs),
        "leaks": len(leaked),
    }
    write_json(output / "evidence.json", summary)
    return summary


def _params(models: Path, best: str) -> dict[str, HeadParams]:
    params = {path.name: Head.load(path).params for path in heads_in(models)}
    if best not in params:
        raise DataError(f"{models}: no head {best!r}; known: {', '.join(params) or 'none'}")
    return params


def _alike(
    rows: LabelledRows, stored: SideBySide, parts: Mapping[str, Positions], cosine: float
) -> tuple[list[Pair], list[Pair]]:
    """Duplicates and near-duplicates, and the pairs with only one image in the test split."""
    positions = np.concatenate(list(parts.values()))
    pairs = duplicates(stored.examples.digests, positions)
    pairs += near_duplicates(rows, stored.examples.digests, positions, cosine)
    seen = np.concatenate([parts["train"], parts["validation"]])
    return pairs, leaks(pairs, seen, parts["test"])


def _fold(stored: SideBySide, seen: Positions, config: Evidence, seed: int) -> NDArray[np.int64]:
    examples = stored.examples
    return folds(examples.labels[seen], examples.digests[seen], config.folds, seed)


def _fractions(learnt: Positions, rows: LabelledRows) -> Sequence[float]:
    fewest = FEWEST * len(rows.classes)
    return [f for f in FRACTIONS if f * len(learnt) >= fewest] or [1.0]


def _held_out(rows: LabelledRows, train: Positions) -> tuple[Positions, Positions]:
    """Four fifths of the training rows and the other fifth, with equal shares of each class."""
    order = np.random.Generator(np.random.Philox(key=[rows.key, 13])).permutation(train)
    order = order[np.argsort(rows.labels[order], kind="stable")]
    held = np.arange(len(order)) % FIFTH == FIFTH - 1
    return np.sort(order[~held]), np.sort(order[held])


def _write_folds(path: Path, tries: Sequence[OutOfFold]) -> dict[str, dict[str, float | None]]:
    """One row per head: mean and deviation of the accuracy over all folds, best first."""
    table: dict[str, dict[str, float | None]] = {}
    for head in tries[0].probabilities:
        accuracies = np.concatenate([attempt.accuracies(head) for attempt in tries])
        table[head] = {
            "accuracy": round(float(accuracies.mean()), 6),
            "deviation": round(float(accuracies.std(ddof=1)), 6) if len(accuracies) > 1 else None,
        }
    table = dict(sorted(table.items(), key=lambda item: (-(item[1]["accuracy"] or 0), item[0])))
    rows = ((head, *row.values()) for head, row in table.items())
    write_table(path, ("head", "accuracy", "deviation"), rows)
    return table


def _write_curve(
    output: Path, rows: LabelledRows, parts: Mapping[str, Positions], params: HeadParams
) -> dict[str, Any]:
    """Write the learning curve; return it with the gain from the last doubling of the data."""
    learnt, judged = parts["train"], parts["validation"]
    if not len(judged):  # no validation rows: hold out a fifth of the training rows instead
        learnt, judged = _held_out(rows, learnt)
    fractions = _fractions(learnt, rows)
    curve = list(learning_curve(rows, learnt, judged, params, fractions))
    write_table(output / "learning_curve.csv", ("images", "accuracy"), curve)
    plots.data_curve(output / "learning_curve.svg", curve)
    summary: dict[str, Any] = {"images": [n for n, _ in curve], "accuracy": [a for _, a in curve]}
    if len(curve) > 1:
        (_, before), (_, after) = curve[-2:]
        error = (after * (1 - after) / len(judged)) ** 0.5
        summary["last_doubling"] = round(after - before, 6)
        summary["standard_error"] = round(error, 6)
        summary["more_images_help"] = bool(after - before > error)
    return summary


def _write_rows(
    output: Path,
    stored: SideBySide,
    suspects: Sequence[Suspect],
    tables: Mapping[str, Sequence[Pair]],
) -> None:
    ids = [example.decode() for example in stored.examples.ids]
    classes = stored.classes
    doubtful = (
        (ids[one.position], classes[one.label], classes[one.predicted], one.doubt)
        for one in suspects
    )
    write_table(output / "suspects.csv", ("id", "label", "looks_like", "doubt"), doubtful)
    for name, pairs in tables.items():
        rows = (
            (ids[one.first], ids[one.second], f"{one.cosine:.4f}", "yes" if one.exact else "")
            for one in pairs
        )
        write_table(output / name, ("first", "second", "cosine", "same_bytes"), rows)

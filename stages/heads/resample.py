"""Training again on parts of the rows: folds, repeated folds, fractions. Seconds, for features."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.heads.config import HeadParams
from cryobase.stages.heads.head import Trained, forward, to_probabilities
from cryobase.stages.heads.kinds import train
from cryobase.stages.heads.rows import READ, Floats, LabelledRows, Positions, Task

INNER = 10  # one row in ten of a fold's training rows chooses the number of epochs


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What heads say of rows that they were not trained on.

    Attributes:
        positions: (n,) of the rows.
        fold: (n,) in which each was held out.
        probabilities: by head, (n, classes).
        labels: (n,).
    """

    positions: Positions
    fold: NDArray[np.int64]
    probabilities: Mapping[str, NDArray[np.float64]]
    labels: NDArray[np.int32]

    def accuracies(self, head: str) -> NDArray[np.float64]:
        """The accuracy of each fold."""
        right = self.probabilities[head].argmax(1) == self.labels
        return np.array([right[self.fold == k].mean() for k in np.unique(self.fold)])


def folds(
    labels: NDArray[np.int32], images: NDArray[np.uint8], count: int, seed: int = 0
) -> NDArray[np.int64]:
    """A fold (n,) for each row: classes spread evenly, equal images in one fold.

    Args:
        labels: (n,).
        images: (n, 32) the digests.
        count: of folds.
        seed: of the assignment.
    """
    keys = np.ascontiguousarray(images).view("V32").ravel()
    _, first, same = np.unique(keys, return_index=True, return_inverse=True)
    random = np.random.Generator(np.random.Philox(key=[seed, count]))
    order = random.permutation(len(first))
    by_class = order[np.argsort(labels[first[order]], kind="stable")]
    fold = np.empty(len(first), np.int64)
    fold[by_class] = np.arange(len(first)) % count
    return fold[same.ravel()]


def cross_validate(
    rows: LabelledRows,
    positions: Positions,
    fold: NDArray[np.int64],
    heads: Mapping[str, HeadParams],
) -> OutOfFold:
    """Train the heads once per fold on the other folds, and let them answer for it.

    The number of epochs is chosen on a tenth of the training rows, then a head is trained on all of
    them: nothing of the held-out fold takes part.
    """
    classes = len(rows.classes)
    found = {name: np.zeros((len(positions), classes)) for name in heads}
    for k in np.unique(fold):
        held = np.flatnonzero(fold == k)
        trained = refit(rows, positions[fold != k], heads)
        for start in range(0, len(held), READ):
            some = held[start : start + READ]
            features = rows.take(positions[some])
            for name, one in trained.items():
                found[name][some] = _probabilities(one, heads[name], features)
    return OutOfFold(positions, fold, found, rows.labels[positions])


def refit(
    rows: LabelledRows, positions: Positions, heads: Mapping[str, HeadParams]
) -> dict[str, Trained]:
    """Heads trained on all the given rows, for as many epochs as a tenth of them found best."""
    shuffled = np.random.Generator(np.random.Philox(key=[rows.key, 7])).permutation(positions)
    inner = len(shuffled) // INNER
    chosen = train(Task(rows, shuffled[inner:], shuffled[:inner]), heads)
    fixed = {
        name: dataclasses.replace(
            params, epochs=chosen[name].history.best_epoch or params.epochs, patience=0
        )
        for name, params in heads.items()
    }
    iterated = {name: params for name, params in fixed.items() if len(chosen[name].history)}
    solved = {name: heads[name] for name in heads if name not in iterated}
    again = train(Task(rows, positions, positions[:0]), iterated)
    again |= train(Task(rows, positions, shuffled[:inner]), solved)
    return {name: again[name] for name in heads}


def learning_curve(
    rows: LabelledRows,
    train_rows: Positions,
    judged: Positions,
    params: HeadParams,
    fractions: Sequence[float],
) -> Iterator[tuple[int, float]]:
    """Number of training rows and accuracy on `judged`, for nested fractions of `train_rows`."""
    order = np.random.Generator(np.random.Philox(key=[rows.key, 11])).permutation(train_rows)
    for fraction in sorted(fractions):
        some = order[: max(len(rows.classes), round(fraction * len(order)))]
        one = refit(rows, some, {"head": params})["head"]
        right = sum(
            int((_probabilities(one, params, x).argmax(1) == y).sum())
            for x, y in Task(rows, train_rows, judged).in_order(judged)
        )
        yield len(some), right / len(judged)


def _probabilities(one: Trained, params: HeadParams, x: Floats) -> NDArray[np.float64]:
    return to_probabilities(forward(x, one.layers, one.mean, one.scale, params.activation))

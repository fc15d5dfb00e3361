"""Training again on parts of the rows: folds, repeated folds, fractions.

On stored features this takes seconds. Nothing here keeps the heads that it trains.
"""

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
    """Answers of heads for rows that they were not trained on.

    Attributes:
        positions: (n,) positions of the rows.
        fold: (n,) the fold in which each row was held out.
        probabilities: (n, classes) by head.
        labels: (n,) true classes.
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
    """A fold (n,) for each row. Classes are spread evenly; equal images share a fold.

    Args:
        labels: (n,) classes.
        images: (n, 32) digests of the images.
        count: number of folds.
        seed: seed of the assignment.
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
    """For each fold, train the heads on the other folds and compute their answers for this fold.

    The number of epochs is chosen on a tenth of the training rows; then a head is trained on all of
    them. So the held-out fold influences nothing.
    """
    classes = len(rows.classes)
    probabilities = {name: np.zeros((len(positions), classes)) for name in heads}
    for k in np.unique(fold):
        held = np.flatnonzero(fold == k)
        trained = refit(rows, positions[fold != k], heads)
        for start in range(0, len(held), READ):
            some = held[start : start + READ]
            features = rows.take(positions[some])
            for name, head in trained.items():
                probabilities[name][some] = _probabilities(head, heads[name], features)
    return OutOfFold(positions, fold, probabilities, rows.labels[positions])


def refit(
    rows: LabelledRows, positions: Positions, heads: Mapping[str, HeadParams]
) -> dict[str, Trained]:
    """Heads trained on all the given rows. A tenth of the rows chooses the number of epochs."""
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
    """Pairs of a number of training rows and the accuracy on `judged`.

    The fractions of `train_rows` are nested: each contains the smaller ones.
    """
    order = np.random.Generator(np.random.Philox(key=[rows.key, 11])).permutation(train_rows)
    for fraction in sorted(fractions):
        some = order[: max(len(rows.classes), round(fraction * len(order)))]
        head = refit(rows, some, {"head": params})["head"]
        right = sum(
            int((_probabilities(head, params, x).argmax(1) == y).sum())
            for x, y in Task(rows, train_rows, judged).in_order(judged)
        )
        yield len(some), right / len(judged)


def _probabilities(head: Trained, params: HeadParams, x: Floats) -> NDArray[np.float64]:
    return to_probabilities(forward(x, head.layers, head.mean, head.scale, params.activation))

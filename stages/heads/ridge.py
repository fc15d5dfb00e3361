"""The exact least-squares classifier, for every penalty at once, from one scan of the rows.

As in scikit-learn's `RidgeClassifier`, targets are +1 for a row's class and -1 for the others, and
the intercept is not penalised. The scan keeps the Gram matrix, never the rows. One eigenvalue
decomposition of it then solves for all penalties (Hastie, Tibshirani and Friedman, 2009, 3.4.1).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial, reduce

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.errors import ConfigError
from cryobase.stages.heads.config import HeadParams
from cryobase.stages.heads.head import Layer, Trained, forward
from cryobase.stages.heads.history import History
from cryobase.stages.heads.rows import Batch, Floats, Task, memory_limit, weigh_classes

Doubles = NDArray[np.float64]
MAX_TEMPERATURE = 100.0
PARTITION = 1 << 16  # rows that one worker sums up


@dataclass(frozen=True, eq=False)
class Gram:
    """Sums over rows, after `shift` was subtracted from each row to keep rounding errors small.

    Sums with the same shift can be added: partitions of the rows may be summed on different
    machines and merged with `+`.
    """

    shift: Doubles  # (width,)
    rows: Doubles  # (): number of rows
    sums: Doubles  # (width,)
    squares: Doubles  # (width,)
    weight: Doubles  # (): sum of the weights; this and the fields below are weighted by class
    weighted: Doubles  # (width,)
    products: Doubles  # (width, width)
    targets: Doubles  # (classes,)
    cross: Doubles  # (width, classes)

    @classmethod
    def zeros(cls, shift: Doubles, classes: int) -> "Gram":
        """The sums before any row is added: all zero."""
        d = len(shift)
        shapes: list[tuple[int, ...]] = [(), (d,), (d,), (), (d,), (d, d), (classes,), (d, classes)]
        return cls(shift, *map(np.zeros, shapes))

    def __add__(self, other: "Gram") -> "Gram":
        if not np.array_equal(self.shift, other.shift):
            raise ValueError("Gram matrices around different shifts")
        names = [field.name for field in fields(self)[1:]]
        return Gram(self.shift, *(getattr(self, n) + getattr(other, n) for n in names))

    def add(self, batch: Batch, class_weights: Floats) -> None:
        """Add rows in place."""
        features, labels = batch
        x = features.astype(np.float64) - self.shift
        weights = class_weights.astype(np.float64)[labels]
        y = np.where(labels[:, None] == np.arange(len(self.targets)), 1.0, -1.0)
        root = x * np.sqrt(weights)[:, None]
        parts = {
            "rows": len(x),
            "sums": x.sum(0),
            "squares": np.square(x).sum(0),
            "weight": weights.sum(),
            "weighted": weights @ x,
            "products": root.T @ root,
            "targets": weights @ y,
            "cross": x.T @ (weights[:, None] * y),
        }
        for name, part in parts.items():
            total = getattr(self, name)
            np.add(total, part, out=total)

    def scale(self) -> tuple[Doubles, Doubles]:
        """Mean and deviation (width,) of the rows; deviation 1 where a feature is constant."""
        mean = self.sums / self.rows
        deviation = np.sqrt(np.maximum(self.squares / self.rows - mean**2, 0))
        return self.shift + mean, np.where(deviation > 1e-6, deviation, 1)

    def solve(
        self, penalties: Iterable[float], mean: Doubles, scale: Doubles
    ) -> list[tuple[Doubles, Doubles]]:
        """Kernel (width, classes) and bias (classes,) on (x - mean) / scale, per penalty."""
        centre = self.weighted / self.weight
        target = self.targets / self.weight
        products = self.products - np.outer(self.weighted, centre)
        cross = (self.cross - np.outer(self.weighted, target)) / scale[:, None]
        values, vectors = np.linalg.eigh(products / scale[:, None] / scale)
        projected = vectors.T @ cross
        origin = (centre + self.shift - mean) / scale
        kernels = [
            vectors @ (projected / (np.maximum(values, 0) + penalty)[:, None])
            for penalty in penalties
        ]
        return [(kernel, target - origin @ kernel) for kernel in kernels]


def train(task: Task, heads: Mapping[str, HeadParams]) -> dict[str, Trained]:
    """Solve all ridge heads of a task; the module describes how.

    One scan gives the sums for all class weights. Then the outputs of each head are multiplied by
    one number, so that its probabilities fit the validation rows. This changes no predicted class.

    Raises:
        ConfigError: the features are too wide for a Gram matrix in memory.
    """
    width = task.rows.width
    weights = {_key(params): params.class_weights for params in heads.values()}
    if 3 * 8 * width**2 * len(weights) > memory_limit():
        raise ConfigError(
            f"ridge: features of {width:,} values need a Gram matrix of {8 * width**2 >> 30} GiB;"
            " pool them (output: avg) or take kind: linear"
        )
    grams = accumulate(task, weights)
    trained: dict[str, Trained] = {}
    for name, (layer, mean, scale) in _solutions(grams, heads).items():
        scaled = heads[name].standardize
        trained[name] = Trained(
            (layer,), mean if scaled else None, scale if scaled else None, History()
        )
    return _tempered(task, trained)


def accumulate(task: Task, weights: Mapping[str, str | Mapping[str, float]]) -> dict[str, Gram]:
    """The sums over the training rows for each kind of class weights, in one scan.

    If the task has an executor, its workers sum up partitions of the rows; then the sums are
    merged.
    """
    shift = task.rows.take(task.train[:1024]).mean(0, dtype=np.float64)
    labels = task.rows.labels[task.train]
    vectors = {key: weigh_classes(kind, labels, task.rows.classes) for key, kind in weights.items()}
    if task.executor is None:
        return _sums(task, shift, vectors)
    parts = [
        Task(task.rows, task.train[start : start + PARTITION], task.validation[:0])
        for start in range(0, len(task.train), PARTITION)
    ]
    sums = task.executor.map(partial(_sums, shift=shift, vectors=vectors), parts)
    return reduce(_merged, sums)


def _sums(task: Task, shift: Doubles, vectors: Mapping[str, Floats]) -> dict[str, Gram]:
    grams = {key: Gram.zeros(shift, len(task.rows.classes)) for key in vectors}
    for batch in task.in_order(task.train):
        for key, gram in grams.items():
            gram.add(batch, vectors[key])
    return grams


def _merged(some: dict[str, Gram], others: dict[str, Gram]) -> dict[str, Gram]:
    return {key: gram + others[key] for key, gram in some.items()}


def _key(params: HeadParams) -> str:
    return json.dumps(params.class_weights, sort_keys=True)


def _solutions(
    grams: Mapping[str, Gram], heads: Mapping[str, HeadParams]
) -> dict[str, tuple[Layer, Floats, Floats]]:
    groups: dict[tuple[str, bool], list[str]] = {}
    for name, params in heads.items():
        groups.setdefault((_key(params), params.standardize), []).append(name)
    solutions = {}
    for (key, standardize), names in groups.items():
        mean, scale = (part.astype(np.float32) for part in grams[key].scale())
        if not standardize:
            mean, scale = np.zeros_like(mean), np.ones_like(scale)
        solved = grams[key].solve(
            [heads[name].penalty for name in names], mean.astype(float), scale.astype(float)
        )
        for name, (kernel, bias) in zip(names, solved, strict=True):
            layer = kernel.astype(np.float32), bias.astype(np.float32)
            solutions[name] = (layer, mean, scale)
    return {name: solutions[name] for name in heads}


def _tempered(task: Task, trained: Mapping[str, Trained]) -> dict[str, Trained]:
    """The heads, their outputs scaled for the lowest log loss on the validation rows.

    Without validation rows, the heads are returned unchanged.
    """
    if not len(task.validation):
        return dict(trained)
    outputs: dict[str, list[Doubles]] = {name: [] for name in trained}
    for features, _ in task.in_order(task.validation):
        for name, head in trained.items():
            logits = forward(features, head.layers, head.mean, head.scale)
            outputs[name].append(logits.astype(np.float64))
    labels = task.rows.labels[task.validation]
    tempered = {}
    for name, head in trained.items():
        factor = temperature(np.concatenate(outputs[name]), labels)
        kernel, bias = (np.float32(factor) * part for part in head.layers[0])
        tempered[name] = Trained(((kernel, bias),), head.mean, head.scale, head.history)
    return tempered


def temperature(logits: Doubles, labels: NDArray[np.int32]) -> float:
    """The factor, 1 to 100, that makes the log loss of softmax(factor * logits) the lowest.

    Guo et al., 2017. The loss is convex in the factor, so a golden-section search finds it.
    """
    low, high = 1.0, MAX_TEMPERATURE
    golden = (5**0.5 - 1) / 2
    while high - low > 1e-3 * high:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if _log_loss(left * logits, labels) < _log_loss(right * logits, labels):
            high = right
        else:
            low = left
    return (low + high) / 2


def _log_loss(logits: Doubles, labels: NDArray[np.int32]) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    chosen = shifted[np.arange(len(labels)), labels]
    return float((np.log(np.exp(shifted).sum(1)) - chosen).mean())

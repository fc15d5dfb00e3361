"""The rows that heads learn from: where they are stored, and the order in which they are read.

The order of an epoch is the store's; nothing here shuffles rows by itself.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.heads.side_by_side import SideBySide
from cryobase.store.epochs import drawn_views, shuffled
from cryobase.store.parallel import ordered_map

Floats = NDArray[np.float32]
Positions = NDArray[np.signedinteger]
Batch = tuple[Floats, NDArray[np.int32]]

READ = 1024  # rows of one read when nothing is trained
LARGEST_IN_MEMORY = 1 << 30


class LabelledRows(Protocol):
    """Features with labels. Positions count along the examples of the set."""

    labels: NDArray[np.int32]
    classes: tuple[str, ...]
    width: int
    key: int  # seed of the order of the rows: it belongs to the set, not to a head

    def take(self, positions: Positions, views: Positions | None = None) -> Floats:
        """Features (m, width), of view 0 or of one view per row."""
        ...

    def read(
        self, positions: Positions, size: int, views: Positions | None = None
    ) -> Iterator[Batch]:
        """The same features with their labels, `size` rows at a time, read ahead."""
        ...


class ArrayRows:
    """Rows in memory.

    Args:
        features: (n, ...) of view 0; further arrays of the same shape hold the other views.
        labels: (n,) indices into `classes`.
        classes: names of the classes.
        key: seed of the order of the rows.
    """

    def __init__(
        self,
        *features: Floats,
        labels: NDArray[np.int32],
        classes: tuple[str, ...],
        key: int = 0,
    ) -> None:
        self._views = [np.ascontiguousarray(view.reshape(len(labels), -1)) for view in features]
        self.labels = labels
        self.classes = classes
        self.width = self._views[0].shape[1]
        self.key = key

    def take(self, positions: Positions, views: Positions | None = None) -> Floats:
        """See `LabelledRows.take`."""
        if views is None:
            return self._views[0][positions]
        taken = np.empty((len(positions), self.width), np.float32)
        for view in np.unique(views):
            taken[views == view] = self._views[view][positions[views == view]]
        return taken

    def read(
        self, positions: Positions, size: int, views: Positions | None = None
    ) -> Iterator[Batch]:
        """See `LabelledRows.read`."""

        def batch(start: int) -> Batch:
            part = slice(start, start + size)
            chosen = positions[part]
            return self.take(chosen, None if views is None else views[part]), self.labels[chosen]

        return ordered_map(batch, range(0, len(positions), size), workers=1, ahead=2)


class StoredRows:
    """Rows of a published feature set, read when they are needed."""

    def __init__(self, features: SideBySide) -> None:
        self._set = features
        self.labels = features.examples.labels
        self.classes = features.classes
        self.width = int(np.prod(features.feature_shape))
        self.key = int(hashlib.sha256(features.digest.encode()).hexdigest()[:16], 16)

    def take(self, positions: Positions, views: Positions | None = None) -> Floats:
        """See `LabelledRows.take`."""
        nothing = np.empty((0, self.width), np.float32)
        return next((x for x, _ in self.read(positions, len(positions) or 1, views)), nothing)

    def read(
        self, positions: Positions, size: int, views: Positions | None = None
    ) -> Iterator[Batch]:
        """See `LabelledRows.read`."""
        return self._set.read(positions, size, views)

    def in_memory(self, views: int = 0) -> ArrayRows:
        """The same rows, all read at once. Quarantined examples have no row; they become zeros."""
        good = np.flatnonzero(~self._set.examples.quarantined)
        arrays = []
        for view in range(views + 1):
            array = np.zeros((len(self.labels), self.width), np.float32)
            batches = self.read(good, READ, np.full(len(good), view))
            for start, (features, _) in zip(range(0, len(good), READ), batches, strict=True):
                array[good[start : start + READ]] = features
            arrays.append(array)
        return ArrayRows(*arrays, labels=self.labels, classes=self.classes, key=self.key)


def open_rows(features: SideBySide, views: int = 0, *, stored: bool = False) -> LabelledRows:
    """The rows of a set. They are read into memory if they need a small part of what is allowed.

    Args:
        features: the set.
        views: the highest view that is read.
        stored: never read them into memory.
    """
    rows = StoredRows(features)
    if stored:
        return rows
    size = len(rows.labels) * rows.width * 4 * (views + 1)
    return rows.in_memory(views) if size <= min(LARGEST_IN_MEMORY, memory_limit() // 8) else rows


def memory_limit() -> int:
    """Bytes that this process may use: the least of machine, control group and `ulimit`."""
    import resource

    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft = resource.getrlimit(limit)[0]
        limits += [soft] if soft != resource.RLIM_INFINITY else []
    group = Path("/sys/fs/cgroup/memory.max")
    text = group.read_text().strip() if group.exists() else "max"
    return min(limits + ([int(text)] if text.isdigit() else []))


@dataclass(frozen=True, eq=False)
class Task:
    """What heads learn from: rows, and which of them train and which validate.

    Attributes:
        rows: features and labels.
        train: positions of the training rows.
        validation: positions of the rows that decide on the best epoch; if empty, the last epoch
            is kept.
        executor: computes sums over many rows, for example `distributed.Client.get_executor()`.
            Its workers read the rows themselves, so they must see the set at the same path.
    """

    rows: LabelledRows
    train: Positions
    validation: Positions
    executor: Executor | None = None

    def epoch(self, epoch: int, size: int, views: int = 0) -> Iterator[Batch]:
        """All training rows in the order of one epoch, `size` at a time; the last may be fewer."""
        order = shuffled(self.train, self.rows.key, epoch)
        every = range(views + 1)
        drawn = drawn_views(len(order), self.rows.key, epoch, every) if views else None
        return self.rows.read(order, size, drawn)

    def in_order(self, positions: Positions, size: int = READ) -> Iterator[Batch]:
        """The plain view of rows, in the order of `positions`."""
        return self.rows.read(positions, size)


def fit_scale(task: Task) -> tuple[Floats, Floats]:
    """Mean and deviation (width,) of the training rows, in one scan.

    Batches are merged in float64 by Chan, Golub and LeVeque's update. A constant feature has
    scale 1.
    """
    count, mean = 0, np.zeros(task.rows.width)
    squares = np.zeros(task.rows.width)
    for features, _ in task.in_order(task.train):
        batch = features.mean(0, dtype=np.float64)
        shift, total = batch - mean, count + len(features)
        squares += np.square(features - batch).sum(0) + shift**2 * (count * len(features) / total)
        mean += shift * (len(features) / total)
        count = total
    deviation = np.sqrt(squares / max(count, 1))
    scale = np.where(deviation > 1e-6, deviation, 1)
    return mean.astype(np.float32), scale.astype(np.float32)


def weigh_classes(
    weights: str | Mapping[str, float], labels: NDArray[np.int32], classes: tuple[str, ...]
) -> Floats:
    """One weight per class (classes,): all 1, `balanced` or as given by name.

    Balanced weights are n / (classes x count), scikit-learn's `class_weight="balanced"`.
    """
    if isinstance(weights, str):
        counts = np.bincount(labels, minlength=len(classes))
        balanced = len(labels) / (len(classes) * np.maximum(counts, 1))
        return (balanced if weights == "balanced" else np.ones(len(classes))).astype(np.float32)
    return np.array([weights.get(name, 1) for name in classes], np.float32)

"""Feature sets in the forms that PyTorch's `DataLoader` accepts. PyTorch is not a dependency.

Both classes are plain objects that follow `torch.utils.data`. They may be forked and pickled. A
forked process reads the parent's open files by position, so processes share no file offset. A
spawned process opens the files again.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryobase.store import FeatureSet

_LARGEST = (1 << 64) - 1


class Samples(list[tuple[NDArray[np.float32], int]]):
    """A list of single examples for any `collate_fn`, which also keeps the arrays of the batch."""

    def __init__(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        super().__init__(zip(features, labels.tolist(), strict=True))
        self.features, self.labels = features, labels


class TorchDataset:
    """A map-style dataset: item k is the feature (…) float32 and the label of the k-th example.

    Give `collate` to the loader as `collate_fn`: it returns a batch as it was read, without
    stacking rows again.

    Args:
        features: The set.
        ids: Ids of the examples, in order; if None, all examples with features, ordered by id.
        view: 0 for the plain image.

    Raises:
        UnknownExampleError: an id or view is not in the set, or an example is in quarantine.
    """

    def __init__(self, features: FeatureSet, ids: ArrayLike | None = None, view: int = 0) -> None:
        self.features, self.view = features, view
        self._positions = features.positions(ids)
        features.take(self._positions[:0], view)  # refuses an unknown one

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], int]:
        """One example.

        Raises:
            IndexError: the index is out of range.
        """
        rows, labels = self.features.take(self._positions[np.array([index])], self.view)
        return rows[0], int(labels[0])

    def __getitems__(self, indices: Sequence[int]) -> Samples:
        """A batch in one read; loaders that support it call this instead of `__getitem__`."""
        chosen = self._positions[np.asarray(indices, np.int64)]
        rows, labels = self.features.take(chosen, self.view)
        return Samples(rows, labels.astype(np.int64))

    @staticmethod
    def collate(samples: Samples) -> Any:
        """The features (n, …) and labels (n,) of a batch, as tensors where PyTorch is loaded."""
        return tensors(samples.features, samples.labels)


def tensors(features: NDArray[np.float32], labels: NDArray[np.int64]) -> Any:
    """Arrays, or tensors that share their memory where PyTorch is loaded."""
    if torch := sys.modules.get("torch"):
        return torch.from_numpy(features), torch.from_numpy(labels)
    return features, labels


class TorchBatches:
    """An iterable dataset of whole batches, for `DataLoader(batches, batch_size=None)`.

    The batches of an epoch are divided among the workers of a loader, and among the processes of a
    distributed run. Each pass has a different order. After `set_epoch`, a pass has the order of
    that epoch, for any number of workers. With `ranks`, call it before each epoch, so that all
    processes have the same order.

    Args:
        features: The set.
        ids: Ids of the examples; if None, all examples with features, ordered by id.
        size: Examples in a batch; the last batch may have fewer.
        shuffle: Whether the order is random; else it is the order of `ids`.
        block: With `shuffle`, the longest run of rows that lie side by side on disk and stay
            together; see `FeatureSet.batches`.
        seed: Seed of the order and of the views.
        views: For each example, a view from 0 to this number is drawn.
        rank: Number of this process, from 0 to `ranks` - 1.
        ranks: Number of processes that share the batches.
        drop_last: Whether to leave out an incomplete batch, and batches that would give some ranks
            more than others.

    Raises:
        UnknownExampleError: an id or view is not in the set, or an example is in quarantine.
        ValueError: the size is below 1, or the rank is out of range.
    """

    def __init__(
        self,
        features: FeatureSet,
        ids: ArrayLike | None = None,
        *,
        size: int = 256,
        shuffle: bool = False,
        block: int = 16,
        seed: int = 0,
        views: int = 0,
        rank: int = 0,
        ranks: int = 1,
        drop_last: bool = False,
    ) -> None:
        if size < 1 or not 0 <= rank < ranks:
            raise ValueError(f"size {size}, rank {rank} of {ranks}: 1 or more, and 0 to ranks - 1")
        self.features, self.size, self.shuffle, self.block = features, size, shuffle, block
        self.seed, self.views, self.rank, self.ranks = seed, views, rank, ranks
        self._positions = features.positions(ids)
        features.epoch(self._positions[:0], shuffle=False, views=views)  # refuses an unknown one
        whole = len(self._positions) // size // ranks * ranks
        self._batches = whole if drop_last else -(-len(self._positions) // size)
        self._epoch: int | None = None  # that was set
        self._passes = 0

    def __len__(self) -> int:
        """Number of batches of an epoch for this rank, over all of its workers."""
        return len(range(self.rank, self._batches, self.ranks))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order the next pass has; call it before each epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        """Features (n, …) and labels (n,) of each batch, as tensors where PyTorch is loaded."""
        worker, workers, base = _worker()
        own = base if self.ranks == 1 else 0  # processes draw different seeds, but must agree
        epoch, seed = self._passes, (self.seed + own) & _LARGEST
        self._passes += 1
        if self._epoch is not None:
            epoch, seed = self._epoch, self.seed
        order, drawn = self.features.epoch(
            self._positions, shuffle=self.shuffle, block=self.block, seed=seed, epoch=epoch,
            views=self.views,
        )  # fmt: skip
        first, step = self.rank + worker * self.ranks, self.ranks * workers
        count = min(len(order), self._batches * self.size)
        mine = slice(count) if step == 1 else _strided(count, self.size, first, step)
        chosen, views = order[mine], None if drawn is None else drawn[mine]
        for rows, labels in self.features.read(chosen, self.size, views):
            yield tensors(rows, labels.astype(np.int64))  # which a loader hands on as they are


def _strided(count: int, size: int, first: int, step: int) -> NDArray[np.int64]:
    """The places of every `step`-th batch of `count` examples, from batch `first` on."""
    starts = np.arange(first * size, count, step * size, dtype=np.int64)
    places = (starts[:, None] + np.arange(size)).ravel()
    return places[places < count]


def _worker() -> tuple[int, int, int]:
    """Number of this worker, number of workers, and the seed that the loader drew for them all."""
    data = sys.modules.get("torch.utils.data")
    found = data.get_worker_info() if data else None
    return (found.id, found.num_workers, found.seed - found.id) if found else (0, 1, 0)


def register() -> None:
    """Register `TorchBatches` as iterable: a loader checks the class, not its methods."""
    try:
        import torch.utils.data
    except ImportError:
        return
    torch.utils.data.IterableDataset.register(TorchBatches)

"""Reading a published feature set: opening, arrays, batches and epochs, Dask.

Every part of Cryobase that trains on stored rows reads them here. This module never writes.
"""

import logging
import os
import shlex
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryobase.store.canary import load_canary
from cryobase.store.epochs import drawn_views, shuffled
from cryobase.store.errors import IntegrityError, StoreNotFoundError, UnknownExampleError, mended_by
from cryobase.store.examples import Examples, ExamplesFile
from cryobase.store.keys import BLOCK, KeyIndex, Positions, words_of_rows
from cryobase.store.manifest import Manifest, Published, load, set_digest
from cryobase.store.parallel import ordered_map
from cryobase.store.rows import Numbers, Rows, sum_of_live, widened
from cryobase.store.shard import Digests

log = logging.getLogger(__name__)

Features = NDArray[np.float32]
Labels = NDArray[np.int32]

_BLOCK = 1 << 20  # bytes that are read at once
_CHUNK_BYTES = 1 << 26  # of a Dask array
_LARGE = 1 << 21  # bytes; a larger batch is read by itself, only one batch ahead
_PLANNED = 1 << 14  # rows whose reading is planned at once
_PARTS = 16  # most parts of the index; the examples' digests are read once for each part


class FeatureSet:
    """A published feature set: features with their ids, labels and classes.

    It needs only its directory. An opened set stays readable and unchanged while another process
    publishes the next version. A million examples take 5 MB of memory, or more if `examples` is
    used.

    Attributes:
        directory: The set's directory.
        manifest: The set's manifest.
        spec: The feature spec.
        examples: Ids, digests, labels and quarantine; read at the first use.
        classes: The names of the classes, in order.
        feature_shape: The shape of one row.
        views: The highest view; 0 if only plain images are stored.
        digest: 64 hex digits; equal content has an equal digest, however rows are sharded.
        table: The rows by number, in the stored dtype.
    """

    def __init__(self, directory: Path, manifest: Manifest, *, full: bool = False) -> None:
        if manifest.published is None:
            raise StoreNotFoundError(f"{directory}: a pool, not a feature set")
        self.directory, self.manifest = Path(directory), manifest
        self.spec, self.classes = manifest.spec, manifest.published.classes
        self.views, self.digest = manifest.published.views, manifest.published.digest
        self.feature_shape = manifest.feature_shape or ()
        with mended_by(mend := mend_of(directory)):
            examples = manifest.published.examples
            self._file = ExamplesFile(directory, examples, self.classes, full=full)
            self.table = Rows(directory, manifest, full=full)
            self.table.mend = mend
            self._find_rows(manifest.published)
            if full:
                self._check_content()

    def _find_rows(self, published: Published) -> None:
        self._labels, hidden = self._file.labels()
        if (len(self._labels), hidden) != (published.count, published.quarantined):
            raise IntegrityError(f"{self._file.path}: not as many examples as the manifest says")
        self._rows = _rows_of(self._file, self.table, self.views)
        self._count = len(self._labels) - hidden
        if absent := int(np.count_nonzero(self._rows < 0)) - hidden * (self.views + 1):
            raise IntegrityError(f"{self.directory}: {absent} rows of its examples are missing")

    @classmethod
    def open(cls, directory: Path, *, full: bool = False) -> Self:
        """Open the newest version.

        Args:
            directory: The feature set.
            full: Whether to check every byte first. Use it for a set that you received. Otherwise
                the manifest, each file's structure and the keys are checked, and the SHA-256 of
                each file that has changed since its last check on this machine (see
                `cryobase.store.verified`).

        Raises:
            StoreNotFoundError: there is no set, or one of its files is missing.
            IntegrityError: a file does not match the manifest, or violates the format.
        """
        with mended_by(mend_of(directory)):
            return cls._open(directory, full=full)

    @classmethod
    def _open(cls, directory: Path, *, full: bool) -> Self:
        _, manifest = load(directory, complete=True)
        while True:
            try:
                return cls(directory, manifest, full=full)
            except StoreNotFoundError:
                # Another process may have published a newer version and removed old files.
                _, newer = load(directory, complete=True)
                if newer == manifest:
                    raise
                manifest = newer

    def __len__(self) -> int:
        """The number of examples that have features."""
        return self._count

    @property
    def _live(self) -> NDArray[np.bool_]:
        """(n,) whether an example has a row, so is not in quarantine."""
        return np.asarray(self._rows[0] >= 0)

    @cached_property
    def examples(self) -> Examples:
        """Ids, digests, labels and quarantine; read at the first use."""
        with mended_by(mend_of(self.directory)):
            return self._file.read()

    @property
    def ids(self) -> NDArray[np.bytes_]:
        """(len,) the ids of the examples that have features, ascending."""
        return self.examples.ids[self._live]

    def rows(self, ids: ArrayLike | None = None, view: int = 0) -> NDArray[Any]:
        """(n, …) features in the stored dtype; see `arrays`."""
        return self.table.take(self._rows[self._view(view), self.positions(ids)])

    def labels(self, ids: ArrayLike | None = None) -> Labels:
        """(n,) positions in `classes`; see `arrays`."""
        return self._labels[self.positions(ids)].astype(np.int32)

    def arrays(self, ids: ArrayLike | None = None, view: int = 0) -> tuple[Features, Labels]:
        """Features and labels.

        Args:
            ids: The examples, in this order; if None, all that have features, ordered by id.
            view: 0 for the plain image.

        Returns:
            (n, …) float32 features and (n,) int32 labels, positions in `classes`.

        Raises:
            UnknownExampleError: an id is not in the set, or is in quarantine.
        """
        return self.take(self.positions(ids), view)

    def take(self, positions: Numbers, view: int = 0) -> tuple[Features, Labels]:
        """Features and labels by position, all at once and in the caller's thread; see `read`.

        Args:
            positions: (n,) along `examples`, in any order; see `positions`.
            view: 0 for the plain image.

        Returns:
            (n, …) float32 features and (n,) int32 labels, positions in `classes`.

        Raises:
            UnknownExampleError: there is no such position or view, or an example is in quarantine.
        """
        _check_within(positions, len(self._labels), f"{self.directory}: position")
        self._check_live(positions)
        features = self._widened(self._rows[self._view(view), positions])
        return features, self._labels[positions].astype(np.int32)

    def batches(
        self,
        ids: ArrayLike | None,
        size: int,
        *,
        shuffle: bool = False,
        block: int = 1,
        seed: int = 0,
        epoch: int = 0,
        views: int = 0,
    ) -> Iterator[tuple[Features, Labels]]:
        """One pass over examples, in batches. A few batches are read ahead.

        Args:
            ids: The examples; if None, all that have features, ordered by id.
            size: Examples in a batch; the last batch may have fewer.
            shuffle: Whether to use a random order, not the order of `ids`.
            block: With `shuffle`, how many rows that are neighbours on disk stay together. Rows are
                stored in the order of their digests, which is as good as random. So blocks of 16
                mix as well as single rows, and are read about twice as fast.
            seed: The seed of the order and of the views.
            epoch: The epoch; each has its own order and views.
            views: The view of each example is drawn from 0 to this one.

        Returns:
            Pairs of (size, …) float32 features and (size,) int32 labels.

        Raises:
            UnknownExampleError: an id is not in the set, or is in quarantine.
        """
        order, drawn = self.epoch(
            self.positions(ids), shuffle=shuffle, block=block, seed=seed, epoch=epoch, views=views
        )
        return self.read(order, size, drawn)

    def epoch(
        self,
        positions: Numbers,
        *,
        shuffle: bool = True,
        block: int = 1,
        seed: int = 0,
        epoch: int = 0,
        views: int = 0,
    ) -> tuple[Numbers, Numbers | None]:
        """The order of an epoch over positions (n,), and its views; see `batches`.

        Returns:
            (n,) positions, and the (n,) view of each, or None if all are plain images.
        """
        highest = self._view(views)
        if shuffle:
            positions = self._shuffled(positions, block, seed, epoch)
        drawn = drawn_views(len(positions), seed, epoch, range(highest + 1)) if highest else None
        return positions, drawn

    def read(
        self, positions: Numbers, size: int, views: Numbers | None = None
    ) -> Iterator[tuple[Features, Labels]]:
        """Features and labels by position, in batches. A few batches are read ahead.

        Args:
            positions: (n,) along `examples`, in any order; see `positions`.
            size: Examples in a batch; the last batch may have fewer.
            views: (n,) the view of each; if None, the plain images.

        Returns:
            Pairs of (size, …) float32 features and (size,) int32 labels.

        Raises:
            UnknownExampleError: there is no such position or view, or an example is in quarantine.
        """
        _check_within(positions, len(self._labels), f"{self.directory}: position")
        if views is not None:
            _check_within(views, self.views + 1, f"{self.directory}: view")
        self._check_live(positions)
        if size * self.table.row_bytes > _LARGE:
            return self._read_large(positions, size, views)
        window = size * max(1, _PLANNED // size)
        rows = (
            self._rows[0 if views is None else views[part], positions[part]]
            for part in _slices(len(positions), window)
        )
        features = self.table.batches(rows, size, widened)
        labels = (
            self._labels[positions[part]].astype(np.int32) for part in _slices(len(positions), size)
        )
        return zip(features, labels, strict=True)

    def _read_large(
        self, positions: Numbers, size: int, views: Numbers | None
    ) -> Iterator[tuple[Features, Labels]]:
        """Like `read`, but one batch ahead, with little memory beside the batches.

        The caller's thread allocates the batches: memory that a reading thread frees is kept for
        that thread, and not returned to the system.
        """

        def empty() -> Iterator[tuple[slice, Features]]:
            for part in _slices(len(positions), size):
                yield part, np.empty((len(positions[part]), *self.feature_shape), np.float32)

        def fill(batch: tuple[slice, Features]) -> tuple[Features, Labels]:
            part, features = batch
            chosen = positions[part]
            self._widened(self._rows[0 if views is None else views[part], chosen], features)
            return features, self._labels[chosen].astype(np.int32)

        return ordered_map(fill, empty(), workers=1, ahead=2)

    def _shuffled(self, chosen: Numbers, block: int, seed: int, epoch: int) -> Numbers:
        if block <= 1:
            return shuffled(chosen, seed, epoch)
        chosen = chosen[np.argsort(self._rows[0, chosen])]
        whole = np.append(chosen, np.full(-len(chosen) % block, -1, chosen.dtype))
        mixed: Numbers = shuffled(whole.reshape(-1, block), seed, epoch).ravel()
        return mixed[mixed >= 0]

    def positions(self, ids: ArrayLike | None = None) -> Numbers:
        """(n,) the positions of ids along `examples`; if None, of all that have features.

        Raises:
            UnknownExampleError: an id is not in the set, or is in quarantine.
        """
        if ids is None:
            every = np.arange(len(self._labels), dtype=np.int32)
            return every if len(every) == len(self) else every[self._live]
        chosen = self.examples.positions(ids)
        self._check_live(chosen)
        return chosen

    def _check_live(self, positions: Numbers) -> None:
        if len(self) < len(self._labels) and (hidden := self._rows[0, positions] < 0).any():
            first = self.examples.ids[positions[np.argmax(hidden)]]
            raise UnknownExampleError(f"id {bytes(first)!r}: in quarantine, so without features")

    def _view(self, view: int) -> int:
        if not 0 <= view <= self.views:
            raise UnknownExampleError(f"view {view}: {self.directory} has views 0 to {self.views}")
        return view

    def _widened(self, rows: Numbers, features: Features | None = None) -> Features:
        if features is None:
            features = np.empty((len(rows), *self.feature_shape), np.float32)
        step = max(1, _BLOCK // max(1, self.table.row_bytes))
        for start in range(0, len(rows), step):
            stop = start + step
            if self.table.dtype == np.float32:
                self.table.take(rows[start:stop], out=features[start:stop])
            else:
                features[start:stop] = widened(self.table.take(rows[start:stop]))
        return features

    def to_dask(
        self, ids: ArrayLike | None = None, view: int = 0, *, chunk: int | None = None
    ) -> Any:
        """The features of `arrays` as a `dask.array`. Rows are read at `compute`.

        Workers on other machines must see the set at the same path.

        Args:
            ids: The examples, in this order; if None, all that have features, ordered by id.
            view: 0 for the plain image.
            chunk: Rows in a chunk; if None, as many as fill 64 MiB.

        Returns:
            (n, …) float32.
        """
        import dask.array
        from dask import delayed

        wanted = self.ids if ids is None else np.asarray(ids)
        row_bytes = 4 * max(1, int(np.prod(self.feature_shape)))
        step = chunk or max(1, _CHUNK_BYTES // row_bytes)
        source = delayed(self, traverse=False)
        chunks = [dask.array.zeros((0, *self.feature_shape), dtype=np.float32)]
        for start in range(0, len(wanted), step):
            part = wanted[start : start + step]
            shape = (len(part), *self.feature_shape)
            features = source.arrays(part, view)[0]
            chunks.append(dask.array.from_delayed(features, shape, np.float32))
        return dask.array.concatenate(chunks[1:] or chunks)

    def verify(self) -> None:
        """Check every byte of the opened files against the manifest.

        Raises:
            IntegrityError: a file, row or digest is wrong; the message names the first.
        """
        published = self.manifest.published
        assert published
        with mended_by(mend_of(self.directory)):
            for shard in self.table.shards:
                shard.verify()
            ExamplesFile(self.directory, published.examples, self.classes, full=True).read()
            self._check_content()

    def _check_content(self) -> None:
        """Check the set's digest and counts. Each file was checked before."""
        published = self.manifest.published
        assert published
        if self.manifest.canary:
            load_canary(self.directory, self.manifest.canary)
        positions = np.unique(self._rows[:, self._live])
        total = sum_of_live(self.table, positions)
        digest = set_digest(self.spec.fingerprint, self.examples.digest, self.views, total)
        counts = (len(self.examples), int(self.examples.quarantined.sum()), len(positions))
        stated = (published.count, published.quarantined, published.rows)
        if digest != published.digest or counts != stated:
            raise IntegrityError(
                f"{self.directory}: the set's digest or counts are not the manifest's"
            )

    def close(self) -> None:
        """Close the shards. Rows cannot be read after that."""
        self.table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.directory, self.manifest)


def _check_within(numbers: Numbers, end: int, what: str) -> None:
    """Refuse numbers out of range; numpy would count negative ones from the end."""
    wrong = numbers[(numbers < 0) | (numbers >= end)]
    if len(wrong):
        raise UnknownExampleError(f"{what} {wrong[0]}: there are {end}, counted from 0")


def mend_of(directory: Path) -> str:
    """The command that repairs a feature set, for an error message."""
    return f"run `cryobase store repair {shlex.quote(os.path.abspath(directory))}`"


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _rows_of(examples: ExamplesFile, table: Rows, views: int) -> Numbers:
    """(views + 1, n) the number of each example's row; -1 if in quarantine or without a row.

    An index of a million keys takes 0.1 GB. To use less memory, keys are divided into parts by the
    first byte of their digests. The parts are indexed and looked up one after the other.

    Raises:
        IntegrityError: two rows have the same key.
    """
    kind = np.int32 if len(table) <= np.iinfo(np.int32).max else np.int64
    rows = np.full((views + 1, len(examples)), -1, kind)
    parts = min(_PARTS, 1 + len(table) // BLOCK)
    bounds = _bounds(table, parts)
    for part in range(parts):
        index, numbers = _index(table, bounds[:, part], part, parts)
        numbers = np.append(numbers, -1)  # the index returns -1 for an unknown key: this last item
        for where in examples.slices():
            digests = examples.column("digest", where)
            good = examples.column("quarantined", where) == 0
            places = np.flatnonzero(good & (_part_of(digests, parts) == part))
            for view in range(views + 1):
                keys = words_of_rows(digests[places], np.full(len(places), view, np.uint16))
                rows[view, where.start + places] = numbers[index.find(keys)]
    return rows


def _part_of(digests: Digests, parts: int) -> NDArray[np.integer]:
    return digests[:, 0].astype(np.uint16) * np.uint16(parts) >> 8


def _bounds(table: Rows, parts: int) -> NDArray[np.int64]:
    """(shards, parts, 2) the range of row numbers, per shard, that contains a part's keys.

    Our shards are ordered by digest, so there a range has only the part's own keys.
    """
    bounds = np.empty((len(table.shards), parts, 2), np.int64)
    bounds[:, :, 0], bounds[:, :, 1] = table.starts[1:, None], table.starts[:-1, None]
    for start, digests, _ in table.key_blocks():
        shard = np.searchsorted(table.starts, start, side="right") - 1
        part = _part_of(digests, parts)
        lasts = np.flatnonzero(np.diff(part, append=parts))
        firsts = np.append(0, lasts[:-1] + 1)
        np.minimum.at(bounds[shard, :, 0], part[firsts], start + firsts)
        np.maximum.at(bounds[shard, :, 1], part[lasts], start + lasts + 1)
    return bounds


def _index(
    table: Rows, bounds: NDArray[np.int64], part: int, parts: int
) -> tuple[KeyIndex, Positions]:
    """The index of the keys of one part, and the numbers of their rows."""
    keys, numbers = [np.empty((0, 5), np.uint64)], [np.empty(0, np.int64)]
    for start, digests, views in table.key_blocks(bounds):
        places = np.flatnonzero(_part_of(digests, parts) == part)
        keys.append(words_of_rows(digests[places], views[places]))
        numbers.append(start + places)
    return KeyIndex(np.concatenate(keys)), np.concatenate(numbers)

"""The rows of a manifest as one long table."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from cryobase.store import verified
from cryobase.store.errors import StorageError, mended_by
from cryobase.store.files import allow_open_files, bytes_of, read_into
from cryobase.store.keys import KeyIndex, Positions, words_of_rows
from cryobase.store.manifest import Manifest
from cryobase.store.parallel import ordered_map
from cryobase.store.shard import Digests, Shard, Views, sum_of_rows

Stored = NDArray[Any]
Numbers = NDArray[np.signedinteger]
Runs = tuple[Positions, Positions, Positions]  # descriptors, offsets and bytes of runs

_BLOCK = 1 << 22  # bytes of features that are summed up at once
_KEYS = 1 << 14  # keys that are read at once
_READERS, _AHEAD = 2, 2  # threads that read ahead, and batches that each is ahead


class Rows:
    """All rows of a manifest's shards, in its order, numbered from 0.

    Every shard's SHA-256 is right: it was checked when this machine read the file first, and is
    whenever its stat has changed since.

    Args:
        directory: Where the shards lie.
        manifest: Which ones.
        full: Whether to check them byte by byte all the same, and their rows.

    Attributes:
        mend: What errors say that mends a damaged file (`cryobase.store.errors.mended_by`).
    """

    mend = ""

    def __init__(self, directory: Path, manifest: Manifest, *, full: bool = False) -> None:
        self.dtype = np.dtype(manifest.spec.dtype).newbyteorder("<")
        self.feature_shape = manifest.feature_shape or ()
        self.row_bytes = self.dtype.itemsize * int(np.prod(self.feature_shape))
        allow_open_files(2 * len(manifest.shards))
        self.shards = [
            Shard(directory, info, manifest.spec.dtype, self.feature_shape, full=full)
            for info in manifest.shards
        ]
        if not full:
            verified.check([(one.descriptor, one.path, one.info.sha256) for one in self.shards])
        counts = np.array([shard.info.rows for shard in self.shards], np.int64)
        self.starts: Positions = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._closed = False
        self.start_process()
        _opened.add(self)
        self._descriptors = np.array([shard.descriptor for shard in self.shards], np.int64)
        self._offsets = np.array([shard.offset for shard in self.shards], np.int64)

    def start_process(self) -> None:
        """Begin without reading threads, as a forked process does, whatever its parent's did."""
        self._reading, self._lock = 0, Lock()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def keys(self) -> tuple[Digests, Views]:
        """(n, 32) digests and (n,) views of all rows."""
        digests = np.empty((len(self), 32), np.uint8)
        views = np.empty(len(self), np.dtype("<u2"))
        for first, some, their_views in self.key_blocks():
            digests[first : first + len(some)], views[first : first + len(some)] = some, their_views
        return digests, views

    def key_blocks(
        self, bounds: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[int, Digests, Views]]:
        """Keys, block by block: the number of the first row, digests and views.

        Args:
            bounds: (shards, 2) from which row to which of each shard; all rows if None.
        """
        whole = np.stack([self.starts[:-1], self.starts[1:]], axis=1)
        for shard, start, (begin, end) in zip(
            self.shards,
            self.starts.tolist(),
            (whole if bounds is None else bounds).tolist(),
            strict=False,
        ):
            for first in range(begin, end, _KEYS):
                stop = min(first + _KEYS, end)
                yield first, *shard.keys(first - start, stop - start)

    def index(self) -> KeyIndex:
        """The index of all keys; find with `words_of_rows`."""
        words = np.empty((len(self), 5), np.uint64)
        for first, digests, views in self.key_blocks():
            words[first : first + len(views)] = words_of_rows(digests, views)
        return KeyIndex(words)

    def take(self, positions: Numbers, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """(m, …) rows as they are stored, in the order of `positions`; into `out` if given."""
        rows = np.empty((len(positions), *self.feature_shape), self.dtype) if out is None else out
        for runs in self._runs(positions, max(1, len(positions))):
            self._read(runs, rows)
        return rows

    def batches(
        self,
        parts: Iterable[Numbers],
        size: int,
        convert: Callable[[Stored], Stored] = lambda rows: rows,
    ) -> Iterator[Stored]:
        """Rows in batches of `size`, each one a new array, read a few batches ahead.

        Args:
            parts: Which rows, in which order. Each part is planned at once, and has a multiple of
                `size` rows, but for the last: to plan one batch takes as long as to read it.
            size: Rows in a batch; the last one may have fewer.
            convert: What is done with each batch, in the thread that has read it.
        """

        def read(runs: Runs) -> Stored:
            count = int(runs[2].sum()) // self.row_bytes
            return convert(self._read(runs, np.empty((count, *self.feature_shape), self.dtype)))

        work = (runs for part in parts for runs in self._runs(part, size))
        return ordered_map(read, work, workers=_READERS, ahead=_AHEAD)

    def _runs(self, positions: Numbers, size: int) -> Iterator[Runs]:
        """For each batch, its runs of rows that lie side by side."""
        numbers = np.searchsorted(self.starts, positions, side="right") - 1
        offsets = self._offsets[numbers] + (positions - self.starts[numbers]) * self.row_bytes
        breaks = np.ones(len(positions), np.bool_)
        breaks[1:] = (np.diff(offsets) != self.row_bytes) | (np.diff(numbers) != 0)
        breaks[::size] = True
        firsts = np.flatnonzero(breaks)
        lengths = np.diff(firsts, append=len(positions)) * self.row_bytes
        cuts = np.searchsorted(firsts, np.arange(0, len(positions) + size, size)).tolist()
        descriptors, places = self._descriptors[numbers[firsts]], offsets[firsts]
        for start, stop in pairwise(cuts):
            yield descriptors[start:stop], places[start:stop], lengths[start:stop]

    def _read(self, runs: Runs, rows: NDArray[Any]) -> NDArray[Any]:
        descriptors, offsets, lengths = (column.tolist() for column in runs)
        buffer, stops = bytes_of(rows), list(accumulate(lengths))
        parts = [(buffer[stop - size : stop],) for stop, size in zip(stops, lengths, strict=True)]
        with self._held_open():
            # `map`, as at a microsecond for each call a loop in Python would cost a third more.
            if list(map(os.preadv, descriptors, parts, offsets)) != lengths:
                self._read_again(descriptors, offsets, parts)
        return rows

    @contextmanager
    def _held_open(self) -> Iterator[None]:
        """Keep the files open: once they are closed, their numbers may be other files'."""
        with self._lock:
            if self._closed:
                raise StorageError(errno.EBADF, "the feature set was closed")
            self._reading += 1
        try:
            yield
        finally:
            with self._lock:
                self._reading -= 1
                self._close_unread()

    def _read_again(
        self, descriptors: list[int], offsets: list[int], parts: list[tuple[memoryview]]
    ) -> None:
        """Read run by run after a short read: the end of a file that was cut, or a signal."""
        paths = {shard.descriptor: shard.path for shard in self.shards}
        with mended_by(self.mend):
            for descriptor, (part,), offset in zip(descriptors, parts, offsets, strict=True):
                read_into(descriptor, part, offset, paths[descriptor])

    def close(self) -> None:
        """Close all shards, or have the last thread that reads in them do it."""
        with self._lock:
            self._closed = True
            self._close_unread()

    def _close_unread(self) -> None:
        if self._closed and not self._reading:
            for shard in self.shards:
                shard.close()


_opened: WeakSet[Rows] = WeakSet()


def _start_process() -> None:
    for table in _opened:
        table.start_process()


os.register_at_fork(after_in_child=_start_process)


def widened(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows as float32; float16 by a table, three times faster than `astype`."""
    if rows.dtype != np.float16:
        return rows
    wide = np.empty(rows.shape, np.float32)
    return np.take(_WIDENED, rows.view(np.uint16), out=wide, mode="wrap")


_WIDENED = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def live_parts(rows: Rows, positions: Positions) -> Iterator[tuple[int, Positions]]:
    """Each shard's number with the positions of its live rows, ascending."""
    ordered = np.sort(positions)
    cuts = np.searchsorted(ordered, rows.starts)
    for number, (start, stop) in enumerate(pairwise(cuts)):
        yield number, ordered[start:stop]


def sum_of_live(rows: Rows, positions: Positions) -> int:
    """The sum of live rows' digests, reading only the shards that are live in part."""
    total = 0
    for number, live in live_parts(rows, positions):
        info = rows.shards[number].info
        if 2 * len(live) <= info.rows:
            total += _sum(rows, number, live)
        else:
            every = np.arange(*rows.starts[number : number + 2])
            dead = np.setdiff1d(every, live, assume_unique=True)
            total += int(info.digest, 16) - _sum(rows, number, dead)
    return total


def _sum(rows: Rows, number: int, positions: Positions) -> int:
    if len(positions) == 0:
        return 0
    digests, views = rows.shards[number].keys()
    inside = positions - rows.starts[number]
    total = 0
    for block in in_blocks(np.arange(len(positions)), rows.row_bytes, _BLOCK):
        features, keys = rows.take(positions[block]), inside[block]
        total += sum_of_rows(features, digests[keys], views[keys])
    return total


def in_blocks(positions: Positions, row_bytes: int, size: int) -> list[Positions]:
    """Positions in parts of about `size` bytes each, of rows of `row_bytes`."""
    return np.array_split(positions, max(1, -(-len(positions) * row_bytes // size)))

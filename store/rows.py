"""The rows of all shards of a manifest as one table, and fast reading of its rows by number."""

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
# (descriptors, offsets, bytes) of runs of neighbouring rows.
Runs = tuple[Positions, Positions, Positions]

_BLOCK = 1 << 22  # bytes of features that are summed up at once
_KEYS = 1 << 14  # keys that are read at once
_READERS, _AHEAD = 2, 2  # threads that read ahead, and batches that each reads ahead


class Rows:
    """All rows of a manifest's shards, in the manifest's order, numbered from 0.

    The SHA-256 of each shard is checked when this machine opens it for the first time, and again
    whenever the file's size or times have changed.

    Args:
        directory: The directory of the shards.
        manifest: The manifest that names the shards.
        full: Whether to check every byte and every row in any case.

    Attributes:
        mend: The remedy that errors about a damaged file end with, see
            `cryobase.store.errors.mended_by`.

    Raises:
        StoreNotFoundError: a shard is missing.
        IntegrityError: a shard does not match the manifest.
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
            verified.check([(s.descriptor, s.path, s.info.sha256) for s in self.shards])
        counts = np.array([shard.info.rows for shard in self.shards], np.int64)
        self.starts: Positions = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._closed = False
        self.start_process()
        _opened.add(self)
        self._descriptors = np.array([shard.descriptor for shard in self.shards], np.int64)
        self._offsets = np.array([shard.offset for shard in self.shards], np.int64)

    def start_process(self) -> None:
        """Reset the count of reading threads and the lock: a forked process has no such threads."""
        self._reading, self._lock = 0, Lock()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def keys(self) -> tuple[Digests, Views]:
        """(n, 32) digests and (n,) views of all rows."""
        digests = np.empty((len(self), 32), np.uint8)
        views = np.empty(len(self), np.dtype("<u2"))
        for first, some_digests, some_views in self.key_blocks():
            block = slice(first, first + len(some_views))
            digests[block], views[block] = some_digests, some_views
        return digests, views

    def key_blocks(
        self, bounds: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[int, Digests, Views]]:
        """Keys, block by block: the number of the first row, digests and views.

        Args:
            bounds: (shards, 2) the first row of each shard, and the end; if None, all rows.
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
        """The index of all keys, which are built by `words_of_rows`."""
        words = np.empty((len(self), 5), np.uint64)
        for first, digests, views in self.key_blocks():
            words[first : first + len(views)] = words_of_rows(digests, views)
        return KeyIndex(words)

    def take(self, positions: Numbers, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """(m, …) rows in the stored dtype, in the order of `positions`.

        Args:
            positions: (m,) the numbers of the rows.
            out: (m, …) where to write them; if None, a new array.
        """
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
        """Rows in batches of `size`, each a new array. A few batches are read ahead.

        Args:
            parts: The numbers of the rows, in order. All reads of a part are planned together,
                because planning a single batch takes as long as reading it. The length of each part
                but the last must be a multiple of `size`.
            size: Rows in a batch; the last batch may have fewer.
            convert: Applied to each batch, in the thread that has read it.
        """

        def read(runs: Runs) -> Stored:
            count = int(runs[2].sum()) // self.row_bytes
            return convert(self._read(runs, np.empty((count, *self.feature_shape), self.dtype)))

        work = (runs for part in parts for runs in self._runs(part, size))
        return ordered_map(read, work, workers=_READERS, ahead=_AHEAD)

    def _runs(self, positions: Numbers, size: int) -> Iterator[Runs]:
        """For each batch, its runs of rows that are neighbours in a file."""
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
            # `map`: a Python loop would take a third longer, as each call takes a microsecond.
            if list(map(os.preadv, descriptors, parts, offsets)) != lengths:
                self._read_again(descriptors, offsets, parts)
        return rows

    @contextmanager
    def _held_open(self) -> Iterator[None]:
        """Keep the files open while a thread reads.

        After a file is closed, the system may give its descriptor's number to another file.

        Raises:
            StorageError: the files are closed already.
        """
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
        """Read each run again after a short read, whose cause is a signal or a truncated file.

        Raises:
            IntegrityError: a file was truncated.
        """
        paths = {shard.descriptor: shard.path for shard in self.shards}
        with mended_by(self.mend):
            for descriptor, (part,), offset in zip(descriptors, parts, offsets, strict=True):
                read_into(descriptor, part, offset, paths[descriptor])

    def close(self) -> None:
        """Close all shards, or let the last thread that reads in them close them."""
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
    """Rows as float32. A table converts float16 three times faster than `astype`."""
    if rows.dtype != np.float16:
        return rows
    wide = np.empty(rows.shape, np.float32)
    return np.take(_WIDENED, rows.view(np.uint16), out=wide, mode="wrap")


_WIDENED = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def live_parts(rows: Rows, positions: Positions) -> Iterator[tuple[int, Positions]]:
    """Each shard's number with those of `positions` that are in it (its live rows), ascending."""
    ordered = np.sort(positions)
    cuts = np.searchsorted(ordered, rows.starts)
    for number, (start, stop) in enumerate(pairwise(cuts)):
        yield number, ordered[start:stop]


def sum_of_live(rows: Rows, positions: Positions) -> int:
    """The sum of the digests of live rows, those at `positions`.

    A shard with live rows only is not read, because the manifest states its sum.
    """
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
    """Divide positions into parts of about `size` bytes; a row has `row_bytes`."""
    return np.array_split(positions, max(1, -(-len(positions) * row_bytes // size)))

"""The rows of a manifest as one long table, and the index that finds a row by its key."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.errors import IntegrityError
from store.files import MEND, bytes_of, read_into
from store.manifest import Manifest
from store.shard import Digests, Shard, Views

Positions = NDArray[np.int64]


class RowIndex:
    """Finds rows by (digest, view).

    Keys are compared as 64-bit hashes with random coefficients, so that nobody can make them
    collide, and then whole.

    Args:
        digests: (n, 32).
        views: (n,).

    Raises:
        IntegrityError: two rows have the same key.
    """

    def __init__(self, digests: Digests, views: Views) -> None:
        self._digests, self._views = _words(digests), views
        for _ in range(8):
            self._factors = np.frombuffer(os.urandom(40), np.uint64) | np.uint64(1)
            hashes = self._hash(self._digests, views)
            self._order = np.argsort(hashes)
            self._hashes = hashes[self._order]
            alike = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
            if len(alike) == 0:
                return
            self._refuse_duplicate(*self._order[alike[0] : alike[0] + 2])
        raise IntegrityError(f"digests that cannot be SHA-256: they collide; {MEND}")

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, digests: Digests, views: Views) -> Positions:
        """(m,) the positions of keys, -1 where there is none."""
        words = _words(digests)
        wanted = self._hash(words, views)
        if len(self) == 0:
            return np.full(len(wanted), -1, np.int64)
        sort = np.argsort(wanted)  # a sorted search stays in the cache: five times faster
        slots = np.empty(len(wanted), np.int64)
        slots[sort] = np.searchsorted(self._hashes, wanted[sort])
        np.minimum(slots, len(self) - 1, out=slots)
        found = self._order[slots]
        same = (self._views[found] == views) & (self._digests[found] == words).all(axis=1)
        return np.where(same, found, -1)

    def _hash(self, words: NDArray[np.uint64], views: Views) -> NDArray[np.uint64]:
        hashes: NDArray[np.uint64] = views.astype(np.uint64) * self._factors[4]
        for word in range(4):
            hashes += words[:, word] * self._factors[word]
        return hashes

    def _refuse_duplicate(self, one: np.intp, other: np.intp) -> None:
        same = (self._digests[one] == self._digests[other]).all()
        if same and self._views[one] == self._views[other]:
            key = f"digest {self._digests[one].tobytes().hex()}, view {self._views[one]}"
            raise IntegrityError(f"{key}: two rows have this key; {MEND}")


class Rows:
    """All rows of a manifest's shards, in its order, numbered from 0.

    Args:
        directory: Where the shards lie.
        manifest: Which ones.
        full: Whether to check their SHA-256.
    """

    def __init__(self, directory: Path, manifest: Manifest, *, full: bool = False) -> None:
        self.dtype = np.dtype(manifest.spec.dtype).newbyteorder("<")
        self.feature_shape = manifest.feature_shape or ()
        self.row_bytes = self.dtype.itemsize * int(np.prod(self.feature_shape))
        self.shards = [
            Shard(directory, info, manifest.spec.dtype, self.feature_shape, full=full)
            for info in manifest.shards
        ]
        counts = np.array([shard.info.rows for shard in self.shards], np.int64)
        self.starts: Positions = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._offsets = np.array([shard.offset for shard in self.shards], np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def keys(self) -> tuple[Digests, Views]:
        """(n, 32) digests and (n,) views of all rows."""
        digests = np.empty((len(self), 32), np.uint8)
        views = np.empty(len(self), np.dtype("<u2"))
        for start, shard in zip(self.starts, self.shards, strict=False):
            stop = start + shard.info.rows
            digests[start:stop], views[start:stop] = shard.keys()
        return digests, views

    def take(self, positions: Positions, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """(m, …) rows as they are stored, in the order of `positions`; into `out` if given."""
        rows = np.empty((len(positions), *self.feature_shape), self.dtype) if out is None else out
        buffer = bytes_of(rows)
        for shard, offset, start, stop in self._runs(positions):
            read_into(shard.descriptor, buffer[start:stop], offset, shard.path)
        return rows

    def _runs(self, positions: Positions) -> Iterator[tuple[Shard, int, int, int]]:
        """Runs that lie side by side: the shard, the offset there, start and stop in the buffer."""
        if len(positions) == 0:
            return
        numbers = np.searchsorted(self.starts, positions, side="right") - 1
        offsets = self._offsets[numbers] + (positions - self.starts[numbers]) * self.row_bytes
        apart = (np.diff(offsets) != self.row_bytes) | (np.diff(numbers) != 0)
        firsts = np.flatnonzero(np.concatenate([[True], apart]))
        starts = (firsts * self.row_bytes).tolist()
        stops = [*starts[1:], len(positions) * self.row_bytes]
        chosen = zip(numbers[firsts].tolist(), offsets[firsts].tolist(), strict=True)
        for (number, offset), start, stop in zip(chosen, starts, stops, strict=True):
            yield self.shards[number], offset, start, stop

    def close(self) -> None:
        """Close all shards."""
        for shard in self.shards:
            shard.close()


def _words(digests: Digests) -> NDArray[np.uint64]:
    return np.ascontiguousarray(digests).view(np.uint64)


def widen(rows: NDArray[np.float16], out: NDArray[np.float32]) -> NDArray[np.float32]:
    """float16 as float32 into `out`, by a table: three times faster than `astype`."""
    return np.take(_WIDENED, rows.view(np.uint16), out=out, mode="wrap")


_WIDENED = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)

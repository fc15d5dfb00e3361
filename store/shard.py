"""A shard: an immutable file of rows of one spec. Building its bytes, reading and verifying it.

This module never writes a file; `publish` does.
"""

import hashlib
import os
import time
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.store import verified
from cryobase.store.columns import build, inspect
from cryobase.store.errors import IntegrityError
from cryobase.store.files import bytes_of, open_regular, read_into
from cryobase.store.manifest import ShardInfo

COLUMNS = ("features", "digest", "view")
SHARD_BYTES = 1 << 26  # about the size of a new shard
_BLOCK = 1 << 22  # bytes of features that a scan holds at once

Digests = NDArray[np.uint8]
Views = NDArray[np.uint16]


def build_shard(
    features: NDArray[Any], digests: Digests, views: Views, order: NDArray[np.intp] | None = None
) -> tuple[ShardInfo, bytes]:
    """The manifest's entry of a shard, and the shard's bytes.

    Args:
        features: (n, …) of the spec's dtype.
        digests: (n, 32), SHA-256 of the examples' encoded bytes.
        views: (n,), 0 for the plain image.
        order: (m,) the rows to write, in this order; if None, all rows.
    """
    little = features.astype(features.dtype.newbyteorder("<"), copy=False)
    short = views.astype("<u2", copy=False)
    order = np.arange(len(digests)) if order is None else order
    data = build({"features": little, "digest": digests, "view": short}, order)
    row_bytes = little.itemsize * int(np.prod(little.shape[1:]))
    blocks = np.array_split(order, 1 + len(order) * row_bytes // _BLOCK)
    total = sum(sum_of_rows(little[block], digests[block], short[block]) for block in blocks)
    return ShardInfo.of_shard(data, len(order), total % (1 << 256)), data


def sum_of_rows(features: NDArray[Any], digests: Digests, views: Views) -> int:
    """The sum, modulo 2**256, of SHA-256(digest + view + row) over all rows, in any order.

    It identifies rows, but it is not a signature: an attacker who can choose rows freely can find
    two sets of rows with equal sums.
    """
    values = int(np.prod(features.shape[1:]))
    rows = np.ascontiguousarray(features).reshape(len(features), values).view(np.uint8)
    heads = np.hstack([digests, views.astype("<u2").reshape(-1, 1).view(np.uint8)])
    total = 0
    for head, row in zip(heads, rows, strict=True):
        total += int.from_bytes(hashlib.sha256(head.tobytes() + row.tobytes()).digest(), "big")
    return total % (1 << 256)


def keys_of(digests: Digests, views: int) -> tuple[Digests, Views]:
    """The unique keys of `digests` × views 0 to `views`, ordered by digest, then view."""
    plain = np.ascontiguousarray(digests, np.uint8).reshape(-1, 32)
    ordered = np.sort(plain.view("S32"), axis=None)
    # Np.unique would import np.ma.
    new = np.append([True], ordered[1:] != ordered[:-1])[: len(ordered)]
    unique = ordered[new].view(np.uint8).reshape(-1, 32)
    numbers = np.tile(np.arange(views + 1, dtype="<u2"), len(unique))
    return np.repeat(unique, views + 1, axis=0), numbers


def order_of_keys(digests: Digests, views: Views) -> NDArray[np.intp]:
    """(m,) positions of unique keys, ordered by digest, then view. Of equal keys, the first."""
    keys = np.hstack([digests, views.astype(">u2").reshape(-1, 1).view(np.uint8)])
    _, order = np.unique(np.ascontiguousarray(keys).view("S34"), return_index=True)
    return order


def finite_rows(features: NDArray[Any]) -> NDArray[np.bool_]:
    """(n,) whether all values of a row are finite."""
    rows = features.reshape(len(features), -1)
    if rows.dtype == np.float16:  # as integers: ten times faster than `isfinite`
        return np.asarray(((rows.view(np.uint16) & 0x7C00) != 0x7C00).all(axis=1))
    return np.asarray(np.isfinite(rows).all(axis=1))


class Shard:
    """A shard, opened for reading. Later changes at its path have no effect.

    HDF5 parses the file at the first use of a key or row. Check the SHA-256 before: here with
    `full`, or in `Rows` for many shards at once.

    Args:
        directory: The directory of the shard.
        info: The shard's entry in the manifest.
        dtype: The spec's dtype.
        feature_shape: The shape of one row.
        full: Whether to check every byte, as `verify` does.

    Raises:
        StoreNotFoundError: the file is missing.
        IntegrityError: the file does not match the manifest.
    """

    def __init__(
        self,
        directory: Path,
        info: ShardInfo,
        dtype: str,
        feature_shape: tuple[int, ...],
        *,
        full: bool = False,
    ) -> None:
        self.path = directory / info.name
        self.info = info
        self.dtype, self.feature_shape = np.dtype(dtype).newbyteorder("<"), feature_shape
        self.descriptor = open_regular(self.path)
        try:
            self._check_size()
            if full:
                self.verify()
        except BaseException:
            self.close()
            raise

    @property
    def offset(self) -> int:
        """The byte at which the features begin.

        Raises:
            IntegrityError: the file's columns do not match the manifest.
        """
        return self._offsets[0]

    @cached_property
    def _offsets(self) -> tuple[int, int, int]:
        """The byte offsets of features, digests and views."""
        columns = inspect(self.descriptor, self.path, COLUMNS)
        rows = self.info.rows
        expected = [(self.dtype, (rows, *self.feature_shape)), (np.dtype("u1"), (rows, 32))]
        expected.append((np.dtype("<u2"), (rows,)))
        stored = [(columns[name].dtype, columns[name].shape) for name in COLUMNS]
        if stored != expected:
            raise IntegrityError(f"{self.path}: holds {stored}, expected {expected}")
        features, digests, views = (columns[name].offset for name in COLUMNS)
        return features, digests, views

    def _check_size(self) -> None:
        size = os.fstat(self.descriptor).st_size
        if size != self.info.size:
            raise IntegrityError(f"{self.path}: {size} bytes, the manifest says {self.info.size}")

    def _read_all(self) -> NDArray[np.uint8]:
        """All bytes, after a check of their SHA-256."""
        self._check_size()
        before, started = os.fstat(self.descriptor), time.time_ns()
        data, digest = np.empty(self.info.size, np.uint8), hashlib.sha256()
        for start in range(0, len(data), _BLOCK):
            block = data[start : start + _BLOCK].data
            read_into(self.descriptor, block, start, self.path)
            digest.update(block)
        if digest.hexdigest() != self.info.sha256:
            raise IntegrityError(f"{self.path}: its SHA-256 is not the manifest's")
        verified.remember(self.descriptor, before, started, self.info.sha256)
        return data

    def keys(self, start: int = 0, stop: int | None = None) -> tuple[Digests, Views]:
        """(n, 32) digests and (n,) views of rows start to stop; by default of all rows."""
        count = (self.info.rows if stop is None else stop) - start
        digests, views = np.empty((count, 32), np.uint8), np.empty(count, np.dtype("<u2"))
        _, first_digest, first_view = self._offsets
        read_into(self.descriptor, bytes_of(digests), first_digest + 32 * start, self.path)
        read_into(self.descriptor, bytes_of(views), first_view + 2 * start, self.path)
        return digests, views

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows start to stop, in the stored dtype."""
        rows = np.empty((stop - start, *self.feature_shape), self.dtype)
        row_bytes = rows.nbytes // max(1, len(rows))
        read_into(self.descriptor, bytes_of(rows), self.offset + start * row_bytes, self.path)
        return rows

    def verify(self) -> None:
        """Check every value: the file's SHA-256, finite features, the rows' digest.

        The file is read into memory once, so that it cannot change between two checks.

        Raises:
            IntegrityError: the file does not match the manifest.
        """
        self._check_rows(self._read_all())

    def _check_rows(self, data: NDArray[np.uint8]) -> None:
        rows, row_bytes = self.info.rows, self.dtype.itemsize * prod(self.feature_shape)
        first, first_digest, first_view = self._offsets
        features = data[first:][: rows * row_bytes].view(self.dtype).reshape(rows, -1)
        digests = data[first_digest:][: rows * 32].reshape(rows, 32)
        views = data[first_view:][: rows * 2].view("<u2")
        step, total = max(1, _BLOCK // row_bytes), 0
        for start in range(0, rows, step):
            block = slice(start, start + step)
            if not (finite := finite_rows(features[block])).all():
                bad = digests[start + int(np.argmin(finite))].tobytes().hex()
                raise IntegrityError(f"{self.path}: the row of digest {bad} is not finite")
            total += sum_of_rows(features[block], digests[block], views[block])
        if total % (1 << 256) != int(self.info.digest, 16):
            raise IntegrityError(f"{self.path}: the rows' digest is not the manifest's")

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            self.close()

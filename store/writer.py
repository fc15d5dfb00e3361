"""Appending rows to a pool, and merging many small shards into one.

Slow extraction commits a small shard every minute; merging keeps their number low.
"""

import logging
import time
from dataclasses import dataclass, replace
from math import prod
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cryobase.store.errors import FeaturesError, IntegrityError, SpecMismatchError
from cryobase.store.keys import words_of_rows
from cryobase.store.manifest import KEY_BYTES, Manifest, ShardInfo
from cryobase.store.pool_files import LEASE, PoolFiles, sweep
from cryobase.store.publish import publish_bytes
from cryobase.store.shard import (
    SHARD_BYTES,
    Digests,
    Shard,
    Views,
    build_shard,
    finite_rows,
    order_of_keys,
)

SECONDS = 60.0  # between two commits, at most
MANY = 16  # small shards: so many are merged
SMALL = 1 << 25  # bytes: a shard below this size is small

log = logging.getLogger(__name__)


class FeatureWriter:
    """Appends rows to a pool. Use it as a context manager: it holds the pool's lock.

    Rows are safe after a `commit`. `append` commits after about 64 MiB or a minute; leaving the
    context without an exception commits the rest. Rows that the pool has already are skipped.
    """

    def __init__(self, pool: PoolFiles) -> None:
        self.pool = pool
        self._lock = pool.lock()
        self._pending: Table | None = None
        self._count = 0
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        self._lock.__enter__()
        self._since = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.commit()
                sweep(self.pool.directory, LEASE)
        finally:
            self._pending, self._count = None, 0
            self._lock.__exit__(kind, error, trace)

    def append(self, features: NDArray[Any], digests: Digests, views: NDArray[Any]) -> None:
        """Add rows.

        Args:
            features: (n, …) of any float type; stored as the spec's dtype.
            digests: (n, 32), SHA-256 of the examples' encoded bytes.
            views: (n,), 0 for the plain image.

        Raises:
            FeaturesError: a value is not finite in the spec's dtype, or a shape is wrong.
            StorageError: a commit failed; the rows are kept for another try.
            SpecMismatchError: the rows have another shape than earlier rows.
        """
        features = np.asarray(features)
        digests = np.ascontiguousarray(digests, np.uint8)
        views = np.asarray(views).astype("<u2")
        if digests.shape != (len(features), 32) or views.shape != (len(features),):
            raise FeaturesError(
                f"{len(features)} features, digests {digests.shape}, views {views.shape}"
            )
        if len(features) == 0:
            return
        table = self._room(len(features), features.shape[1:])
        new = slice(self._count, self._count + len(features))
        with np.errstate(over="ignore"):
            table.features[new] = features
        if not (finite := finite_rows(table.features[new])).all():
            digest = digests[int(np.argmin(finite))].tobytes().hex()
            raise FeaturesError(
                f"digest {digest}: NaN or infinite as {table.features.dtype}; no row is stored"
            )
        table.digests[new], table.views[new] = digests, views
        self._count = new.stop
        full = self._count * table.row_bytes >= SHARD_BYTES
        if full or time.monotonic() - self._since >= SECONDS:
            self.commit()

    def _room(self, count: int, shape: tuple[int, ...]) -> "Table":
        """The pending rows, with room for `count` more. The table grows rarely, as that copies."""
        old, dtype = self._pending, np.dtype(self.pool.spec.dtype)
        if old and self._count and old.features.shape[1:] != shape:
            raise SpecMismatchError(
                f"{self.pool.directory}: rows of {old.features.shape[1:]}, not {shape}"
            )
        if old is None or old.features.shape[1:] != shape or len(old.views) < self._count + count:
            row_bytes = dtype.itemsize * prod(shape) + KEY_BYTES
            size = self._count + count + SHARD_BYTES // row_bytes
            self._pending = Table.empty(size, shape, dtype)
            if old and self._count:
                self._pending.copy(old, self._count)
        assert self._pending
        return self._pending

    def commit(self) -> None:
        """Publish the appended rows.

        Raises:
            StorageError: they could not be written; they are kept for another try.
            SpecMismatchError: the rows have another shape than the pool's.
        """
        if self._pending and self._count:
            self._commit(self._pending.first(self._count))
            merge_small_shards(self.pool)
        self._count, self._since = 0, time.monotonic()

    def _commit(self, table: "Table") -> None:
        shape = table.features.shape[1:]
        order = order_of_keys(table.digests, table.views)

        def change(current: Manifest | None) -> Manifest:
            manifest = current or Manifest(spec=self.pool.spec)
            if manifest.feature_shape not in (None, shape):
                raise SpecMismatchError(
                    f"{self.pool.directory}: rows of {manifest.feature_shape}, not {shape}"
                )
            # Read again on every try: where file locks do not work, another process may have
            # committed since.
            index = self.pool.snapshot().index
            new = order[index.find(words_of_rows(table.digests[order], table.views[order])) < 0]
            shards = []
            for part in _parts(new, table.row_bytes):
                info, data = build_shard(table.features, table.digests, table.views, part)
                publish_bytes(self.pool.directory, info.name, data)
                shards.append(info)
            return replace(manifest, feature_shape=shape, shards=(*manifest.shards, *shards))

        self.pool.commit(change)


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of rows in memory."""

    features: NDArray[Any]
    digests: Digests
    views: Views

    @classmethod
    def empty(cls, size: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Self:
        """Room for `size` rows. The system takes memory only for rows that are written."""
        digests, views = np.empty((size, 32), np.uint8), np.empty(size, np.dtype("<u2"))
        return cls(np.empty((size, *shape), dtype), digests, views)

    @property
    def row_bytes(self) -> int:
        """The bytes of one row's features and key."""
        return self.features.itemsize * prod(self.features.shape[1:]) + KEY_BYTES

    def first(self, count: int) -> "Table":
        """The first `count` rows, in the same memory."""
        return Table(self.features[:count], self.digests[:count], self.views[:count])

    def copy(self, other: "Table", count: int) -> None:
        """Take over the first `count` rows of another table."""
        self.features[:count] = other.features[:count]
        self.digests[:count], self.views[:count] = other.digests[:count], other.views[:count]


def _parts(rows: NDArray[np.intp], row_bytes: int) -> list[NDArray[np.intp]]:
    """`rows` in equal parts of about a shard's size."""
    if len(rows) == 0:
        return []
    return np.array_split(rows, max(1, round(len(rows) * row_bytes / SHARD_BYTES)))


def merge_small_shards(pool: PoolFiles) -> None:
    """Merge small shards once there are many. The caller holds the pool's lock.

    Each shard is verified first: otherwise damage would get a new, valid checksum.
    """
    manifest = pool.manifest()
    small = [shard for shard in manifest.shards if shard.size < SMALL]
    if len(small) < MANY:
        return
    shape = manifest.feature_shape or ()
    opened = []
    for info in small:
        try:
            shard = Shard(pool.directory, info, pool.spec.dtype, shape)
            shard.verify()
        except IntegrityError as error:
            log.warning("not merged: %s", error)
        else:
            opened.append(shard)
    for group in _groups(opened):
        _replace(pool, group)


def _groups(shards: list[Shard]) -> list[list[Shard]]:
    """Groups of neighbours that together have at most twice the size `SMALL`."""
    groups: list[list[Shard]] = [[]]
    for shard in shards:
        if sum(other.info.size for other in groups[-1]) + shard.info.size > 2 * SMALL:
            groups.append([])
        groups[-1].append(shard)
    return [group for group in groups if len(group) > 1]


def _replace(pool: PoolFiles, group: list[Shard]) -> None:
    keys = [shard.keys() for shard in group]
    digests, views = (np.concatenate(column) for column in zip(*keys, strict=True))
    features = np.empty((len(digests), *group[0].feature_shape), group[0].dtype)
    start = 0
    for shard in group:
        features[start : start + shard.info.rows] = shard.read(0, shard.info.rows)
        start += shard.info.rows
    info, data = build_shard(features, digests, views, order_of_keys(digests, views))
    publish_bytes(pool.directory, info.name, data)
    merged: set[ShardInfo] = {shard.info for shard in group}

    def change(current: Manifest | None) -> Manifest:
        assert current
        if not merged <= set(current.shards):
            return current
        kept = [shard for shard in current.shards if shard not in merged]
        return replace(current, shards=(*kept, info))

    pool.commit(change)

"""Appending rows to a pool."""

import time
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from store.errors import FeaturesError, SpecMismatchError
from store.index import words_of_rows
from store.manifest import Manifest, commit
from store.merge import merge_small_shards
from store.publish import publish_bytes
from store.shard import Digests, Views, build_shard, finite_rows, order_of_keys
from store.sweep import LEASE, sweep

if TYPE_CHECKING:
    from store.pool import Pool

SHARD_BYTES = 1 << 26
SECONDS = 60.0


class FeatureWriter:
    """Appends rows to a pool, as a context manager that holds the pool's lock.

    Rows are acknowledged by `commit`, which happens by itself after about 64 MiB or a minute and on
    leaving without an exception. Rows that the pool has already are passed over.
    """

    def __init__(self, pool: "Pool") -> None:
        self.pool = pool
        self._lock = pool.lock()
        self._pending: list[tuple[NDArray[Any], Digests, Views]] = []
        self._bytes = 0
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
            self._lock.__exit__(kind, error, trace)

    def append(self, features: NDArray[Any], digests: Digests, views: NDArray[Any]) -> None:
        """Add rows.

        Args:
            features: (n, …) of any float type; stored as the spec's dtype.
            digests: (n, 32), SHA-256 of the examples' encoded bytes.
            views: (n,), 0 for the plain image.

        Raises:
            FeaturesError: a value is not finite as the spec's dtype, or a shape is wrong.
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
        with np.errstate(over="ignore"):
            stored = features.astype(self.pool.spec.dtype, order="C")
        if not (finite := finite_rows(stored)).all():
            digest = digests[int(np.argmin(finite))].tobytes().hex()
            raise FeaturesError(
                f"digest {digest}: NaN or infinite as {stored.dtype}; nothing of it is stored"
            )
        self._pending.append((stored, digests, views))
        self._bytes += stored.nbytes
        if self._bytes >= SHARD_BYTES or time.monotonic() - self._since >= SECONDS:
            self.commit()

    def commit(self) -> None:
        """Publish and acknowledge what was appended.

        Raises:
            StorageError: it could not be written; the rows are kept for another try.
            SpecMismatchError: the rows have another shape than the pool's.
        """
        if self._pending:
            features, digests, views = (
                np.concatenate(column) for column in zip(*self._pending, strict=True)
            )
            self._pending = [(features, digests, views)]
            self._commit(features, digests, views, order_of_keys(digests, views))
            merge_small_shards(self.pool)
        self._pending, self._bytes = [], 0
        self._since = time.monotonic()

    def _commit(
        self, features: NDArray[Any], digests: Digests, views: Views, order: NDArray[np.intp]
    ) -> None:
        shape = features.shape[1:]

        def change(current: Manifest | None) -> Manifest:
            manifest = current or Manifest(spec=self.pool.spec)
            if manifest.feature_shape not in (None, shape):
                raise SpecMismatchError(
                    f"{self.pool.directory}: rows of {manifest.feature_shape}, not {shape}"
                )
            # Asked anew on every try: where locks fail, another committer may have been faster.
            index = self.pool.snapshot().index
            new = order[index.find(words_of_rows(digests[order], views[order])) < 0]
            shards = []
            for part in _parts(new, features.nbytes // len(features)):
                info, data = build_shard(features[part], digests[part], views[part])
                publish_bytes(self.pool.directory, info.name, data)
                shards.append(info)
            return replace(manifest, feature_shape=shape, shards=(*manifest.shards, *shards))

        commit(self.pool.directory, change)


def _parts(rows: NDArray[np.intp], row_bytes: int) -> list[NDArray[np.intp]]:
    """`rows` in equal parts of about a shard's size."""
    if len(rows) == 0:
        return []
    return np.array_split(rows, max(1, round(len(rows) * row_bytes / SHARD_BYTES)))

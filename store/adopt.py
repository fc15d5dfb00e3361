"""Taking the rows of a published feature set into a pool."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from store.errors import SpecMismatchError, StoreNotFoundError
from store.index import words_of_rows
from store.manifest import Manifest, commit, load
from store.publish import share
from store.reader import FeatureSet
from store.shard import Shard

if TYPE_CHECKING:
    from store.pool import Pool

log = logging.getLogger(__name__)

_BLOCK = 1 << 22  # bytes of features that are taken over at once


def adopt(pool: "Pool", directory: Path) -> int:
    """Take over the rows of a feature set that the pool lacks, after verifying it in full.

    Args:
        pool: The pool; its lock is taken.
        directory: The feature set, pulled by DVC or received.

    Returns:
        How many rows are new; 0 where there is no set, or one of another spec.

    Raises:
        IntegrityError: the set is not what its manifest says; nothing is taken.
    """
    try:
        _, manifest = load(directory)
    except StoreNotFoundError:
        return 0
    if manifest.spec != pool.spec or not manifest.published or not manifest.shards:
        return 0
    if not _lacks(pool, directory, manifest):
        return 0
    log.info("verifying %s before adopting its rows", directory)
    verified = FeatureSet.open(directory, full=True)
    return _take(pool, verified)


def _lacks(pool: "Pool", directory: Path, manifest: Manifest) -> bool:
    """Whether there is a row to take, by keys that nobody has verified yet."""
    index, shape = pool.snapshot().index, manifest.feature_shape or ()
    for info in manifest.shards:
        shard = Shard(directory, info, manifest.spec.dtype, shape)
        if (index.find(words_of_rows(*shard.keys())) < 0).any():
            return True
    return False


def _take(pool: "Pool", feature_set: FeatureSet) -> int:
    table = feature_set.table
    with pool.writer() as writer:
        _adopt_canary(pool, feature_set)
        index = pool.snapshot().index
        keys = [shard.keys() for shard in table.shards]
        absent = [index.find(words_of_rows(*key)) < 0 for key in keys]
        _adopt_shards(pool, feature_set, [i for i, new in enumerate(absent) if new.all()])
        for number, new in enumerate(absent):
            where = np.flatnonzero(new & ~new.all())
            step = max(1, _BLOCK // table.row_bytes)
            for start in range(0, len(where), step):
                part = where[start : start + step]
                taken = table.take(part + table.starts[number])
                writer.append(taken, keys[number][0][part], keys[number][1][part])
    return int(sum(new.sum() for new in absent))


def _adopt_shards(pool: "Pool", feature_set: FeatureSet, numbers: list[int]) -> None:
    """Link whole shards into the pool."""
    shards = [feature_set.manifest.shards[number] for number in numbers]
    shape = feature_set.feature_shape
    for shard in shards:
        share(feature_set.directory / shard.name, pool.directory / shard.name)

    def change(current: Manifest | None) -> Manifest:
        mine = current or Manifest(spec=pool.spec)
        if mine.feature_shape not in (None, shape):
            raise SpecMismatchError(
                f"{pool.directory}: rows of shape {mine.feature_shape}, not {shape}"
            )
        added = [shard for shard in shards if shard not in mine.shards]
        return replace(mine, feature_shape=shape, shards=(*mine.shards, *added))

    commit(pool.directory, change)


def _adopt_canary(pool: "Pool", feature_set: FeatureSet) -> None:
    """Compare later rows with those of the machine that computed these, if it is the first."""
    info = feature_set.manifest.canary
    if info is None or pool.manifest().canary is not None:
        return
    share(feature_set.directory / info.name, pool.directory / info.name)

    def change(current: Manifest | None) -> Manifest:
        return replace(current or Manifest(spec=pool.spec), canary=info)

    commit(pool.directory, change)

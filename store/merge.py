"""Merging a pool's small shards, which slow extraction commits every minute, into large ones."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cryobase.store.errors import IntegrityError
from cryobase.store.manifest import Manifest, ShardInfo
from cryobase.store.publish import publish_bytes
from cryobase.store.shard import Shard, build_shard, order_of_keys

if TYPE_CHECKING:
    from cryobase.store.pool import Pool

log = logging.getLogger(__name__)

MANY = 16
SMALL = 1 << 25


def merge_small_shards(pool: "Pool") -> None:
    """Once there are many small shards, make one of them; hold the pool's lock.

    Each is verified first, so that damage is not sealed under a new checksum.
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
    """Neighbours that make one shard of at most twice the size that is small."""
    groups: list[list[Shard]] = [[]]
    for shard in shards:
        if sum(other.info.size for other in groups[-1]) + shard.info.size > 2 * SMALL:
            groups.append([])
        groups[-1].append(shard)
    return [group for group in groups if len(group) > 1]


def _replace(pool: "Pool", group: list[Shard]) -> None:
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

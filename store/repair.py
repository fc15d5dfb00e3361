"""Mending a pool: damaged files are dropped, so that exactly their rows are computed again."""

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from store.columns import inspect
from store.errors import IntegrityError, StoreError
from store.files import bytes_of, open_regular, read_into
from store.index import Index, words_of_rows
from store.manifest import Manifest, ShardInfo, commit, manifest_path, versions
from store.publish import remove
from store.shard import COLUMNS, Shard, sum_of_rows

if TYPE_CHECKING:
    from store.pool import Pool

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Damage:
    """A shard that is not what its manifest says, and why."""

    shard: ShardInfo
    reason: str


def damages(directory: Path, manifest: Manifest, *, full: bool = True) -> list[Damage]:
    """The shards of a pool or feature set that are damaged or missing.

    Args:
        directory: Where they lie.
        manifest: Which they are.
        full: Whether to check every byte, not names, sizes and structure alone.
    """
    found = []
    for info in manifest.shards:
        try:
            shard = Shard(
                directory, info, manifest.spec.dtype, manifest.feature_shape or (), full=full
            )
            shard.keys(0, 0)
        except StoreError as error:
            found.append(Damage(info, str(error)))
    return found


def repair(pool: "Pool") -> list[Damage]:
    """Drop a pool's damaged shards, and a damaged manifest for one that is made from the files.

    Returns:
        What was dropped; `missing` now names the rows that were in it.
    """
    with pool.lock():
        _mend_manifest(pool)
        manifest = pool.manifest()
        found = damages(pool.directory, manifest)
        bad = {damage.shard for damage in found}
        shards = tuple(shard for shard in manifest.shards if shard not in bad)
        canary = manifest.canary
        try:
            pool.canary()
        except StoreError as error:
            log.warning("%s", error)
            canary = None
        if bad or canary != manifest.canary:
            mended = replace(manifest, shards=shards, canary=canary)
            commit(pool.directory, lambda _: mended)
        for damage in found:
            remove(pool.directory / damage.shard.name)
    return found


def _mend_manifest(pool: "Pool") -> None:
    """Replace a manifest that cannot be read by one of all intact shards in the directory."""
    try:
        pool.manifest()
    except IntegrityError as error:
        log.warning("%s", error)
    else:
        return
    shards: list[ShardInfo] = []
    shape, keys = None, []
    for path in sorted(pool.directory.glob("shard-*.h5")):
        try:
            info, shape = _described(path)
            shard = Shard(pool.directory, info, pool.spec.dtype, shape)
            keys.append(words_of_rows(*shard.keys()))
            Index(np.concatenate(keys))
        except StoreError as error:
            del keys[len(shards) :]
            log.warning("left out: %s", error)
        else:
            shards.append(info)
    found = Manifest(spec=pool.spec, feature_shape=shape if shards else None, shards=tuple(shards))
    for version in versions(pool.directory):
        remove(manifest_path(pool.directory, version))
    commit(pool.directory, lambda _: found)


def _described(path: Path) -> tuple[ShardInfo, tuple[int, ...]]:
    """What a manifest would say of a shard whose name is its content's SHA-256."""
    descriptor = open_regular(path)
    try:
        columns = inspect(descriptor, path, COLUMNS)
        data = bytearray(os.fstat(descriptor).st_size)
        read_into(descriptor, memoryview(data), 0, path)
        arrays = [np.empty(columns[name].shape, columns[name].dtype) for name in COLUMNS]
        for name, array in zip(COLUMNS, arrays, strict=True):
            read_into(descriptor, bytes_of(array), columns[name].offset, path)
    finally:
        os.close(descriptor)
    features, digests, views = arrays
    info = ShardInfo.of_shard(bytes(data), len(features), sum_of_rows(features, digests, views))
    if info.name != path.name:
        raise IntegrityError(f"{path}: its SHA-256 is not its name's")
    return info, features.shape[1:]

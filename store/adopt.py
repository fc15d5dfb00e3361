"""Importing rows that exist elsewhere: from a feature set, from another pool, or a whole set.

This module verifies every file in full before it uses a row. It never computes or repairs a row.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobase.store.canary import load_canary
from cryobase.store.errors import (
    ConflictError,
    IntegrityError,
    SpecMismatchError,
    StoreError,
    StoreNotFoundError,
    mended_by,
)
from cryobase.store.files import allow_open_files
from cryobase.store.keys import KeyIndex, Words, words_of_rows
from cryobase.store.manifest import FileInfo, Manifest, ShardInfo, load, manifest_path, versions
from cryobase.store.pool_files import PoolFiles
from cryobase.store.publish import (
    copy,
    make_directory,
    publish_bytes,
    remove,
    share,
    storage_errors,
    sync_directory,
)
from cryobase.store.reader import FeatureSet, mend_of
from cryobase.store.shard import Digests, Shard, Views
from cryobase.store.writer import FeatureWriter

log = logging.getLogger(__name__)

_BLOCK = 1 << 22  # bytes of features that are copied at once
_NO_KEYS = np.empty((0, 5), np.uint64)


def adopt(pool: PoolFiles, directory: Path) -> int:
    """Copy the rows of a feature set that the pool lacks. The set is verified in full first.

    Args:
        pool: The pool; its lock is taken.
        directory: The feature set, pulled by DVC or received.

    Returns:
        The number of new rows; 0 if there is no set, or if its spec is another.

    Raises:
        IntegrityError: the set does not match its manifest; no row is copied.
    """
    try:
        with mended_by(mend_of(directory)):
            _, manifest = load(directory)
    except StoreNotFoundError:
        return 0
    if manifest.spec != pool.spec or not manifest.published or not manifest.shards:
        return 0
    with mended_by(mend_of(directory)):
        lacking = _lacks(pool, directory, manifest)
    if not lacking:
        return 0
    log.info("verifying %s before adopting its rows", directory)
    verified = FeatureSet.open(directory, full=True)
    return take(pool, directory, verified.table.shards, canary=verified.manifest.canary)


def borrow(pool: PoolFiles, lender: PoolFiles, digests: Digests, views: int) -> int:
    """Copy wanted rows that the pool lacks from a lender: a pool that somebody else owns.

    The lender's shards are verified in full. A damaged shard is skipped with a warning.

    Args:
        pool: The pool that receives the rows; its lock is taken.
        lender: A pool of the same spec; it is only read.
        digests: (n, 32), of the images whose rows are wanted, in views 0 to `views`.
        views: The highest view wanted.

    Returns:
        The number of new rows.
    """
    wanted, numbers = pool.missing(digests, views)
    if len(wanted) == 0:
        return 0
    words = words_of_rows(wanted, numbers)
    try:
        manifest = lender.manifest()
    except StoreError as error:
        log.warning("%s: this pool is not used (%s)", lender.directory, error)
        return 0
    allow_open_files(len(manifest.shards))
    shards = distinct(list(_useful(lender, manifest, words)))
    if not shards:
        return 0
    log.info("copying rows from %s", lender.directory)
    return take(pool, lender.directory, shards, canary=manifest.canary, wanted=words)


def obtainable(pool: PoolFiles, directories: Sequence[Path], digests: Digests, views: int) -> int:
    """Count the wanted rows that the pool lacks and that other directories seem to have.

    The count is an estimate: it comes from keys that are not verified.

    Args:
        pool: The pool; it is only read.
        directories: Other pools, and feature sets. A directory that is missing or has another spec
            counts 0.
        digests: (n, 32), of the images whose rows are wanted, in views 0 to `views`.
        views: The highest view wanted.
    """
    wanted, numbers = pool.missing(digests, views)
    words = words_of_rows(wanted, numbers)
    obtained = np.zeros(len(words), np.bool_)
    for directory in directories if len(words) else ():
        try:
            _, manifest = load(directory)
            keys = [words_of_shard for _, words_of_shard in _keys_of(directory, manifest)]
        except StoreNotFoundError:
            continue
        except StoreError as error:
            log.warning("%s: its rows are not used (%s)", directory, error)
            continue
        for stored in keys if manifest.spec == pool.spec else ():
            obtained |= KeyIndex(stored).find(words) >= 0
    return int(obtained.sum())


def distinct(shards: Sequence[Shard]) -> list[Shard]:
    """Leave out each shard that repeats a row of an earlier shard."""
    words = [words_of_rows(*shard.keys()) for shard in shards]
    with suppress(IntegrityError):
        KeyIndex(np.concatenate([_NO_KEYS, *words]))
        return list(shards)
    kept, known = [], _NO_KEYS
    for shard, mine in zip(shards, words, strict=True):
        try:
            KeyIndex(more := np.concatenate([known, mine]))
        except IntegrityError as error:
            log.warning("%s: left out: %s", shard.path, error)
        else:
            kept.append(shard)
            known = more
    return kept


def take(
    pool: PoolFiles,
    directory: Path,
    shards: Sequence[Shard],
    *,
    canary: FileInfo | None,
    wanted: Words | None = None,
) -> int:
    """Import rows of shards that were verified in full and have no row twice.

    If no row of a shard is in the pool yet and most of its rows are wanted, the whole shard is
    linked or copied. Of other shards, only the new rows are copied.

    Args:
        pool: The pool; its lock is taken.
        directory: The directory of the shards and of the canary.
        shards: The shards.
        canary: Becomes the pool's canary, if the pool has no canary yet.
        wanted: The keys of the rows to import; if None, all rows that the pool lacks.

    Returns:
        The number of new rows.
    """
    count, asked = 0, None if wanted is None else KeyIndex(wanted)
    with FeatureWriter(pool) as writer:
        _adopt_canary(pool, directory, canary)
        index, whole = pool.snapshot().index, []
        for shard in shards:
            keys = shard.keys()
            words = words_of_rows(*keys)
            absent = index.find(words) < 0
            new = absent & (asked.find(words) >= 0) if asked else absent
            count += int(new.sum())
            if absent.all() and 2 * new.sum() > len(new):
                whole.append(shard)
            else:
                _append(writer, shard, keys, new)
        _adopt_shards(pool, directory, whole)
    return count


def _append(
    writer: FeatureWriter, shard: Shard, keys: tuple[Digests, Views], new: NDArray[np.bool_]
) -> None:
    """Copy some rows of a shard."""
    step = max(1, _BLOCK // (shard.dtype.itemsize * prod(shard.feature_shape)))
    for start in range(0, len(new), step):
        part = slice(start, min(start + step, len(new)))
        if (chosen := new[part]).any():
            rows, (digests, views) = shard.read(part.start, part.stop)[chosen], keys
            writer.append(rows, digests[part][chosen], views[part][chosen])


def _adopt_shards(pool: PoolFiles, directory: Path, shards: Sequence[Shard]) -> None:
    """Link whole shards into the pool."""
    if not shards:
        return
    for shard in shards:
        share(directory / shard.info.name, pool.directory / shard.info.name)

    def change(current: Manifest | None) -> Manifest:
        mine, shape = current or Manifest(spec=pool.spec), shards[0].feature_shape
        if mine.feature_shape not in (None, shape):
            raise SpecMismatchError(
                f"{pool.directory}: rows of shape {mine.feature_shape}, not {shape}"
            )
        added = [shard.info for shard in shards if shard.info not in mine.shards]
        return replace(mine, feature_shape=shape, shards=(*mine.shards, *added))

    pool.commit(change)


def _adopt_canary(pool: PoolFiles, directory: Path, info: FileInfo | None) -> None:
    """Give the pool the canary of these rows, unless it has a canary already."""
    if info is None or pool.manifest().canary is not None:
        return
    try:
        load_canary(directory, info)
    except StoreError as error:
        log.warning("%s; the pool stays without a canary", error)
        return
    share(directory / info.name, pool.directory / info.name)

    def change(current: Manifest | None) -> Manifest:
        return replace(current or Manifest(spec=pool.spec), canary=info)

    pool.commit(change)


def _lacks(pool: PoolFiles, directory: Path, manifest: Manifest) -> bool:
    """Whether the directory seems to have a row that the pool lacks; keys are not verified."""
    index = pool.snapshot().index
    return any((index.find(keys) < 0).any() for _, keys in _keys_of(directory, manifest))


def _keys_of(directory: Path, manifest: Manifest) -> Iterator[tuple[ShardInfo, Words]]:
    """The keys of each shard, not verified."""
    for info in manifest.shards:
        shard = Shard(directory, info, manifest.spec.dtype, manifest.feature_shape or ())
        yield info, words_of_rows(*shard.keys())


def _useful(lender: PoolFiles, manifest: Manifest, wanted: Words) -> Iterator[Shard]:
    """The sound shards of a pool that have at least one wanted row."""
    index, shape = KeyIndex(wanted), manifest.feature_shape or ()
    for info in manifest.shards:
        try:
            shard = Shard(lender.directory, info, manifest.spec.dtype, shape)
            if (index.find(words_of_rows(*shard.keys())) >= 0).any():
                shard.verify()
                yield shard
        except StoreError as error:
            log.warning("%s; its rows are not used, and are computed again", error)


def import_set(source: Path, target: Path) -> FeatureSet:
    """Copy a received feature set, if every byte of it is right.

    The copy is verified, not the source: the source's owner could change the source after a check.
    Only files that the manifest names are copied.

    Args:
        source: The received directory.
        target: A directory without a manifest, or a new one.

    Raises:
        IntegrityError: the set does not match its manifest; no copy is left.
        ConflictError: `target` has a manifest already.
    """
    with mended_by("get it from where it came again"):
        return _imported(source, target)


def _imported(source: Path, target: Path) -> FeatureSet:
    _, manifest = load(source)
    if versions(target):
        raise ConflictError(f"{target}: has a manifest already; choose another name")
    if manifest.published is None:
        raise StoreNotFoundError(f"{source}: a pool, not a feature set")
    make_directory(target)
    copied: list[Path] = []
    try:
        for info in manifest.files:
            copied.append(target / info.name)
            copy(source / info.name, target / info.name, info.size)
        received = FeatureSet(target, manifest, full=True)
        with storage_errors(target):
            sync_directory(target)  # a power cut must not leave the manifest alone
        publish_bytes(target, manifest_path(target, 1).name, manifest.to_bytes())
    except BaseException:
        for path in copied:
            remove(path)
        raise
    return received

"""Repairing pools and feature sets.

What is damaged in a pool is dropped, so that exactly its rows are computed again. The sound rows of
a damaged set go to the pool of its spec; if that is enough, the set is published anew from there.
"""

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cryobase.store.adopt import distinct, take
from cryobase.store.columns import inspect
from cryobase.store.errors import (
    IntegrityError,
    MissingFileError,
    NewerSchemaError,
    StoreError,
    StoreNotFoundError,
)
from cryobase.store.examples import ExamplesFile
from cryobase.store.files import allow_open_files, bytes_of, open_regular, read_file, read_into
from cryobase.store.manifest import (
    MAX_SHARD,
    MAX_VERSION,
    Manifest,
    ShardInfo,
    commit,
    load,
    manifest_path,
    versions,
)
from cryobase.store.pool_files import PoolFiles
from cryobase.store.publish import remove
from cryobase.store.publish_set import publish_set
from cryobase.store.reader import FeatureSet
from cryobase.store.shard import COLUMNS, Shard, sum_of_rows
from cryobase.store.spec import FeatureSpec
from cryobase.store.text import MAX_BYTES, parse_json

log = logging.getLogger(__name__)

_FINGERPRINT = re.compile(rb'"fingerprint":"([0-9a-f]{64})"')
_SPEC = re.compile(rb'"spec":(\{(?:[^{}"]|"(?:[^"\\]|\\.)*")*\})')


@dataclass(frozen=True)
class Damage:
    """A shard that is not what its manifest says, and why."""

    shard: ShardInfo
    reason: str


@dataclass(frozen=True)
class Mended:
    """What became of a feature set.

    Attributes:
        damage: What was wrong, a line each; nothing where the set was sound.
        rows: How many of its rows the pool took over.
        whole: Whether the set is there, and sound now.
    """

    damage: tuple[str, ...]
    rows: int
    whole: bool


def damages(directory: Path, manifest: Manifest, *, full: bool = True) -> list[Damage]:
    """The shards of a pool or feature set that are damaged or missing.

    Args:
        directory: Where they lie.
        manifest: Which they are.
        full: Whether to check every byte, not names, sizes and structure alone.
    """
    return examine(directory, manifest, full=full)[1]


def examine(
    directory: Path, manifest: Manifest, *, full: bool = True
) -> tuple[list[Shard], list[Damage]]:
    """The shards that are sound and have no row twice, opened, and the others; see `damages`."""
    sound, bad = [], []
    allow_open_files(len(manifest.shards))
    shape = manifest.feature_shape or ()
    for info in manifest.shards:
        try:
            shard = Shard(directory, info, manifest.spec.dtype, shape, full=full)
            shard.keys(0, 0)
        except StoreError as error:
            bad.append(Damage(info, str(error)))
        else:
            sound.append(shard)
    kept = distinct(sound)
    doubles = [shard for shard in sound if shard not in kept]
    bad += [Damage(one.info, f"{one.path}: has a row that another shard has") for one in doubles]
    return kept, bad


def repair(pool: PoolFiles) -> list[Damage]:
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


def repair_set(root: Path, directory: Path, *, output: Path | None = None) -> Mended:
    """Take the sound rows of a damaged set into their pool, and publish it anew if that is enough.

    Args:
        root: The directory of all pools.
        directory: The feature set.
        output: Where to publish it, if not there.
    """
    try:
        _, manifest = load(directory)
    except StoreNotFoundError:
        return Mended((), 0, whole=False)
    except NewerSchemaError:
        raise
    except IntegrityError as error:
        return _without_manifest(root, directory, str(error))
    try:
        FeatureSet(directory, manifest, full=True).close()
    except (IntegrityError, MissingFileError) as error:
        error.mend = ""
        damage = str(error)
    else:
        return Mended((), 0, whole=True)
    if all(info.is_sound(directory) for info in manifest.files):
        return Mended((damage,), 0, whole=False)  # the manifest itself is wrong
    shards, bad = examine(directory, manifest)
    pool = PoolFiles(root, manifest.spec)
    rows = take(pool, directory, shards, canary=manifest.canary)
    reasons = tuple(dict.fromkeys([*(one.reason for one in bad), damage]))
    return Mended(reasons, rows, whole=_is_published(pool, directory, manifest, output))


def withdraw(directory: Path) -> None:
    """Remove the manifests of a damaged set that is about to be published anew.

    Publishing keeps a manifest that states the same content, also one that is wrong otherwise.
    """
    for version in versions(directory):
        remove(manifest_path(directory, version))


def salvaged(directory: Path, spec: FeatureSpec) -> Manifest:
    """A manifest of all shards in a directory that are sound and hold rows of a spec."""
    shape: tuple[int, ...] | None = None
    shards: list[Shard] = []
    for path in sorted(directory.glob("shard-*.h5")):
        try:
            info, found = _described(path)
            shards.append(Shard(directory, info, spec.dtype, shape or found, full=True))
        except StoreError as error:
            log.warning("left out: %s", error)
        else:
            shape = shape or found
    infos = tuple(shard.info for shard in distinct(shards))
    return Manifest(spec=spec, feature_shape=shape if infos else None, shards=infos)


def told_spec(path: Path) -> tuple[FeatureSpec | None, str]:
    """The spec and the fingerprint that a damaged manifest still tells; they may not agree."""
    try:
        data = read_file(path, MAX_BYTES)
    except StoreError:
        return None, ""
    spec, text, fingerprint = None, _SPEC.search(data), _FINGERPRINT.search(data)
    try:
        spec = FeatureSpec.from_json(parse_json(text[1])) if text else None
    except (ValueError, StoreError):
        log.info("%s: tells no spec", path)
    return spec, fingerprint[1].decode() if fingerprint else ""


def spec_of(path: Path) -> FeatureSpec | None:
    """The spec of a pool's directory, which is called by its fingerprint."""
    try:
        found = [load(path)[1].spec]
    except NewerSchemaError:
        raise
    except IntegrityError:
        found = [
            spec
            for version in versions(path)
            if (spec := told_spec(manifest_path(path, version))[0])
        ]
    return of_fingerprint(path.name, found)


def of_fingerprint(name: str, specs: Iterable[FeatureSpec]) -> FeatureSpec | None:
    """The spec among some that has a fingerprint."""
    return next((spec for spec in specs if spec.fingerprint == name), None)


def _mend_manifest(pool: PoolFiles) -> None:
    """Replace a manifest that nothing can be made of by one of all intact shards there."""
    found = versions(pool.directory)
    try:
        pool.manifest()
    except NewerSchemaError:
        raise
    except IntegrityError as error:
        log.warning("%s", error)
    else:
        if found[-1:] != [MAX_VERSION]:
            return
    mended = salvaged(pool.directory, pool.spec)
    for version in found:
        remove(manifest_path(pool.directory, version))
    commit(pool.directory, lambda _: mended)


def _described(path: Path) -> tuple[ShardInfo, tuple[int, ...]]:
    """What a manifest would say of a shard whose name is its content's SHA-256."""
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        if size > MAX_SHARD:
            raise IntegrityError(f"{path}: {size} bytes, at most {MAX_SHARD} are allowed")
        columns = inspect(descriptor, path, COLUMNS)
        data = bytearray(size)
        read_into(descriptor, memoryview(data), 0, path)
        arrays = [np.empty(columns[name].shape, columns[name].dtype) for name in COLUMNS]
        for name, array in zip(COLUMNS, arrays, strict=True):
            read_into(descriptor, bytes_of(array), columns[name].offset, path)
    finally:
        os.close(descriptor)
    features, digests, views = arrays
    if digests.shape[1:] != (32,) or views.dtype != np.dtype("<u2") or len(features) == 0:
        raise IntegrityError(f"{path}: no shard of rows")
    info = ShardInfo.of_shard(bytes(data), len(features), sum_of_rows(features, digests, views))
    if info.name != path.name:
        raise IntegrityError(f"{path}: its SHA-256 is not its name's")
    return info, features.shape[1:]


def _without_manifest(root: Path, directory: Path, damage: str) -> Mended:
    """Save the rows of a set of which the manifest tells no more than the spec."""
    spec, fingerprint = told_spec(manifest_path(directory, versions(directory)[-1]))
    if spec is None or spec.fingerprint != fingerprint:
        return Mended((damage,), 0, whole=False)
    manifest = salvaged(directory, spec)
    shards = distinct(examine(directory, manifest)[0])
    rows = take(PoolFiles(root, spec), directory, shards, canary=None)
    return Mended((damage,), rows, whole=False)


def _is_published(
    pool: PoolFiles, directory: Path, manifest: Manifest, output: Path | None
) -> bool:
    """Publish a set anew from its own examples, if these are sound and the pool has all rows."""
    published = manifest.published
    assert published
    try:
        examples = ExamplesFile(directory, published.examples, published.classes, full=True).read()
    except StoreError:
        return False
    wanted = examples.digests[~examples.quarantined]
    if len(examples) != published.count or len(pool.missing(wanted, published.views)[0]):
        return False
    publish_set(pool, output or directory, examples, published.views)
    return True

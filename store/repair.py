"""Repairing pools and feature sets.

A pool drops its damaged shards, so that only their rows are computed again. The sound rows of a
damaged set are copied to the pool of its spec. If the pool then has all rows of the set, the set is
published again from the pool.
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
    """A shard that does not match its manifest, and the reason."""

    shard: ShardInfo
    reason: str


@dataclass(frozen=True)
class Mended:
    """The result of repairing a feature set.

    Attributes:
        damage: What was wrong, one line for each damage; empty if the set was sound.
        rows: The number of its rows that were copied to the pool.
        whole: Whether the set exists and is sound now.
    """

    damage: tuple[str, ...]
    rows: int
    whole: bool


def damages(directory: Path, manifest: Manifest, *, full: bool = True) -> list[Damage]:
    """The shards of a pool or feature set that are damaged or missing.

    Args:
        directory: The directory of the shards.
        manifest: The manifest that names the shards.
        full: Whether to check every byte, not only names, sizes and structure.
    """
    return examine(directory, manifest, full=full)[1]


def examine(
    directory: Path, manifest: Manifest, *, full: bool = True
) -> tuple[list[Shard], list[Damage]]:
    """The opened sound shards, without a row twice, and the damage of the others; see `damages`."""
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
    bad += [Damage(s.info, f"{s.path}: repeats a row of another shard") for s in doubles]
    return kept, bad


def repair(pool: PoolFiles) -> list[Damage]:
    """Drop a pool's damaged shards. Replace a damaged manifest by one made from the shards.

    Returns:
        The dropped shards. `missing` now returns the keys of their rows.
    """
    with pool.lock():
        _mend_manifest(pool)
        manifest = pool.manifest()
        dropped = damages(pool.directory, manifest)
        bad = {damage.shard for damage in dropped}
        shards = tuple(shard for shard in manifest.shards if shard not in bad)
        canary = manifest.canary
        try:
            pool.canary()
        except StoreError as error:
            log.warning("%s", error)
            canary = None
        if bad or canary != manifest.canary:
            repaired = replace(manifest, shards=shards, canary=canary)
            commit(pool.directory, lambda _: repaired)
        for damage in dropped:
            remove(pool.directory / damage.shard.name)
    return dropped


def repair_set(root: Path, directory: Path, *, output: Path | None = None) -> Mended:
    """Copy the sound rows of a damaged set to their pool. Publish it again if no row is missing.

    Args:
        root: The directory of all pools.
        directory: The feature set.
        output: Where to publish the set; if None, in `directory`.
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
    reasons = tuple(dict.fromkeys([*(shard.reason for shard in bad), damage]))
    return Mended(reasons, rows, whole=_is_published(pool, directory, manifest, output))


def withdraw(directory: Path) -> None:
    """Remove the manifests of a damaged set before it is published again.

    Otherwise publishing would keep a damaged manifest that has the right digest.
    """
    for version in versions(directory):
        remove(manifest_path(directory, version))


def salvaged(directory: Path, spec: FeatureSpec) -> Manifest:
    """A manifest of all shards in a directory that are sound and have rows of the spec."""
    shape: tuple[int, ...] | None = None
    shards: list[Shard] = []
    for path in sorted(directory.glob("shard-*.h5")):
        try:
            info, shape_here = _described(path)
            shards.append(Shard(directory, info, spec.dtype, shape or shape_here, full=True))
        except StoreError as error:
            log.warning("left out: %s", error)
        else:
            shape = shape or shape_here
    infos = tuple(shard.info for shard in distinct(shards))
    return Manifest(spec=spec, feature_shape=shape if infos else None, shards=infos)


def told_spec(path: Path) -> tuple[FeatureSpec | None, str]:
    """The spec and the fingerprint in a damaged manifest; they may not agree.

    Returns:
        The spec, None if it cannot be read; the fingerprint, empty if it cannot be read.
    """
    try:
        data = read_file(path, MAX_BYTES)
    except StoreError:
        return None, ""
    spec, text, fingerprint = None, _SPEC.search(data), _FINGERPRINT.search(data)
    try:
        spec = FeatureSpec.from_json(parse_json(text[1])) if text else None
    except (ValueError, StoreError):
        log.info("%s: its spec cannot be read", path)
    return spec, fingerprint[1].decode() if fingerprint else ""


def spec_of(path: Path) -> FeatureSpec | None:
    """The spec of a pool's directory, whose name is the fingerprint; None if it is lost."""
    try:
        specs = [load(path)[1].spec]
    except NewerSchemaError:
        raise
    except IntegrityError:
        specs = [
            spec
            for version in versions(path)
            if (spec := told_spec(manifest_path(path, version))[0])
        ]
    return of_fingerprint(path.name, specs)


def of_fingerprint(name: str, specs: Iterable[FeatureSpec]) -> FeatureSpec | None:
    """The spec with the fingerprint `name`, or None."""
    return next((spec for spec in specs if spec.fingerprint == name), None)


def _mend_manifest(pool: PoolFiles) -> None:
    """Replace an unreadable manifest by a manifest of all sound shards in the directory."""
    numbers = versions(pool.directory)
    try:
        pool.manifest()
    except NewerSchemaError:
        raise
    except IntegrityError as error:
        log.warning("%s", error)
    else:
        if numbers[-1:] != [MAX_VERSION]:
            return
    repaired = salvaged(pool.directory, pool.spec)
    for version in numbers:
        remove(manifest_path(pool.directory, version))
    commit(pool.directory, lambda _: repaired)


def _described(path: Path) -> tuple[ShardInfo, tuple[int, ...]]:
    """The manifest's entry of a shard, and the shape of its rows, both read from the file.

    Raises:
        IntegrityError: the file is not a shard, or its name does not match its content.
    """
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
        raise IntegrityError(f"{path}: not a shard of rows")
    info = ShardInfo.of_shard(bytes(data), len(features), sum_of_rows(features, digests, views))
    if info.name != path.name:
        raise IntegrityError(f"{path}: its SHA-256 differs from its name")
    return info, features.shape[1:]


def _without_manifest(root: Path, directory: Path, damage: str) -> Mended:
    """Copy the rows of a set with a damaged manifest to the pool, if the spec can be read."""
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
    """Publish a set again from its own examples, if they are sound and the pool has all rows.

    Returns:
        Whether it was published.
    """
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

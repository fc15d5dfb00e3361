"""Publishing a feature set: the rows of given examples, from a pool, in a directory of their own.

This module only reads the pool.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cryobase.store.errors import (
    ExamplesError,
    IntegrityError,
    MissingRowsError,
    StoreNotFoundError,
    mended_by,
)
from cryobase.store.examples import Examples
from cryobase.store.keys import Positions, words_of_rows
from cryobase.store.manifest import (
    KEY_BYTES,
    MAX_SHARED,
    MAX_VERSION,
    FileInfo,
    Manifest,
    Published,
    ShardInfo,
    load,
    manifest_path,
    set_digest,
    versions,
)
from cryobase.store.pool_files import MEND, PoolFiles, Snapshot, locked
from cryobase.store.publish import TEMPORARY_PREFIX, make_directory, publish_bytes, remove, share
from cryobase.store.rows import Rows, in_blocks, live_parts, sum_of_live
from cryobase.store.shard import (
    SHARD_BYTES,
    build_shard,
    keys_of,
    order_of_keys,
)

log = logging.getLogger(__name__)

_OWN = ("shard-", "examples-", "canary-", "manifest-", TEMPORARY_PREFIX)


def publish_set(pool: PoolFiles, directory: Path, examples: Examples, views: int) -> Manifest:
    """Make `directory` the feature set of `examples`, from rows of a pool.

    A shard of the pool becomes a hard link, or a copy if no link is possible. If the set needs only
    the smaller part of a shard, these rows are written to a new shard. Files that the set no longer
    names are removed. A set with the same content keeps its manifest.

    Args:
        pool: The pool; it is only read. A lock of the set is taken.
        directory: The set's directory.
        examples: The set's examples.
        views: The highest view.

    Raises:
        MissingRowsError: the pool lacks rows; the message gives their number and names one row.
        ExamplesError: too many examples share one row.
        StorageError: the disk is full or fails, or permissions forbid it.
    """
    with locked(pool.root / f".publish-{_name_of(directory)}.lock"), mended_by(MEND):
        return _published(pool.snapshot(), pool.directory, directory, examples, views)


def _name_of(directory: Path) -> str:
    """A name for a directory's lock, the same for every spelling of the path."""
    return hashlib.sha256(os.fsencode(Path(directory).resolve())).hexdigest()[:16]


def _published(
    now: Snapshot, pool: Path, directory: Path, examples: Examples, views: int
) -> Manifest:
    positions = _positions(now, examples, views)
    if len(examples) * (views + 1) > MAX_SHARED * (len(examples) + len(positions)):
        raise ExamplesError(
            f"{len(examples)} examples in {views + 1} views, but only {len(positions)} rows, as"
            " images are equal: opening such a set would cost more than the format allows; keep"
            " one example of each image, or fewer views"
        )
    existing = _existing(directory)
    total = sum_of_live(now.rows, positions)
    digest = set_digest(now.manifest.spec.fingerprint, examples.digest, views, total)
    if existing and _is_same(directory, existing, digest, now.manifest):
        _place(existing, pool, directory, now.manifest)
        _tidy(directory, existing)
        return existing
    make_directory(directory)
    linked, rewritten = _divide(now.rows, positions)
    shards = [*linked, *_rewrite(now.rows, rewritten, directory)]
    data = examples.to_bytes()
    info = FileInfo.of("examples", data)
    publish_bytes(directory, info.name, data)
    manifest = Manifest(
        spec=now.manifest.spec,
        feature_shape=now.manifest.feature_shape,
        shards=tuple(sorted(shards, key=lambda shard: shard.name)),
        canary=now.manifest.canary,
        published=Published(
            examples=info,
            count=len(examples),
            quarantined=int(examples.quarantined.sum()),
            classes=examples.classes,
            views=views,
            rows=len(positions),
            digest=digest,
        ),
    )
    _place(manifest, pool, directory, now.manifest)
    number = _next_version(directory)
    publish_bytes(directory, manifest_path(directory, number).name, manifest.to_bytes())
    _tidy(directory, manifest)
    return manifest


def _positions(now: Snapshot, examples: Examples, views: int) -> Positions:
    digests, numbers = keys_of(examples.digests[~examples.quarantined], views)
    if len(digests) == 0:
        raise MissingRowsError("no example outside of quarantine, so no feature set; add images")
    positions = now.index.find(words_of_rows(digests, numbers))
    if (absent := positions < 0).any():
        first = int(np.argmax(absent))
        raise MissingRowsError(
            f"{absent.sum()} of {len(positions)} rows are not in the pool, the first for digest"
            f" {digests[first].tobytes().hex()}, view {numbers[first]}; run `cryobase extract`"
        )
    return positions


def _is_same(directory: Path, existing: Manifest, digest: str, of_pool: Manifest) -> bool:
    """Whether a set has the wanted content already, or needs only links into the pool."""
    if existing.published is None or existing.published.digest != digest:
        return False
    own = [info for info in existing.files if info not in of_pool.files]
    return existing.canary == of_pool.canary and all(info.is_sound(directory) for info in own)


def _existing(directory: Path) -> Manifest | None:
    try:
        return load(directory)[1]
    except StoreNotFoundError:
        return None
    except IntegrityError as error:
        log.warning("%s: published again", error)
        return None


def _divide(rows: Rows, positions: Positions) -> tuple[list[ShardInfo], Positions]:
    """The shards to link, and the positions of rows to write to new shards."""
    linked, rewritten = [], [np.empty(0, np.int64)]
    for number, live in live_parts(rows, positions):
        info = rows.shards[number].info
        if 2 * len(live) > info.rows:
            linked.append(info)
        else:
            rewritten.append(live)
    return linked, np.concatenate(rewritten)


def _rewrite(rows: Rows, positions: Positions, directory: Path) -> Iterator[ShardInfo]:
    """Write rows to new shards, in the order of their keys: equal rows give equal shards."""
    if len(positions) == 0:
        return
    digests, views = rows.keys()
    digests, views = digests[positions], views[positions]
    row_bytes = rows.row_bytes + KEY_BYTES
    for part in in_blocks(order_of_keys(digests, views), row_bytes, SHARD_BYTES):
        info, data = build_shard(rows.take(positions[part]), digests[part], views[part])
        publish_bytes(directory, info.name, data)
        yield info


def _place(manifest: Manifest, pool: Path, directory: Path, of_pool: Manifest) -> None:
    """Link all files of the set that the pool has."""
    for info in of_pool.files:
        if info in manifest.files:
            target = directory / info.name
            if os.path.lexists(target) and not info.is_sound(directory):
                remove(target)
            share(pool / info.name, target)


def _next_version(directory: Path) -> int:
    """The number after the newest manifest's. A manifest with the highest number is removed."""
    numbers = versions(directory)
    if numbers and numbers[-1] == MAX_VERSION:
        remove(manifest_path(directory, numbers.pop()))
    return numbers[-1] + 1 if numbers else 1


def _tidy(directory: Path, manifest: Manifest) -> None:
    """Remove files that `manifest` does not name, and rename the manifest to version 1.

    With version 1 always, equal sets are equal directories, whatever was published before.
    """
    first, numbers = manifest_path(directory, 1), versions(directory)
    if numbers != [1]:
        newest = manifest_path(directory, numbers[-1])
        for version in numbers[:-1]:
            remove(manifest_path(directory, version))
        share(newest, first)
        remove(newest)
    names = {info.name for info in manifest.files} | {first.name}
    for path in directory.iterdir():
        if path.name in names:
            continue
        if path.name.startswith(_OWN):
            remove(path)
        else:
            log.warning("%s: not a file of the feature set; it stays", path)

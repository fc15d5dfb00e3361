"""Removing files that no manifest names."""

import time
from itertools import pairwise
from pathlib import Path

from cryobase.store.errors import IntegrityError
from cryobase.store.files import read_file
from cryobase.store.manifest import FileInfo, Manifest, manifest_path, versions
from cryobase.store.publish import TEMPORARY_PREFIX, remove
from cryobase.store.text import MAX_BYTES

LEASE = 3600.0
_KINDS = ("shard-", "examples-", "canary-", TEMPORARY_PREFIX)


def sweep(directory: Path, lease: float, *, dry_run: bool = False) -> list[Path]:
    """Remove superseded manifests and unnamed files, if older than `lease` seconds.

    A manifest's age is counted from its successor, so that a reader that has just read it finds all
    its files for the length of a lease. Hold the pool's lock.

    Returns:
        What was removed, or would be.
    """
    swept, found = [], versions(directory)
    for version, successor in pairwise(found):
        if _age(manifest_path(directory, successor)) > lease:
            swept.append(manifest_path(directory, version))
    kept = [path for v in found if (path := manifest_path(directory, v)) not in swept]
    names = {info.name for path in kept for info in _files(path, newest=path == kept[-1])}
    for path in directory.iterdir() if kept else ():
        unnamed = path.name.startswith(_KINDS) and path.name not in names
        if unnamed and _age(path) > lease:
            swept.append(path)
    for path in () if dry_run else swept:
        remove(path)
    return swept


def _files(path: Path, *, newest: bool) -> tuple[FileInfo, ...]:
    """What a manifest names; nothing where one that has a successor is damaged."""
    try:
        return Manifest.from_bytes(read_file(path, MAX_BYTES), path).files
    except IntegrityError:
        if newest:
            raise
        return ()


def _age(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0

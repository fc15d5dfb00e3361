"""A pool's directory: its manifests, rows, canary, lock, and removal of files no longer named.

This module never computes, imports or repairs a row. The modules `writer`, `adopt`, `publish_set`
and `repair` do so; they take a `PoolFiles`. `pool.Pool` combines them.
"""

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from cryobase.store.canary import build_canary, load_canary
from cryobase.store.errors import (
    ConflictError,
    IntegrityError,
    SpecMismatchError,
    StorageError,
    StoreNotFoundError,
    mended_by,
)
from cryobase.store.files import read_file
from cryobase.store.keys import KeyIndex, words_of_rows
from cryobase.store.manifest import FileInfo, Manifest, commit, load, manifest_path, versions
from cryobase.store.publish import (
    TEMPORARY_PREFIX,
    make_directory,
    publish_bytes,
    remove,
    storage_errors,
)
from cryobase.store.rows import Rows
from cryobase.store.shard import Digests, Views, keys_of
from cryobase.store.spec import FeatureSpec
from cryobase.store.text import MAX_BYTES

LOCK = "writers.lock"
MEND = "run `cryobase store repair`"
ELSEWHERE = "set CRYOBASE_POOL to a directory that you may write to"
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_IMPOSSIBLE = _FORBIDDEN | {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG}
SECONDS_OF_SILENCE = 2.0
LEASE = 3600.0  # seconds that a file is kept for its readers after no manifest names it
_KINDS = ("shard-", "examples-", "canary-", TEMPORARY_PREFIX)

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The content of a pool at one moment."""

    manifest: Manifest
    rows: Rows
    index: KeyIndex


class PoolFiles:
    """The directory of one spec's rows, `root/<fingerprint>/`.

    Readers need no lock; writers hold a file lock. Once a manifest names a row's shard, neither a
    crash nor another process can lose the row.

    Args:
        root: The directory of all pools, shared by every experiment, or by a team.
        spec: The spec of the rows.
    """

    def __init__(self, root: Path, spec: FeatureSpec) -> None:
        self.root = Path(root)
        self.spec = spec
        self.directory = self.root / spec.fingerprint
        self._snapshot: Snapshot | None = None

    @classmethod
    def all(cls, root: Path) -> list[Self]:
        """The pools under `root` that have a manifest, by fingerprint."""
        found = sorted(path for path in Path(root).glob("*") if versions(path))
        with mended_by(MEND):
            return [cls(root, load(path)[1].spec) for path in found]

    def __len__(self) -> int:
        return self.manifest().rows

    def manifest(self) -> Manifest:
        """The newest manifest; an empty one if the pool has none.

        Raises:
            IntegrityError: the manifest is damaged.
            SpecMismatchError: the manifest has another spec.
        """
        try:
            with mended_by(MEND):
                _, manifest = load(self.directory)
        except StoreNotFoundError:
            return Manifest(spec=self.spec)
        if manifest.spec != self.spec:
            changed = ", ".join(self.spec.differences(manifest.spec))
            raise SpecMismatchError(f"{self.directory}: rows of a spec with other {changed}")
        return manifest

    def commit(self, change: Callable[[Manifest | None], Manifest]) -> None:
        """Publish the next version of the manifest; see `cryobase.store.manifest.commit`."""
        with mended_by(MEND):
            commit(self.directory, change)

    def snapshot(self) -> Snapshot:
        """The rows of the newest manifest, opened, with their index."""
        with mended_by(MEND):
            return self._opened()

    def _opened(self) -> Snapshot:
        while True:
            manifest = self.manifest()
            if self._snapshot and self._snapshot.manifest == manifest:
                return self._snapshot
            try:
                rows = Rows(self.directory, manifest)
            except StoreNotFoundError:
                if self.manifest() == manifest:
                    raise
                continue
            rows.mend = MEND
            self._snapshot = Snapshot(manifest, rows, rows.index())
            return self._snapshot

    def missing(self, digests: Digests, views: int = 0) -> tuple[Digests, Views]:
        """The keys of `digests` × views 0 to `views` that have no row yet.

        Args:
            digests: (n, 32), in any order, with or without duplicates.
            views: The highest view wanted.

        Returns:
            (m, 32) digests and (m,) views: unique pairs, ordered by digest, then view.
        """
        wanted, numbers = keys_of(digests, views)
        absent = self.snapshot().index.find(words_of_rows(wanted, numbers)) < 0
        return wanted[absent], numbers[absent]

    def make_root(self) -> None:
        """Make the directory of all pools.

        Raises:
            StorageError: the directory cannot be made.
        """
        with _or_elsewhere(_IMPOSSIBLE):
            make_directory(self.root)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other writers of this pool out."""
        with locked(self.directory / LOCK):
            yield

    def sweep(self, lease: float = LEASE, *, dry_run: bool = False) -> list[Path]:
        """Remove files that no manifest names and that are older than `lease` seconds."""
        with nullcontext() if dry_run else self.lock(), mended_by(MEND):
            return sweep(self.directory, lease, dry_run=dry_run)

    def canary(self) -> NDArray[np.float32] | None:
        """The features of the probe images when the pool was new; None if not recorded yet."""
        info = self.manifest().canary
        with mended_by(MEND):
            return None if info is None else load_canary(self.directory, info)

    def record_canary(self, features: NDArray[Any]) -> None:
        """Record the features of the probe images. This happens once in a pool's life.

        Raises:
            ConflictError: other features are recorded already.
        """
        info, data = build_canary(features)
        publish_bytes(self.directory, info.name, data)

        def change(current: Manifest | None) -> Manifest:
            manifest = current or Manifest(spec=self.spec)
            if manifest.canary not in (None, info):
                raise ConflictError(f"{self.directory}: has other canary features already")
            return replace(manifest, canary=info)

        self.commit(change)


def sweep(directory: Path, lease: float, *, dry_run: bool = False) -> list[Path]:
    """Remove superseded manifests, and files that no manifest names, older than `lease` seconds.

    A manifest's age counts from the time of its successor. So a reader that has just read a
    manifest can open its files for at least `lease` seconds. The caller holds the pool's lock.

    Returns:
        The removed paths; with `dry_run`, the paths that would be removed.
    """
    swept, numbers = [], versions(directory)
    for version, successor in pairwise(numbers):
        if _age(manifest_path(directory, successor)) > lease:
            swept.append(manifest_path(directory, version))
    kept = [path for v in numbers if (path := manifest_path(directory, v)) not in swept]
    names = {info.name for path in kept for info in _files(path, newest=path == kept[-1])}
    for path in directory.iterdir() if kept else ():
        unnamed = path.name.startswith(_KINDS) and path.name not in names
        if unnamed and _age(path) > lease:
            swept.append(path)
    for path in () if dry_run else swept:
        remove(path)
    return swept


def _files(path: Path, *, newest: bool) -> tuple[FileInfo, ...]:
    """The files that a manifest names; empty if it is damaged and not the newest."""
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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file. All users who may write to its directory can lock it."""
    with _or_elsewhere(_IMPOSSIBLE), storage_errors(path):
        make_directory(path.parent)
        lock = FileLock(path, mode=0o666 & (path.parent.stat().st_mode | 0o600))
        try:
            lock.acquire(timeout=SECONDS_OF_SILENCE)
        except Timeout:
            log.info("waiting for another process that holds %s", path)
            lock.acquire()
    try:
        with _or_elsewhere(_FORBIDDEN, below=path.parent):
            yield
    finally:
        lock.release()


@contextmanager
def _or_elsewhere(numbers: frozenset[int], below: Path = Path("/")) -> Iterator[None]:
    """Append to errors about an unwritable pool that another directory can be used."""
    try:
        yield
    except StorageError as error:
        if error.errno in numbers and Path(error.filename).is_relative_to(below):
            error.mend = ELSEWHERE
        raise

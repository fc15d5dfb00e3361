"""The pool: every row of one spec that any experiment has computed, found by content."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from cryobase.store import adopt, assemble, repair, sweep
from cryobase.store.canary import build_canary, load_canary
from cryobase.store.errors import ConflictError, SpecMismatchError, StoreNotFoundError, mended_by
from cryobase.store.examples import Examples
from cryobase.store.index import Index, words_of_rows
from cryobase.store.manifest import Manifest, commit, load, versions
from cryobase.store.publish import make_directory, publish_bytes, storage_errors
from cryobase.store.rows import Rows
from cryobase.store.shard import Digests, Views
from cryobase.store.spec import FeatureSpec
from cryobase.store.writer import FeatureWriter

LOCK = "writers.lock"
MEND = "run `cryobase store repair`"
SECONDS_OF_SILENCE = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What the pool holds at one moment."""

    manifest: Manifest
    rows: Rows
    index: Index


@dataclass(frozen=True)
class Plan:
    """Rows that exist, rows to compute, and the bytes of one, None where no row exists yet."""

    existing: int
    missing: int
    row_bytes: int | None


class Pool:
    """The rows of one spec, in `root/<fingerprint>/`.

    Readers need no lock; writers hold a file lock. A row is acknowledged once a manifest names its
    shard, and from then on neither a crash nor another process can lose it.

    Args:
        root: The directory of all pools, shared by every experiment, or by a team.
        spec: What decides the rows' values.
    """

    def __init__(self, root: Path, spec: FeatureSpec) -> None:
        self.root = Path(root)
        self.spec = spec
        self.directory = self.root / spec.fingerprint
        self._snapshot: Snapshot | None = None

    @classmethod
    def all(cls, root: Path) -> "list[Pool]":
        """The pools under `root` that have a manifest, by fingerprint."""
        found = sorted(path for path in Path(root).glob("*") if versions(path))
        with mended_by(MEND):
            return [cls(root, load(path)[1].spec) for path in found]

    def __len__(self) -> int:
        return self.manifest().rows

    def manifest(self) -> Manifest:
        """The newest manifest; an empty one where nothing was ever written.

        Raises:
            IntegrityError: it is damaged.
            SpecMismatchError: it belongs to another spec.
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
            digests: (n, 32), in any order, doubles allowed.
            views: The highest view wanted.

        Returns:
            (m, 32) digests and (m,) views, unique, ordered by both.
        """
        wanted, numbers = assemble.keys_of(digests, views)
        absent = self.snapshot().index.find(words_of_rows(wanted, numbers)) < 0
        return wanted[absent], numbers[absent]

    def writer(self) -> FeatureWriter:
        """A writer for `with`: it waits for the lock; ask `missing` again inside."""
        return FeatureWriter(self)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other writers of this pool out."""
        with _locked(self.directory / LOCK):
            yield

    def publish(self, directory: Path, examples: Examples, views: int = 0) -> Manifest:
        """Make `directory` the feature set of `examples`.

        Shards become hard links of the pool's, or copies where no link is possible; those that are
        mostly of other rows are written anew. What the set no longer names is removed. A set with
        the same content keeps its manifest.

        Raises:
            MissingRowsError: the pool lacks rows; the message says how many and names one.
            StorageError: the disk is full or fails, or permissions forbid it.
        """
        lock = self.root / f".publish-{assemble.name_of(directory)}.lock"
        with _locked(lock), mended_by(MEND):
            return assemble.publish_set(self.snapshot, self.directory, directory, examples, views)

    def adopt(self, directory: Path) -> int:
        """Take over the rows of a feature set that was pulled; see `cryobase.store.adopt`."""
        return adopt.adopt(self, Path(directory))

    def borrow(self, lender: "Pool", digests: Digests, views: int = 0) -> int:
        """Take over rows from a pool that others own; see `cryobase.store.adopt.borrow`."""
        return adopt.borrow(self, lender, digests, views)

    def plan(self, digests: Digests, views: int = 0, lender: "Pool | None" = None) -> Plan:
        """What a set of `digests` × views 0 to `views` would need, before anything is computed."""
        wanted, numbers = assemble.keys_of(digests, views)
        now = self.snapshot()
        existing = int((now.index.find(words_of_rows(wanted, numbers)) >= 0).sum())
        existing += 0 if lender is None else adopt.lendable(self, lender, digests, views)
        known = now.manifest.feature_shape is not None
        return Plan(existing, len(wanted) - existing, now.rows.row_bytes if known else None)

    def repair(self) -> list[repair.Damage]:
        """Drop what is damaged, so that `missing` names its rows; see `cryobase.store.repair`."""
        return repair.repair(self)

    def sweep(self, lease: float = sweep.LEASE, *, dry_run: bool = False) -> list[Path]:
        """Remove what no manifest names and nobody has touched for `lease` seconds."""
        with nullcontext() if dry_run else self.lock(), mended_by(MEND):
            return sweep.sweep(self.directory, lease, dry_run=dry_run)

    def canary(self) -> NDArray[np.float32] | None:
        """The features of the probe images as they were when the pool began, None before that."""
        info = self.manifest().canary
        with mended_by(MEND):
            return None if info is None else load_canary(self.directory, info)

    def record_canary(self, features: NDArray[Any]) -> None:
        """Keep the features of the probe images, once.

        Raises:
            ConflictError: other ones are kept already.
        """
        info, data = build_canary(features)
        publish_bytes(self.directory, info.name, data)

        def change(current: Manifest | None) -> Manifest:
            manifest = current or Manifest(spec=self.spec)
            if manifest.canary not in (None, info):
                raise ConflictError(f"{self.directory}: has other canary features already")
            return replace(manifest, canary=info)

        self.commit(change)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file that whoever may write to its directory can hold too."""
    make_directory(path.parent)
    with storage_errors(path):
        lock = FileLock(path, mode=0o666 & path.parent.stat().st_mode)
        try:
            lock.acquire(timeout=SECONDS_OF_SILENCE)
        except Timeout:
            log.info("waiting for another process that holds %s", path)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()

"""The pool: all rows of one spec, computed by any experiment and looked up by content.

This class combines the modules that change a pool: `writer`, `adopt`, `publish_set`, `repair`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryobase.store import adopt, repair
from cryobase.store.errors import NewerSchemaError
from cryobase.store.examples import Examples
from cryobase.store.keys import words_of_rows
from cryobase.store.manifest import Manifest, versions
from cryobase.store.pool_files import PoolFiles
from cryobase.store.publish_set import publish_set
from cryobase.store.shard import Digests, keys_of
from cryobase.store.spec import FeatureSpec
from cryobase.store.writer import FeatureWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a set needs.

    Attributes:
        existing: The number of rows that exist.
        missing: The number of rows to compute.
        row_bytes: Bytes of one row; None if the pool has no row yet.
    """

    existing: int
    missing: int
    row_bytes: int | None


class Pool(PoolFiles):
    """The rows of one spec, with all operations on them; see `PoolFiles`."""

    def writer(self) -> FeatureWriter:
        """A writer, for a `with` block, which waits for the lock. Call `missing` again inside."""
        return FeatureWriter(self)

    def publish(self, directory: Path, examples: Examples, views: int = 0) -> Manifest:
        """Make `directory` the feature set of `examples`; see `cryobase.store.publish_set`."""
        return publish_set(self, directory, examples, views)

    def adopt(self, directory: Path) -> int:
        """Copy the rows of a feature set that was pulled; see `cryobase.store.adopt`."""
        return adopt.adopt(self, Path(directory))

    def borrow(self, lender: "Pool", digests: Digests, views: int = 0) -> int:
        """Copy rows from a pool that somebody else owns; see `cryobase.store.adopt.borrow`."""
        return adopt.borrow(self, lender, digests, views)

    def plan(
        self,
        digests: Digests,
        views: int = 0,
        lender: "Pool | None" = None,
        published: Path | None = None,
    ) -> Plan:
        """Count existing and missing rows of `digests` × views 0 to `views`; compute nothing.

        Args:
            digests: (n, 32), of the images.
            views: The highest view.
            lender: A pool that somebody else owns; its rows count as existing.
            published: The set's last published version; its rows count as existing.
        """
        wanted, numbers = keys_of(digests, views)
        now = self.snapshot()
        existing = int((now.index.find(words_of_rows(wanted, numbers)) >= 0).sum())
        # Not `if lender`: an empty pool is false.
        lent = None if lender is None else lender.directory
        others = [path for path in (lent, published) if path is not None]
        existing += adopt.obtainable(self, others, digests, views)
        known = now.manifest.feature_shape is not None
        return Plan(existing, len(wanted) - existing, now.rows.row_bytes if known else None)

    def repair(self) -> list[repair.Damage]:
        """Drop what is damaged, so that `missing` names its rows; see `cryobase.store.repair`."""
        return repair.repair(self)


def find_pools(root: Path, known: Callable[[], Iterable[FeatureSpec]]) -> Iterator[Pool]:
    """All pools below `root`, also those with a damaged manifest.

    If a pool's spec is lost, its manifests are removed, so that it is not used any more.

    Args:
        root: The directory of all pools.
        known: Returns candidates for the spec of a pool whose manifests do not contain it.
    """
    for path in sorted(path for path in Path(root).glob("*") if versions(path)):
        try:
            spec = repair.spec_of(path) or repair.of_fingerprint(path.name, known())
        except NewerSchemaError as error:
            log.warning("%s", error)
            continue
        if spec:
            yield Pool(root, spec)
            continue
        log.warning("%s: the spec of these rows is lost; they are not used any more", path)
        repair.withdraw(path)

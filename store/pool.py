"""The pool: every row of one spec that any experiment has computed, found by content.

Each method that changes rows is a function of its own module; this one gathers them.
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
    """Rows that exist, rows to compute, and the bytes of one, None where no row exists yet."""

    existing: int
    missing: int
    row_bytes: int | None


class Pool(PoolFiles):
    """The rows of one spec, and all that can be done with them; see `PoolFiles`."""

    def writer(self) -> FeatureWriter:
        """A writer for `with`: it waits for the lock; ask `missing` again inside."""
        return FeatureWriter(self)

    def publish(self, directory: Path, examples: Examples, views: int = 0) -> Manifest:
        """Make `directory` the feature set of `examples`; see `cryobase.store.publish_set`."""
        return publish_set(self, directory, examples, views)

    def adopt(self, directory: Path) -> int:
        """Take over the rows of a feature set that was pulled; see `cryobase.store.adopt`."""
        return adopt.adopt(self, Path(directory))

    def borrow(self, lender: "Pool", digests: Digests, views: int = 0) -> int:
        """Take over rows from a pool that others own; see `cryobase.store.adopt.borrow`."""
        return adopt.borrow(self, lender, digests, views)

    def plan(
        self,
        digests: Digests,
        views: int = 0,
        lender: "Pool | None" = None,
        published: Path | None = None,
    ) -> Plan:
        """What a set of `digests` × views 0 to `views` would need, before anything is computed.

        Args:
            digests: (n, 32) of the images.
            views: The highest view.
            lender: A pool that others own, whose rows would be taken over.
            published: A feature set whose rows would be, as of the set's last version.
        """
        wanted, numbers = keys_of(digests, views)
        now = self.snapshot()
        existing = int((now.index.find(words_of_rows(wanted, numbers)) >= 0).sum())
        lent = None if lender is None else lender.directory  # a pool without rows is false
        others = [path for path in (lent, published) if path is not None]
        existing += adopt.obtainable(self, others, digests, views)
        known = now.manifest.feature_shape is not None
        return Plan(existing, len(wanted) - existing, now.rows.row_bytes if known else None)

    def repair(self) -> list[repair.Damage]:
        """Drop what is damaged, so that `missing` names its rows; see `cryobase.store.repair`."""
        return repair.repair(self)


def find_pools(root: Path, known: Callable[[], Iterable[FeatureSpec]]) -> Iterator[Pool]:
    """All pools, those too whose manifest is damaged; what no spec can be found for is laid aside.

    Args:
        root: The directory of all pools.
        known: Specs that a pool may have whose manifests tell none.
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
        log.warning("%s: nothing tells which rows these are; they are not used any more", path)
        repair.withdraw(path)

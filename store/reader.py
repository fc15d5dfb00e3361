"""Reading a published feature set."""

import logging
import os
import shlex
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryobase.store.assemble import set_digest, sum_of_live
from cryobase.store.canary import load_canary
from cryobase.store.errors import IntegrityError, StoreNotFoundError, UnknownExampleError, mended_by
from cryobase.store.examples import Examples, ExamplesFile
from cryobase.store.join import rows_of
from cryobase.store.manifest import Manifest, Published, load
from cryobase.store.rows import Numbers, Rows, widened

log = logging.getLogger(__name__)

Features = NDArray[np.float32]
Labels = NDArray[np.int32]

_BLOCK = 1 << 22  # bytes that are read at once
_PLANNED = 1 << 14  # rows whose reading is planned at once


class FeatureSet:
    """A published directory: features with their ids, labels and classes.

    It needs nothing but its directory. What was opened stays readable, and stays the same, while
    others publish the next version. A million examples take five megabytes, until somebody asks for
    their ids or digests.

    Attributes:
        directory: Where it lies.
        manifest: What it consists of.
        spec: What decides its features' values.
        examples: Ids, digests, labels, quarantined or not; read when they are asked for.
        classes: The names of the classes, in order.
        feature_shape: The shape of one row.
        views: The highest view; 0 where only plain images are stored.
        digest: 64 hex digits, the same for the same content, however it is sharded.
        table: The rows by number, as they are stored.
    """

    def __init__(self, directory: Path, manifest: Manifest, *, full: bool = False) -> None:
        if manifest.published is None:
            raise StoreNotFoundError(f"{directory}: a pool, not a feature set")
        self.directory, self.manifest = Path(directory), manifest
        self.spec, self.classes = manifest.spec, manifest.published.classes
        self.views, self.digest = manifest.published.views, manifest.published.digest
        self.feature_shape = manifest.feature_shape or ()
        with mended_by(mend := mend_of(directory)):
            examples = manifest.published.examples
            self._file = ExamplesFile(directory, examples, self.classes, full=full)
            self.table = Rows(directory, manifest, full=full)
            self.table.mend = mend
            self._find_rows(manifest.published)
            if full:
                self._check_content()

    def _find_rows(self, published: Published) -> None:
        self._labels, hidden = self._file.labels()
        if (len(self._labels), hidden) != (published.count, published.quarantined):
            raise IntegrityError(f"{self._file.path}: not as many as the manifest says")
        self._rows = rows_of(self._file, self.table, self.views)
        self._count = len(self._labels) - hidden
        if absent := int(np.count_nonzero(self._rows < 0)) - hidden * (self.views + 1):
            raise IntegrityError(f"{self.directory}: {absent} rows of its examples are missing")

    @classmethod
    def open(cls, directory: Path, *, full: bool = False) -> "FeatureSet":
        """Open the newest version.

        Args:
            directory: The feature set.
            full: Check every byte first. Do so with whatever comes from elsewhere; the quick way
                checks the manifest, the structure of each file, the keys, and the SHA-256 of the
                files that this machine has not checked as they are now (`cryobase.store.verified`).

        Raises:
            StoreNotFoundError: there is no set, or a file of it is not there.
            IntegrityError: a file is not what the manifest says, or what the format allows.
        """
        with mended_by(mend_of(directory)):
            return cls._open(directory, full=full)

    @classmethod
    def _open(cls, directory: Path, *, full: bool) -> Self:
        _, manifest = load(directory, complete=True)
        while True:
            try:
                return cls(directory, manifest, full=full)
            except StoreNotFoundError:
                # A publisher may have removed what it replaced.
                _, newer = load(directory, complete=True)
                if newer == manifest:
                    raise
                manifest = newer

    def __len__(self) -> int:
        """The number of examples that have features."""
        return self._count

    @property
    def _live(self) -> NDArray[np.bool_]:
        """(n,) whether an example has a row: it is not in quarantine."""
        return np.asarray(self._rows[0] >= 0)

    @cached_property
    def examples(self) -> Examples:
        """Ids, digests, labels, quarantined or not."""
        with mended_by(mend_of(self.directory)):
            return self._file.read()

    @property
    def ids(self) -> NDArray[np.bytes_]:
        """(len,) the ids of the examples that have features, ascending."""
        return self.examples.ids[self._live]

    def rows(self, ids: ArrayLike | None = None, view: int = 0) -> NDArray[Any]:
        """(n, …) features as they are stored; see `arrays`."""
        return self.table.take(self._rows[self._view(view), self._positions(ids)])

    def labels(self, ids: ArrayLike | None = None) -> Labels:
        """(n,) positions in `classes`; see `arrays`."""
        return self._labels[self._positions(ids)].astype(np.int32)

    def arrays(self, ids: ArrayLike | None = None, view: int = 0) -> tuple[Features, Labels]:
        """Features and labels.

        Args:
            ids: Which examples, in which order; all that have features, by id, if None.
            view: 0 for the plain image.

        Returns:
            (n, …) float32 features and (n,) int32 labels, positions in `classes`.

        Raises:
            UnknownExampleError: an id is not in the set, or in quarantine.
        """
        chosen = self._positions(ids)
        features = self._widened(self._rows[self._view(view), chosen])
        return features, self._labels[chosen].astype(np.int32)

    def batches(
        self,
        ids: ArrayLike | None,
        size: int,
        *,
        shuffle: bool = False,
        block: int = 1,
        seed: int = 0,
        views: int = 0,
    ) -> Iterator[tuple[Features, Labels]]:
        """One pass over examples, in batches; a few of them are read ahead.

        Args:
            ids: Which examples; all that have features, by id, if None.
            size: Examples in a batch; the last one may have fewer.
            shuffle: Whether to go in random order, else in that of `ids`.
            block: With `shuffle`, the longest run of rows that lie side by side on disk and stay
                together. Rows lie in the order of their digests, which is as good as random: 16
                are read about twice as fast as single ones, and mix as well for training.
            seed: Of the order and the views; another one for every epoch.
            views: For each row, a view from 0 to this one is drawn.

        Returns:
            Pairs of (size, …) float32 features and (size,) int32 labels.

        Raises:
            UnknownExampleError: an id is not in the set, or in quarantine.
        """
        chosen = self._positions(ids)
        random = np.random.Generator(np.random.PCG64(seed))
        if shuffle:
            chosen = self._shuffle(chosen, block, random)
        highest, window = self._view(views), size * max(1, _PLANNED // size)

        def rows(part: Numbers) -> Numbers:
            drawn = random.integers(0, highest + 1, len(part)) if highest else 0
            return np.asarray(self._rows[drawn, part])

        features = self.table.batches(map(rows, _parts(chosen, window)), size, widened)
        labels = (self._labels[part].astype(np.int32) for part in _parts(chosen, size))
        return zip(features, labels, strict=True)

    def _shuffle(self, chosen: Numbers, block: int, random: "np.random.Generator") -> Numbers:
        if block <= 1:
            random.shuffle(chosen)  # in place
            return chosen
        chosen = chosen[np.argsort(self._rows[0, chosen])]
        whole = np.append(chosen, np.full(-len(chosen) % block, -1, chosen.dtype))
        places = random.permutation(whole.reshape(-1, block)).ravel()
        shuffled: Numbers = places[places >= 0]
        return shuffled

    def _positions(self, ids: ArrayLike | None) -> Numbers:
        """Where the examples `ids` stand; none of them may be in quarantine."""
        if ids is None:
            every = np.arange(len(self._labels), dtype=np.int32)
            return every if len(every) == len(self) else every[self._live]
        chosen = self.examples.positions(ids)
        if (hidden := self._rows[0, chosen] < 0).any():
            first = self.examples.ids[chosen[np.argmax(hidden)]]
            raise UnknownExampleError(f"id {bytes(first)!r}: in quarantine, so without features")
        return chosen

    def _view(self, view: int) -> int:
        if not 0 <= view <= self.views:
            raise UnknownExampleError(f"view {view}: {self.directory} has views 0 to {self.views}")
        return view

    def _widened(self, rows: Numbers) -> Features:
        features = np.empty((len(rows), *self.feature_shape), np.float32)
        step = max(1, _BLOCK // max(1, self.table.row_bytes))
        for start in range(0, len(rows), step):
            stop = start + step
            if self.table.dtype == np.float32:
                self.table.take(rows[start:stop], out=features[start:stop])
            else:
                features[start:stop] = widened(self.table.take(rows[start:stop]))
        return features

    def to_dask(self, ids: ArrayLike | None = None, view: int = 0) -> Any:
        """The features of `arrays` as a `dask.array`; see `cryobase.store.lazy`."""
        from cryobase.store.lazy import to_dask

        return to_dask(self, ids, view)

    def verify(self) -> None:
        """Check every byte of the opened files against the manifest.

        Raises:
            IntegrityError: the first file, row or digest that is wrong.
        """
        published = self.manifest.published
        assert published
        with mended_by(mend_of(self.directory)):
            for shard in self.table.shards:
                shard.verify()
            ExamplesFile(self.directory, published.examples, self.classes, full=True).read()
            self._check_content()

    def _check_content(self) -> None:
        """Check what the files make together; each by itself is right."""
        published = self.manifest.published
        assert published
        if self.manifest.canary:
            load_canary(self.directory, self.manifest.canary)
        positions = np.unique(self._rows[:, self._live])
        total = sum_of_live(self.table, positions)
        digest = set_digest(self.spec.fingerprint, self.examples, self.views, total)
        counts = (len(self.examples), int(self.examples.quarantined.sum()), len(positions))
        stated = (published.count, published.quarantined, published.rows)
        if digest != published.digest or counts != stated:
            raise IntegrityError(
                f"{self.directory}: the set's digest or counts are not the manifest's"
            )

    def close(self) -> None:
        """Close its shards; reading rows is over then."""
        self.table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.directory, self.manifest)


def mend_of(directory: Path) -> str:
    """What mends a feature set of this checkout."""
    return f"run `cryobase store repair {shlex.quote(os.path.abspath(directory))}`"


def _reopen(directory: Path, manifest: Manifest) -> FeatureSet:
    return FeatureSet(directory, manifest)


def _parts(values: Numbers, size: int) -> Iterator[Numbers]:
    return (values[start : start + size] for start in range(0, len(values), size))

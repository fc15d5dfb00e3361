"""One or several feature sets of the same images, read as one set with features side by side."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryobase.stages.errors import DataError
from cryobase.store import Examples, FeatureSet, IntegrityError, UnknownExampleError
from cryobase.store.text import visible

Paths = Path | Sequence[Path]
Positions = NDArray[np.signedinteger]


class SideBySide:
    """Reads like a `FeatureSet`, but each feature is one vector: the features of all sets in order.

    Attributes:
        specs: the specs of the sets.
        shapes: shape of one feature of each set.
        examples: the examples of all sets; an example is in quarantine if any set lacks its
            feature.
        classes: names of the classes.
        views: the highest view that all sets store.
        feature_shape: (width,).
        digest: the digest of a single set, or one digest over the digests of several sets.
    """

    def __init__(self, sets: Sequence[FeatureSet]) -> None:
        first = sets[0]
        for other in sets[1:]:
            if _images(other.examples) != _images(first.examples):
                raise DataError(
                    f"{other.directory}: other images or labels than {first.directory};"
                    " run `cryobase extract`"
                )
        self._sets = tuple(sets)
        self.specs = tuple(one.spec for one in sets)
        self.shapes = tuple(one.feature_shape for one in sets)
        self.examples: Examples = first.examples
        if len(sets) > 1:
            lacking = np.any([one.examples.quarantined for one in sets], axis=0)
            self.examples = replace(first.examples, quarantined=lacking)
        self.classes: tuple[str, ...] = first.classes
        self.views = min(one.views for one in sets)
        self.feature_shape = (sum(math.prod(shape) for shape in self.shapes),)
        joined = "\n".join(one.digest for one in sets).encode()
        self.digest = first.digest if len(sets) == 1 else hashlib.sha256(joined).hexdigest()

    @classmethod
    def open(cls, features: Paths) -> "SideBySide":
        """Open the set in one directory, or the sets in several.

        Raises:
            StoreError: a set cannot be opened.
            DataError: the sets have different images or labels.
        """
        directories = [features] if isinstance(features, Path) else list(features)
        return cls([FeatureSet.open(directory) for directory in directories])

    def __len__(self) -> int:
        return int(len(self.examples) - self.examples.quarantined.sum())

    def having(self, ids: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
        """The ids, of those given, that have a feature in every set.

        Raises:
            DataError: an id is not in the sets.
        """
        try:
            return ids[~self.examples.quarantined[self.examples.positions(ids)]]
        except UnknownExampleError as error:
            raise DataError(
                f"{self._sets[0].directory}: {error}; features and splits are of different images:"
                " run `cryobase extract && cryobase split`"
            ) from None

    def arrays(
        self, ids: ArrayLike | None = None, view: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Features (n, width) and labels (n,), see `FeatureSet.arrays`.

        Raises:
            IntegrityError: a feature is not finite. The store never writes such a feature, so
                somebody else wrote the set; training on it would make all weights NaN.
        """
        ids = self.having(self.examples.ids) if ids is None else np.asarray(ids)
        positions = self.examples.positions(ids)
        views = np.full(len(positions), view)
        for features, labels in self.read(positions, len(positions) or 1, views):
            return features, labels
        return np.empty((0, *self.feature_shape), np.float32), np.empty(0, np.int32)

    def read(
        self, positions: Positions, size: int, views: Positions | None = None
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int32]]]:
        """Examples by their positions along `examples`, in batches; see `FeatureSet.read`.

        Raises:
            IntegrityError: as `arrays`.
        """
        parts = [part_set.read(positions, size, views) for part_set in self._sets]
        for number, batches in enumerate(zip(*parts, strict=True)):
            labels = batches[0][1]
            for part_set, (features, _) in zip(self._sets, batches, strict=True):
                finite = np.isfinite(features).all(axis=tuple(range(1, features.ndim)))
                if not finite.all():
                    wrong = positions[number * size + int(finite.argmin())]
                    name = visible(bytes(self.examples.ids[wrong]).decode())
                    raise IntegrityError(
                        f"{part_set.directory}: the features of {name} are not finite; get the set"
                        " from its sender again"
                    )
            flat = [part.reshape(len(labels), math.prod(part.shape[1:])) for part, _ in batches]
            yield flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1), labels


def _images(examples: Examples) -> str:
    """A digest of ids, images, labels and classes. Sets that stand side by side have equal ones.

    The quarantine is left out: one backbone may lack an image that another has.
    """
    return replace(examples, quarantined=np.zeros(len(examples), np.bool_)).digest

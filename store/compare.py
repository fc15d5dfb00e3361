"""Comparing two feature sets: specs, classes, ids, images, labels and plain features."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.store.reader import FeatureSet

Ids = NDArray[np.bytes_]

_BLOCK = 4096


@dataclass(frozen=True)
class Difference:
    """How a feature set `b` differs from `a`.

    Attributes:
        spec: The fields that differ, as `{field: (in a, in b)}`.
        classes: The classes of both, if they differ.
        added: Ids that only `b` has.
        removed: Ids that only `a` has.
        replaced: Ids in both sets whose images differ.
        relabelled: Ids in both sets whose class names differ.
        quarantined: Ids in both sets that have features in only one of them.
        features: Ids with equal images whose features differ; empty if the specs differ.
        largest: The largest absolute difference between two feature values.
    """

    spec: dict[str, tuple[Any, Any]]
    classes: tuple[tuple[str, ...], tuple[str, ...]] | None
    added: Ids
    removed: Ids
    replaced: Ids
    relabelled: Ids
    quarantined: Ids
    features: Ids
    largest: float

    def __bool__(self) -> bool:
        columns = (self.added, self.removed, self.replaced, self.relabelled, self.quarantined)
        return bool(self.spec or self.classes or any(map(len, (*columns, self.features))))


def compare(a: FeatureSet, b: FeatureSet) -> Difference:
    """How `b` differs from `a`, in ids, images, labels and plain features."""
    ids, left, right = np.intersect1d(
        a.examples.ids, b.examples.ids, assume_unique=True, return_indices=True
    )
    replaced = (a.examples.digests[left] != b.examples.digests[right]).any(axis=1)
    names = [np.array([*s.classes, ""])[s.examples.labels] for s in (a, b)]
    hidden = a.examples.quarantined[left], b.examples.quarantined[right]
    spec = a.spec.differences(b.spec)
    shared = ids[~replaced & ~hidden[0] & ~hidden[1]]
    same_kind = not spec and a.feature_shape == b.feature_shape
    features, largest = _compare_features(a, b, shared if same_kind else shared[:0])
    return Difference(
        spec=spec,
        classes=None if a.classes == b.classes else (a.classes, b.classes),
        added=np.setdiff1d(b.examples.ids, ids, assume_unique=True),
        removed=np.setdiff1d(a.examples.ids, ids, assume_unique=True),
        replaced=ids[replaced],
        relabelled=ids[names[0][left] != names[1][right]],
        quarantined=ids[hidden[0] != hidden[1]],
        features=features,
        largest=largest,
    )


def _compare_features(a: FeatureSet, b: FeatureSet, ids: Ids) -> tuple[Ids, float]:
    differing, largest = [ids[:0]], 0.0
    for start in range(0, len(ids), _BLOCK):
        block = ids[start : start + _BLOCK]
        distance = np.abs(a.arrays(block)[0] - b.arrays(block)[0]).reshape(len(block), -1)
        differing.append(block[distance.any(axis=1)])
        largest = max(largest, float(distance.max()))
    return np.concatenate(differing), largest

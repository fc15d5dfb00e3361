"""Small feature sets with classes that can be told apart, and their splits."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cryobase.stages.data.splits import PARTS, Splits
from cryobase.store import Examples, FeatureSet, FeatureSpec, Pool

SPEC = FeatureSpec(
    backbone="efficientnet_lite0",
    weights_sha256="0" * 64,
    image_size=32,
    resize="bilinear",
    aspect="stretch",
    decode="exact",
    preprocessing="lite",
    output="avg",
    dtype="float32",
    augmentation=None,
    extractor_version=1,
)


def blobs(count: int, width: int, classes: int, *, spread: float = 1.0, seed: int = 0):
    """Features (count, width) around one centre per class, and labels."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(classes, width))
    labels = (np.arange(count) % classes).astype(np.int32)
    features = centres[labels] + spread * random.normal(size=(count, width))
    return features.astype(np.float32), labels


def publish(
    root: Path,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    classes: tuple[str, ...],
    views: int = 0,
    spec: FeatureSpec = SPEC,
    quarantined: Sequence[int] = (),
) -> FeatureSet:
    """A published set in `root/features`; view k is the plain feature plus k / 100."""
    ids = [f"image-{k:05}".encode() for k in range(len(labels))]
    digests = np.zeros((len(labels), 32), np.uint8)
    digests[:, :4] = np.arange(len(labels), dtype=">u4").view(np.uint8).reshape(-1, 4)
    pool = Pool(root / "pool", spec)
    with pool.writer() as writer:
        for view in range(views + 1):
            writer.append(features + view / 100, digests, np.full(len(labels), view))
    hidden = np.isin(np.arange(len(labels)), quarantined)
    examples = Examples.create(ids, digests, labels, hidden, classes)
    pool.publish(root / "features", examples, views)
    return FeatureSet.open(root / "features")


def split(
    root: Path, rows: FeatureSet, fractions=(0.6, 0.2, 0.2), seed: int = 0, ids=None
) -> Splits:
    """Random splits of a set, or of some of its examples, in `root/splits`."""
    ids = rows.ids if ids is None else ids
    drawn = np.random.default_rng(seed).choice(3, len(ids), p=fractions)
    splits = Splits(ids, drawn.astype(np.int8))
    splits.write(root / "splits", [{"part": part, "images": 0} for part in PARTS])
    return splits

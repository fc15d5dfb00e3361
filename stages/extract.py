"""Stage `extract`: compute the rows that the pool lacks, and publish a feature set.

`stages/extraction` computes rows and the store keeps and publishes them; this module decides which
rows are needed.
"""

import logging
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cryobase.stages.backbones.table import BACKBONES, EXTRACTOR_VERSION
from cryobase.stages.backbones.weights import WeightsFile, locate_weights, weights_at_hand
from cryobase.stages.data.augment import Augmentation
from cryobase.stages.errors import DataError
from cryobase.stages.extraction.plan import Images, Target, remember_rate
from cryobase.store import Examples, FeatureSpec, Pool
from cryobase.store.errors import IntegrityError, MissingFileError, mended_by
from cryobase.store.text import counted

if TYPE_CHECKING:
    from cryobase.stages.extraction.passes import Computed

Preprocessing = Literal["own", "caffe", "torch", "symmetric", "unit", "lite", "identity"]

UNKNOWN = "0" * 64  # used as the SHA-256 of weights that are not on this machine

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """`extract.sets.<name>`: everything that decides a feature set's values.

    Attributes:
        backbone: a key of `BACKBONES`.
        weights: "imagenet", a path, or "none" (seeded, for trials).
        image_size: side in pixels; None means the default size of the backbone.
        resize: "bilinear" as `image_dataset_from_directory`, "nearest" as `ImageDataGenerator`.
        aspect: how images that are not square become square.
        decode: "fast" decodes large JPEGs at a reduced scale.
        preprocessing: None means the preprocessing of the backbone; else the key of another.
        output: "avg", "max", "flatten" or a layer's name, alone or with ":avg", ":max", ":flatten".
        dtype: dtype of the stored features.
        views: number of augmented versions of each image that are stored beside the plain one.
        augmentation: how views are drawn; required if `views` is more than 0.
    """

    backbone: str
    weights: str = "imagenet"
    image_size: int | None = None
    resize: Literal["bilinear", "nearest"] = "bilinear"
    aspect: Literal["stretch", "crop", "pad"] = "stretch"
    decode: Literal["exact", "fast"] = "exact"
    preprocessing: Preprocessing = "own"
    output: str = "avg"
    dtype: Literal["float16", "float32"] = "float16"
    views: int = 0
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone: one of {', '.join(BACKBONES)}")
        smallest = BACKBONES[self.backbone].smallest
        if self.image_size is not None and self.image_size < smallest:
            raise ValueError(f"image_size: {self.backbone} takes {smallest} or more")
        if not 0 <= self.views <= 1000:
            raise ValueError("views: 0 to 1000")
        if self.views and self.augmentation is None:
            raise ValueError("augmentation: needed if views is more than 0")
        if not self.output or self.output.startswith(":"):
            raise ValueError("output: avg, max, flatten, LAYER or LAYER:avg|max|flatten")

    @property
    def size(self) -> int:
        """Side of the square input in pixels."""
        return self.image_size or BACKBONES[self.backbone].image_size


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """`extract`: the feature sets by name, and how to compute them.

    Only `sets` changes values of features; the other keys do not.

    Attributes:
        engine: "auto" takes the fastest engine that reproduces the TensorFlow reference.
        workers: Dask workers to start on this machine; 0 computes in this process.
        scheduler_address: address of the scheduler of a running Dask cluster.
        scheduler_file: the file that this scheduler wrote.
        insecure: allow a scheduler on another machine without TLS.
        batch_size: images per forward pass.
        max_bytes: refuse to compute more bytes of rows than this; None means that only the free
            space limits them.
        sets: the feature sets by name.
    """

    engine: Literal["auto", "tensorflow", "openvino"] = "auto"
    workers: int = 0
    scheduler_address: str = ""
    scheduler_file: str = ""
    insecure: bool = False
    batch_size: int = 32
    max_bytes: int | None = None
    sets: Mapping[str, SetConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError("workers: 0 or more")
        if not 1 <= self.batch_size <= 4096:
            raise ValueError("batch_size: 1 to 4096")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise ValueError("max_bytes: 1 or more")


@dataclass(frozen=True, kw_only=True)
class ExtractSummary:
    """The result of a run.

    Attributes:
        name: name of the feature set.
        fingerprint: fingerprint of its feature spec.
        images: distinct images that have rows now.
        adopted: rows taken over from an earlier version of the set.
        reused: rows of the set that were already in the pool.
        computed: rows of the set computed now.
        siblings: rows computed now for other sets with the same trunk.
        quarantined: examples of the set without rows.
    """

    name: str
    fingerprint: str
    images: int
    adopted: int
    reused: int
    computed: int
    siblings: int
    quarantined: int


def spec_of(config: SetConfig) -> FeatureSpec:
    """The feature spec that a set's config means. Loads Keras only if weights must be made.

    Raises:
        MissingWeightsError: the weights cannot be found; the message says which file to put where.
    """
    return _spec(config, weights_of(config).sha256)


def spec_at_hand(config: SetConfig, otherwise: str = UNKNOWN) -> tuple[FeatureSpec, bool]:
    """Like `spec_of`, but downloads and makes nothing.

    Args:
        config: the set.
        otherwise: the SHA-256 to use for weights that are not on this machine.

    Returns:
        The spec, and whether its weights are on this machine.

    Raises:
        MissingWeightsError: the weights are not available; the message says which file to put
            where.
    """
    found = weights_at_hand(config.backbone, config.weights, image_size=config.size)
    return _spec(config, found.sha256 if found else otherwise), found is not None


def weights_of(config: SetConfig) -> WeightsFile:
    """The weights file that a set's config means."""
    return locate_weights(config.backbone, config.weights, image_size=config.size)


def run(
    config: ExtractConfig,
    name: str,
    *,
    raw: Path,
    pool: Path,
    output: Path,
    before: Path | None = None,
    lender: Path | None = None,
) -> ExtractSummary:
    """Compute the rows of a set and of its siblings that the pool lacks, and publish the set.

    Before anything is computed, rows are taken from the last version of the set (pulled by DVC,
    for example) and from the lender's pool.

    Args:
        config: the section `extract`.
        name: name of the set in `config.sets` to publish.
        raw: the output directory of `download`.
        pool: the directory of all pools.
        output: the directory of the feature set.
        before: directory of its last version, if this is not `output`.
        lender: somebody else's directory of all pools; it is only read.

    Raises:
        MissingWeightsError: weights are missing.
        DriftError: the features of the canary images changed.
        DataError: images are missing or changed since they were downloaded.
    """
    images = Images(raw)
    if not len(images):
        raise DataError(f"{raw}: no image that can be decoded; run `cryobase download`")
    weights = weights_of(config.sets[name])
    own, *siblings = _views_wanted(config, name, weights.sha256).items()
    targets = [Target(Pool(pool, spec), views) for spec, views in (own, *siblings)]
    with mended_by(f"run `cryobase store repair {shlex.quote(name)}`"):
        adopted = _adopted(targets[0], images, before or output)
    adopted += _borrowed(targets, images, lender)
    started = time.monotonic()
    computed = _computed(config, targets, images, weights)
    if total := computed.rows.total():
        remember_rate(pool, own[0].fingerprint, total, time.monotonic() - started)
    examples = _quarantined(images.raw.examples, computed.failures)
    targets[0].pool.publish(output, examples, config.sets[name].views)
    mine = computed.rows[own[0].fingerprint]
    kept = len(images) - len(computed.failures)
    summary = ExtractSummary(
        name=name,
        fingerprint=own[0].fingerprint,
        images=kept,
        adopted=adopted,
        reused=kept * (own[1] + 1) - mine,
        computed=mine,
        siblings=computed.rows.total() - mine,
        quarantined=int(examples.quarantined.sum()),
    )
    _tell(summary, output)
    return summary


def _adopted(target: Target, images: Images, before: Path) -> int:
    """Take over the rows of a set's last version.

    A damaged version is an error only if the pool lacks rows; else it is a warning.
    """
    try:
        return target.pool.adopt(before)
    except (IntegrityError, MissingFileError) as error:
        blocks = map(images.raw.digests, images.blocks())
        if any(len(target.pool.missing(block, target.views)[0]) for block in blocks):
            raise
        logger.warning("%s; not needed, as the pool has all rows", error)
        return 0


def _borrowed(targets: list[Target], images: Images, lender: Path | None) -> int:
    """Copy rows that the targets lack from a lender's pools; returns how many `targets[0]` got."""
    if lender is None:
        return 0
    logger.info("%s: only read; new rows go to %s", lender, targets[0].pool.root)
    rows = [
        sum(
            target.pool.borrow(Pool(lender, target.spec), images.raw.digests(block), target.views)
            for block in images.blocks()
        )
        for target in targets
    ]
    return rows[0]


def _spec(config: SetConfig, weights_sha256: str) -> FeatureSpec:
    own = BACKBONES[config.backbone].preprocessing
    return FeatureSpec(
        backbone=config.backbone,
        weights_sha256=weights_sha256,
        image_size=config.size,
        resize=config.resize,
        aspect=config.aspect,
        decode=config.decode,
        preprocessing=own if config.preprocessing == "own" else config.preprocessing,
        output=config.output,
        dtype=config.dtype,
        augmentation=config.augmentation.to_json()
        if config.augmentation and config.views
        else None,
        extractor_version=EXTRACTOR_VERSION,
    )


def _computed(
    config: ExtractConfig, targets: list[Target], images: Images, weights: WeightsFile
) -> "Computed":
    """Compute the rows that the targets lack, in this process or on a cluster."""
    settings: dict[str, Any] = {
        "engine": config.engine,
        "batch_size": config.batch_size,
        "max_bytes": config.max_bytes,
    }
    if config.workers or config.scheduler_address or config.scheduler_file:
        from cryobase.stages.extraction import cluster

        where = cluster.Cluster(
            workers=config.workers,
            scheduler_address=config.scheduler_address,
            scheduler_file=config.scheduler_file,
            insecure=config.insecure,
        )
        return cluster.compute(targets, images, weights, cluster=where, **settings)
    from cryobase.stages.extraction.passes import compute

    return compute(targets, images, weights, **settings)


def _views_wanted(config: ExtractConfig, name: str, weights_sha256: str) -> dict[FeatureSpec, int]:
    """The specs that one forward pass can serve, with their highest views; the set's spec first."""
    chosen = config.sets[name]
    own = _spec(chosen, weights_sha256)
    wanted = {own: chosen.views}
    for candidate in config.sets.values():
        if (candidate.backbone, candidate.weights) != (chosen.backbone, chosen.weights):
            continue
        spec = _spec(candidate, weights_sha256)
        if spec.pass_key() == own.pass_key():
            wanted[spec] = max(candidate.views, wanted.get(spec, 0))
    return wanted


def _quarantined(examples: Examples, failures: Mapping[bytes, str]) -> Examples:
    """The examples; those whose image could not be decoded now are in quarantine too."""
    if not failures:
        return examples
    failed = [bytes(digest) in failures for digest in examples.digests]
    for position in np.flatnonzero(failed):
        reason = failures[bytes(examples.digests[position])]
        logger.warning("%s: in quarantine: %s", examples.ids[position].decode(), reason)
    return replace(examples, quarantined=examples.quarantined | np.array(failed))


def _tell(summary: ExtractSummary, output: Path) -> None:
    logger.info(
        "%s: %s computed, %s reused, %s adopted; %s in quarantine; published at %s",
        summary.name,
        counted(summary.computed, "row"),
        *(f"{n:,}" for n in (summary.reused, summary.adopted)),
        counted(summary.quarantined, "example"),
        output,
    )

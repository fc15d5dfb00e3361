"""Computing the rows that the pools lack, in this process or as a part in a worker.

Owns what a pass does to pools: the order of their locks, the space that rows need, and checking
that an engine reproduces each pool's canary rows before it writes there. Threads are in `flow.py`.
"""

import logging
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.probes import canary_images
from cryobase.stages.backbones.weights import WeightsFile
from cryobase.stages.data.augment import Augmentation, augment
from cryobase.stages.data.pixels import PixelSpec, load
from cryobase.stages.errors import ConfigError
from cryobase.stages.extraction.engines import (
    check_features,
    check_reference,
    reference,
    start_engine,
)
from cryobase.stages.extraction.flow import FeatureBatch, Flow
from cryobase.stages.extraction.plan import (
    Images,
    Pass,
    Target,
    plan,
    pooled_bytes,
)
from cryobase.stages.extraction.trunk import Engine, Trunk, cores
from cryobase.store.errors import ConflictError
from cryobase.store.shard import Digests, Views
from cryobase.store.text import counted
from cryobase.store.writer import FeatureWriter

logger = logging.getLogger(__name__)


class TooLargeError(ConfigError):
    """There is not enough space for the rows."""


@dataclass
class Computed:
    """The results of passes: rows by fingerprint, and reasons of images without rows, by digest."""

    rows: Counter[str] = field(default_factory=Counter)
    failures: dict[bytes, str] = field(default_factory=dict)


def compute(
    targets: Sequence[Target],
    images: Images,
    weights: WeightsFile,
    *,
    engine: str,
    batch_size: int,
    max_bytes: int | None = None,
) -> Computed:
    """Fill the targets' pools under their locks. If no row is missing, nothing is loaded.

    Args:
        targets: pools whose specs may differ only in output, dtype and augmentation.
        images: the images whose rows are wanted.
        weights: the file of the specs' weights.
        engine: a key of `ENGINES` or "auto".
        batch_size: images per forward pass.
        max_bytes: the most bytes of rows to compute; if None, as many as are free.

    Raises:
        TooLargeError: the rows need more than `max_bytes`, or more than is free. Nothing was
            decoded.
        DriftError: the engine does not reproduce a pool's canary rows.
        DataError: an image's bytes are missing or changed.
    """
    computed = Computed()
    lacking = {target for each in plan(targets, images) for target in each.targets}
    if not lacking:
        return computed
    # all processes lock in the same order: otherwise two could wait for each other
    ordered = sorted(lacking, key=lambda target: target.spec.fingerprint)
    with ExitStack() as stack:
        writers = {target: stack.enter_context(target.pool.writer()) for target in ordered}
        passes = plan(ordered, images)  # again: another process may have added rows
        starts = [
            cache(partial(checked_engine, each, weights, engine, batch_size)) for each in passes
        ]
        check_size(passes, starts, max_bytes)
        for each, start in zip(passes, starts, strict=True):
            for batch in flow_of(each, images, start, batch_size):
                _write(batch, each, images, writers, computed)
    return computed


def rows_of(
    batch: FeatureBatch, each: Pass, images: Images
) -> Iterator[tuple[Target, NDArray[np.float32], Digests, Views]]:
    """The rows of a batch for each target: features, digests, views."""
    digests = images.raw.digests(each.positions[batch.indices])
    for target in each.targets if len(digests) else ():
        features = batch.features[each.outputs.index(target.spec.output)]
        yield target, features, digests, each.views[batch.indices]


def failures_of(batch: FeatureBatch, each: Pass, images: Images) -> dict[bytes, str]:
    """The reasons of the images without a row, by digest."""
    return {images.digest(each.positions[i]): reason for i, reason in batch.failures.items()}


def _write(
    batch: FeatureBatch,
    each: Pass,
    images: Images,
    writers: Mapping[Target, FeatureWriter],
    computed: Computed,
) -> None:
    for target, features, digests, views in rows_of(batch, each, images):
        writers[target].append(features, digests, views)
        computed.rows[target.spec.fingerprint] += len(features)
    computed.failures |= failures_of(batch, each, images)


def flow_of(each: Pass, images: Images, start: Callable[[], Engine], batch_size: int) -> Flow:
    """The flow that loads and augments the images of a pass and computes their features."""
    spec = each.targets[0].spec
    pixels = PixelSpec.of(spec)

    def plain(position: int) -> NDArray[np.float32]:
        return load(images.raw.read(position), pixels)

    # the views of an image follow each other, so few decoded images need to be kept
    kept = lru_cache(2 * cores())(plain) if each.views.any() else plain
    policy = Augmentation.from_json(spec.augmentation or "{}") if each.views.any() else None

    def image(index: int) -> NDArray[np.float32]:
        position, view = int(each.positions[index]), int(each.views[index])
        if policy is None:
            return plain(position)
        return augment(kept(position), policy, images.digest(position), view)

    return Flow(
        image,
        start,
        count=len(each.positions),
        image_size=spec.image_size,
        batch_size=batch_size,
    )


def checked_engine(each: Pass, weights: WeightsFile, name: str, batch_size: int) -> Engine:
    """Start an engine, and compare it with the canary rows of every pool that it will write to.

    A pool without canary rows gets those of the reference, which are computed now. Otherwise a bad
    engine, or a bad model in the cache, could define the canary rows for all later writers.
    """
    spec = each.targets[0].spec
    trunk = Trunk(
        backbone=spec.backbone,
        weights=weights,
        image_size=spec.image_size,
        preprocessing=spec.preprocessing,
    )
    expected: list[NDArray[np.float32]] = []  # features of the reference, computed if needed

    def check(engine: Engine) -> None:
        found = engine(canary_images(spec.image_size))
        for target in each.targets:
            recorded = target.pool.canary()
            if recorded is not None:
                rows = found[each.outputs.index(target.spec.output)]
                check_features(rows, recorded, f"{target.pool.directory} with {engine.name}")
            elif not expected:
                expected.extend(reference(engine, found, trunk, each.outputs))
        if expected:
            check_reference(found, expected, f"{spec.backbone} with {engine.name}")

    engine = start_engine(name, trunk, each.outputs, batch_size, check)
    for target in each.targets:
        if target.pool.canary() is None:
            try:
                target.pool.record_canary(expected[each.outputs.index(target.spec.output)])
            except ConflictError:  # another process, with another processor, was faster
                check(engine)
    return engine


def check_size(
    passes: Sequence[Pass], starts: Sequence[Callable[[], Engine]], max_bytes: int | None
) -> None:
    """Refuse rows that need too much space.

    For outputs other than `avg` and `max` the engine is started, to learn the shape of a row.

    Raises:
        TooLargeError: there is not enough space.
    """
    if not passes:  # another process was faster
        return
    needed = 0
    for each, start in zip(passes, starts, strict=True):
        for target in each.targets:
            row_bytes = pooled_bytes(target.spec)
            if row_bytes is None:
                shape = start().shapes[each.outputs.index(target.spec.output)]
                row_bytes = math.prod(shape) * np.dtype(target.spec.dtype).itemsize
            needed += len(each.views) * row_bytes
    pool = passes[0].targets[0].pool
    pool.make_root()
    root = pool.root
    free = shutil.disk_usage(root).free
    limit = free if max_bytes is None else min(free, max_bytes)
    if needed > limit:
        limit_is, mend = (
            ("are free there", "make room")
            if limit == free
            else ("is what extract.max_bytes allows", "raise extract.max_bytes")
        )
        raise TooLargeError(
            f"{root}: the missing rows need {needed:,} bytes, {limit:,} {limit_is}; take fewer"
            f" views, a pooled output or float16, or {mend}"
        )
    logger.info(
        "computing %s, %s",
        counted(sum(len(e.views) for e in passes), "row"),
        counted(needed, "byte"),
    )

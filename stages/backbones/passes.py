"""Which rows the pools lack, in how few passes they can be computed, and computing them."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.backbones import canary
from stages.backbones.engines import start_engine
from stages.backbones.flow import Flow
from stages.backbones.trunk import Engine, Trunk
from stages.backbones.weights import WeightsFile
from stages.data.pixels import PixelSpec, load
from stages.data.raw import RawImages
from store.pool import Pool
from store.spec import FeatureSpec

logger = logging.getLogger(__name__)

Digests = NDArray[np.uint8]
Views = NDArray[np.uint16]


class Target(NamedTuple):
    """A pool to fill up to a highest view."""

    pool: Pool
    views: int

    @property
    def spec(self) -> FeatureSpec:
        """What the pool's rows are."""
        return self.pool.spec


@dataclass(frozen=True, eq=False)
class Pass:
    """Keys that the same targets lack, so that one forward pass serves them all."""

    targets: tuple[Target, ...]
    positions: NDArray[np.int64]  # in RawImages.examples
    views: Views


@dataclass
class Computed:
    """What passes did: rows by fingerprint, and the reasons of the images that gave none."""

    rows: Counter[str] = field(default_factory=Counter)
    failures: dict[bytes, str] = field(default_factory=dict)


class Images:
    """The images of a data/raw directory that can have rows, one position per digest."""

    def __init__(self, raw: Path) -> None:
        self.raw = RawImages.open(raw)
        self.examples = self.raw.examples
        good = np.flatnonzero(~self.examples.quarantined)
        keys = np.ascontiguousarray(self.examples.digests[good]).view("V32").ravel()
        self._sorted, first = np.unique(keys, return_index=True)
        self._first = good[first]

    @property
    def digests(self) -> Digests:
        """(n, 32), unique."""
        return self._sorted.view(np.uint8).reshape(-1, 32)

    def digest(self, position: int) -> bytes:
        """The digest of the example at a position."""
        return bytes(self.examples.digests[position])

    def positions(self, digests: Digests) -> NDArray[np.int64]:
        """Where the first example of each digest stands."""
        keys = np.ascontiguousarray(digests).view("V32").ravel()
        return self._first[np.searchsorted(self._sorted.view("S32"), keys.view("S32"))]


def plan(targets: Sequence[Target], images: Images) -> list[Pass]:
    """The passes that compute every row which a target lacks, each row once per trunk.

    Rows that the same targets lack share a pass. A row's key is its image's position, its view and,
    from view 1 on, its augmentation policy, packed into one integer.
    """
    policies = sorted({target.spec.augmentation or "" for target in targets})
    keys, lacking = [], []
    for number, target in enumerate(targets):
        digests, views = target.pool.missing(images.digests, target.views)
        policy = policies.index(target.spec.augmentation or "")
        keys.append(
            images.positions(digests) << 24 | views.astype("i8") << 8 | (views > 0) * policy
        )
        lacking.append(np.full(len(views), 1 << number, np.int64))
    unique, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    lackers = np.zeros(len(unique), np.int64)
    np.bitwise_or.at(lackers, inverse, np.concatenate(lacking))
    return [_pass(targets, unique[lackers == mask], int(mask)) for mask in np.unique(lackers)]


def _pass(targets: Sequence[Target], keys: NDArray[np.int64], mask: int) -> Pass:
    chosen = tuple(target for number, target in enumerate(targets) if mask >> number & 1)
    return Pass(chosen, keys >> 24, (keys >> 8 & 0xFFFF).astype(np.uint16))


def compute(
    targets: Sequence[Target],
    images: Images,
    weights: WeightsFile,
    *,
    engine: str,
    batch_size: int,
) -> Computed:
    """Fill the targets' pools under their locks; where nothing is missing, nothing is loaded.

    Args:
        targets: pools whose specs differ in output, dtype and augmentation at most.
        images: the images that the rows are wanted of.
        weights: the file that the specs name.
        engine: a key of `ENGINES` or "auto".
        batch_size: images per forward pass.

    Raises:
        DriftError: the engine does not reproduce a pool's canary rows.
        DataError: an image's bytes are not there any more, or changed.
    """
    computed = Computed()
    lacking = {target for each in plan(targets, images) for target in each.targets}
    if not lacking:
        return computed
    # one order of locks, so that nobody waits in a ring
    ordered = sorted(lacking, key=lambda target: target.spec.fingerprint)
    with ExitStack() as stack:
        writers = {target: stack.enter_context(target.pool.writer()) for target in ordered}
        for each in plan(ordered, images):  # again: another process may have been at work
            outputs = sorted({target.spec.output for target in each.targets})
            start = partial(_checked_engine, engine, each.targets, outputs, weights, batch_size)
            for batch in _flow(each, images, start, batch_size):
                digests = images.examples.digests[each.positions[batch.indices]]
                for target in each.targets if len(digests) else ():
                    features = batch.features[outputs.index(target.spec.output)]
                    writers[target].append(features, digests, each.views[batch.indices])
                    computed.rows[target.spec.fingerprint] += len(features)
                for index, reason in batch.failures.items():
                    computed.failures[images.digest(each.positions[index])] = reason
    return computed


def _flow(each: Pass, images: Images, start: Callable[[], Engine], batch_size: int) -> Flow:
    spec = each.targets[0].spec
    pixels = PixelSpec(
        image_size=spec.image_size,
        resize=spec.resize,  # type: ignore[arg-type]
        aspect=spec.aspect,  # type: ignore[arg-type]
        decode=spec.decode,  # type: ignore[arg-type]
    )

    def image(index: int) -> NDArray[np.float32]:
        return load(images.raw.read(int(each.positions[index])), pixels)

    return Flow(
        image,
        start,
        count=len(each.positions),
        image_size=spec.image_size,
        batch_size=batch_size,
    )


def _checked_engine(
    name: str,
    targets: Sequence[Target],
    outputs: Sequence[str],
    weights: WeightsFile,
    batch_size: int,
) -> Engine:
    """Start an engine and hold it against the canary rows of every pool that it will write to."""
    spec = targets[0].spec
    trunk = Trunk(
        backbone=spec.backbone,
        weights=weights,
        image_size=spec.image_size,
        preprocessing=spec.preprocessing,
    )
    engine = start_engine(name, trunk, outputs, batch_size)
    features = engine(canary.canary_images(spec.image_size))
    for target in targets:
        found = features[outputs.index(target.spec.output)]
        recorded = target.pool.canary()
        if recorded is None:
            target.pool.record_canary(found)
        else:
            canary.check(found, recorded, f"{target.pool.directory} with {engine.name}")
    return engine

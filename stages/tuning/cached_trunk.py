"""Stored outputs of the frozen part of a base, the trunk: what each cut saves, training on them.

The rows are an ordinary feature set; `stages/extract.py` computes them. `freezing.py` finds the
cuts.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages import extract
from cryobase.stages.data.stream import Batch
from cryobase.stages.errors import ConfigError
from cryobase.stages.extract import ExtractConfig, SetConfig
from cryobase.stages.tuning.freezing import cuts
from cryobase.store import FeatureSet
from cryobase.store.epochs import drawn_views, shuffled
from cryobase.store.errors import mended_by

# Speeds measured on two cores: VGG16's forward pass, and reading float16 rows and widening them.
# Only their ratio matters, and it differs between machines much less than places do.
MULTIPLICATIONS_PER_SECOND = 1.5e11
BYTES_PER_SECOND = 5e8
BYTES = {"float16": 2, "float32": 4}


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place to cut.

    Attributes:
        layer: the layer whose output is stored.
        bytes: size of the rows of all images and views.
        speedup: time of an epoch end to end, divided by the time of an epoch on stored rows.
        break_even: number of epochs after which storing has saved time; infinity if it never does.
    """

    layer: str
    bytes: int
    speedup: float
    break_even: float


def places(
    model: Any, learning: set[str], *, images: int, train: int, views: int, dtype: str
) -> list[Place]:
    """Every place to cut below the learning layers, from the input up.

    Seconds are estimated from multiplications and bytes. A learning layer costs three forward
    passes (one forward, two products backward), a frozen layer one, a stored row the time to read
    it.

    Args:
        model: model from pixels to logits.
        learning: names of the layers that learn.
        images: number of images; all of them get rows.
        train: number of training images.
        views: number of augmented views stored for each image.
        dtype: dtype of the rows.
    """
    found = cuts(model)
    works = {layer.name: multiplications(layer) for layer in model.layers}
    deepest = max(
        (cut for cut in found if not cut.below & learning), key=lambda cut: len(cut.below)
    )
    forward = sum(works[name] for name in deepest.below)
    above = 3 * (sum(works.values()) - forward)
    result = []
    for cut in found:
        if not cut.layer or cut.below & learning:
            continue
        below = sum(works[name] for name in cut.below)
        row = cut.values * BYTES[dtype]
        end_to_end = (forward + above) / MULTIPLICATIONS_PER_SECOND
        stored = (forward - below + above) / MULTIPLICATIONS_PER_SECOND + row / BYTES_PER_SECOND
        saved = train * (end_to_end - stored)
        paid = images * (views + 1) * (below / MULTIPLICATIONS_PER_SECOND + row / BYTES_PER_SECOND)
        result.append(
            Place(
                layer=cut.layer,
                bytes=images * (views + 1) * row,
                speedup=round(end_to_end / stored, 2),
                break_even=round(paid / saved, 1) if saved > 0 else math.inf,
            )
        )
    return result


def chosen(trunk: str, candidates: Sequence[Place], epochs: int, budget: float) -> Place | None:
    """The place that a run's `trunk` means: `auto`, or a layer.

    Raises:
        ConfigError: the layer is not a place to cut.
    """
    if trunk == "auto":
        return choose(candidates, epochs=epochs, budget=budget)
    return named(candidates, trunk)


def choose(candidates: Sequence[Place], *, epochs: int, budget: float) -> Place | None:
    """The fastest place that fits the budget in bytes and saves time within the epochs, or None."""
    fitting = [place for place in candidates if place.bytes <= budget and place.break_even < epochs]
    return max(fitting, key=lambda place: place.speedup, default=None)


def named(candidates: Sequence[Place], layer: str) -> Place:
    """The place at a layer.

    Raises:
        ConfigError: the layer is not a place to cut.
    """
    for place in candidates:
        if place.layer == layer:
            return place
    known = ", ".join(place.layer for place in candidates) or "none"
    raise ConfigError(
        f"trunk: {layer!r} is not a place to cut below the learning layers; places: {known}"
    )


def multiplications(layer: Any) -> int:
    """Multiplications of a layer's forward pass for one image.

    Each element of the kernel counts once for every position in the output.
    """
    kernels: int = sum(math.prod(w.shape) for w in layer.weights if len(w.shape) >= 2)
    shape: list[int | None] = list(layer.output.shape) if kernels else []
    return kernels * (int(shape[1] or 1) * int(shape[2] or 1) if len(shape) == 4 else 1)


NAME = "trunk"


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredTrunk:
    """Rows of the trunk for the training and validation images of a split.

    Attributes:
        rows: the feature set; if it has views, each epoch draws a view for every image.
        train_ids: ids of the images that train.
        validation_ids: ids of the images that validate.
        batch_size: rows in a batch.
        seed: seed of the order and of the views.
    """

    rows: FeatureSet
    train_ids: NDArray[np.bytes_]
    validation_ids: NDArray[np.bytes_]
    batch_size: int
    seed: int
    stored = True

    def __len__(self) -> int:
        return len(self.train_ids)

    def train(self, epoch: int) -> Iterator[Batch]:
        positions = shuffled(self._train, self.seed, epoch)
        stored = range(min(1, self.rows.views), self.rows.views + 1)
        views = drawn_views(len(positions), self.seed, epoch, stored)
        return self.rows.read(positions, self.batch_size, views)

    def validation(self) -> Iterator[Batch]:
        return self.rows.read(self._validation, self.batch_size)

    def batches_per_epoch(self) -> int:
        return math.ceil(len(self) / self.batch_size)

    @cached_property
    def _train(self) -> NDArray[np.signedinteger]:
        return self.rows.positions(self.train_ids)

    @cached_property
    def _validation(self) -> NDArray[np.signedinteger]:
        return self.rows.positions(self.validation_ids)


def store_trunk(config: SetConfig, *, raw: Path, pool: Path, output: Path) -> FeatureSet:
    """Compute the rows of a trunk that the pool lacks, and publish all as a feature set."""
    sets = ExtractConfig(sets={NAME: config})
    nothing = Path(os.devnull)  # to adopt: the last version's rows came from this pool
    extract.run(sets, NAME, raw=raw, pool=pool, output=output, before=nothing)
    with mended_by(f"remove {output}, it is made again"):
        return FeatureSet.open(output)

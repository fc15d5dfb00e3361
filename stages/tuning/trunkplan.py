"""Where to cut a base so that its frozen part runs once per image, and what each place saves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryobase.stages.errors import ConfigError
from cryobase.stages.tuning.trunk import cuts

# Of two cores: VGG16's forward pass, and reading float16 rows and widening them. Only their ratio
# matters, and places differ by much more than machines do.
MULTIPLICATIONS_PER_SECOND = 1.5e11
BYTES_PER_SECOND = 5e8
BYTES = {"float16": 2, "float32": 4}


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place to cut.

    Attributes:
        layer: its output is stored.
        bytes: of the rows of all images and views.
        speedup: an epoch end to end, as multiple of one on stored rows.
        break_even: epochs after which computing the rows has paid; infinity for never.
    """

    layer: str
    bytes: int
    speedup: float
    break_even: float


def places(
    model: Any, learning: set[str], *, images: int, train: int, views: int, dtype: str
) -> list[Place]:
    """Every place to cut below the learning layers, from the input up.

    Seconds are reckoned from multiplications and bytes: a learning layer costs three forward
    passes (its own, and two products backward), a frozen one costs one, a stored row its reading.

    Args:
        model: from pixels to logits.
        learning: names of the layers that learn.
        images: how many there are, since all get rows.
        train: how many of them train.
        views: how many augmented ones of each are stored.
        dtype: of the rows.
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


def chosen(trunk: str, found: Sequence[Place], epochs: int, budget: float) -> Place | None:
    """The place that a run's `trunk` means: `auto`, or a layer.

    Raises:
        ConfigError: that layer is none of the places.
    """
    if trunk == "auto":
        return choose(found, epochs=epochs, budget=budget)
    return named(found, trunk)


def choose(found: Sequence[Place], *, epochs: int, budget: float) -> Place | None:
    """The fastest place within a budget of bytes that pays within the epochs; None if none does."""
    fitting = [place for place in found if place.bytes <= budget and place.break_even < epochs]
    return max(fitting, key=lambda place: place.speedup, default=None)


def named(found: Sequence[Place], layer: str) -> Place:
    """The place of a name.

    Raises:
        ConfigError: there is none.
    """
    for place in found:
        if place.layer == layer:
            return place
    known = ", ".join(place.layer for place in found) or "none"
    raise ConfigError(f"trunk: {layer!r} is no place to cut below what learns; places: {known}")


def multiplications(layer: Any) -> int:
    """Of a layer's forward pass for one image: each kernel element once per place of its output."""
    kernels: int = sum(math.prod(w.shape) for w in layer.weights if len(w.shape) >= 2)
    shape: list[int | None] = list(layer.output.shape) if kernels else []
    return kernels * (int(shape[1] or 1) * int(shape[2] or 1) if len(shape) == 4 else 1)

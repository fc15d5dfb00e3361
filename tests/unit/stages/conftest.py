"""What tests of bases and of engines share: each base is built once a file."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from cryobase.stages.backbones.table import BACKBONES
from cryobase.stages.backbones.weights import locate_weights
from cryobase.stages.extraction.trunk import Trunk


@pytest.fixture(scope="module")
def trunk_of() -> Callable[..., Trunk]:
    """A trunk of seeded weights by backbone and image size (the smallest by default)."""

    @cache
    def make(backbone: str, image_size: int | None = None, weights: str = "none") -> Trunk:
        row = BACKBONES[backbone]
        return Trunk(
            backbone=backbone,
            weights=locate_weights(backbone, weights),
            image_size=image_size or max(64, row.smallest),
            preprocessing=row.preprocessing,
        )

    return make


@pytest.fixture(scope="module")
def model_of(trunk_of: Callable[..., Trunk]) -> Callable[..., Any]:
    """The Keras model of a seeded trunk with outputs, built once."""

    @cache
    def make(backbone: str, *outputs: str) -> Any:
        return trunk_of(backbone).model(outputs)

    return make

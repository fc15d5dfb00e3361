"""What the tests of backbones share: a cache of their own, and each base built once."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from stages.backbones.table import BACKBONES
from stages.backbones.trunk import Trunk
from stages.backbones.weights import locate_weights


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Seeded weights and kept models go to a directory of this run, or to the one that is set."""
    before = os.environ.get("CRYOBASE_CACHE")
    os.environ["CRYOBASE_CACHE"] = before or str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["CRYOBASE_CACHE"]


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def model_of(trunk_of: Callable[..., Trunk]) -> Callable[..., Any]:
    """The Keras model of a seeded trunk with outputs, built once."""

    @cache
    def make(backbone: str, *outputs: str) -> Any:
        return trunk_of(backbone).model(outputs)

    return make

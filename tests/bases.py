"""Small backbones for tests of other things: one with ten layers, and thin copies of table rows.

Where layers, their names and their number count, and what they compute does not, a thin base stands
in: channels are most of its time and memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cryobase.stages.backbones.table import BACKBONES, Backbone

TINY = Backbone(
    constructor="tests.bases:Tiny",
    preprocessing="caffe",
    width=24,
    weights="https://example.org/tiny.weights.h5",
)


def Tiny(  # noqa: N802 (a constructor's name, as in `keras.applications`)
    *, input_tensor: Any, include_top: bool = False, weights: str | None = None
) -> Any:
    """Two blocks of convolution, BatchNormalization and relu, the second one depthwise first."""
    import keras

    layers, x = keras.layers, input_tensor
    for block, width in ((1, 8), (2, TINY.width)):
        if block == 2:
            x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="block_2_depth")(x)
        x = layers.Conv2D(width, 3, 2, use_bias=False, name=f"block_{block}_conv")(x)
        x = layers.BatchNormalization(name=f"block_{block}_norm")(x)
        x = layers.ReLU(6.0, name=f"block_{block}_relu")(x)
    if include_top:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        x = layers.Dense(1000, activation="softmax", name="labels")(x)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), x, name="tiny")


@pytest.fixture(scope="module", autouse=True)
def tiny_base():
    """`tiny` is a row of the table; a module of tests takes this fixture by importing it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", TINY)
        yield


SHARE = 8  # a thin base keeps one of this many channels


def ThinVGG16(*, input_tensor: Any, **options: Any) -> Any:  # noqa: N802
    """VGG16 layer for layer, with an eighth of its channels."""
    import keras

    whole = keras.applications.VGG16(input_tensor=keras.Input(input_tensor.shape[1:]), **options)

    def thinner(layer: Any) -> Any:
        config = layer.get_config()
        if "filters" in config:
            config["filters"] //= SHARE
        return type(layer).from_config(config)

    output = whole._run_through_graph(input_tensor, operation_fn=thinner)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), output)


def ThinMobileNetV2(**options: Any) -> Any:  # noqa: N802
    """MobileNetV2 layer for layer, with an eighth of its channels but for the last ones."""
    import keras

    return keras.applications.MobileNetV2(alpha=1 / SHARE, **options)


# layers of an Xception are named by no recipe and no test of those that take this fixture
STAND_INS = {
    "vgg16": (f"{__name__}:ThinVGG16", 512 // SHARE),
    "mobilenetv2": (f"{__name__}:ThinMobileNetV2", 1280),
    "xception": (TINY.constructor, TINY.width),
    "xception_41_imagenet": (TINY.constructor, TINY.width),
}


@contextmanager
def thinned(cache: Path) -> Iterator[None]:
    """Inside `with`, `STAND_INS` replace table rows; weights and built models are in `cache`."""
    cache.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRYOBASE_CACHE", str(cache))
        for name, (constructor, width) in STAND_INS.items():
            row = replace(BACKBONES[name], constructor=constructor, width=width)
            patch.setitem(BACKBONES, name, row)
        yield


@pytest.fixture
def thin_bases(tmp_path_factory):
    """Small copies of the recipes' bases; a base whose layers no recipe names becomes `tiny`."""
    with thinned(tmp_path_factory.getbasetemp() / "thin"):
        yield

"""A backbone for tests that are about something else: ten layers, built and traced in no time."""

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
    return keras.Model(keras.utils.get_source_inputs(input_tensor), x, name="tiny")


@pytest.fixture(scope="module", autouse=True)
def tiny_base():
    """`tiny` is a row of the table; a module of tests takes this fixture by importing it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", TINY)
        yield

"""The bases' preprocessing of pixels, as functions of a Keras tensor.

It is part of the Keras graph, so every engine, the grafted model and a reloaded file apply the same
preprocessing. Input is RGB, 0 to 255, float32.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cryobase.stages.backbones.frameworks import load_keras


def caffe(pixels: Any) -> Any:
    """RGB to BGR, minus ImageNet's mean; `keras.applications` mode "caffe"."""
    ops = load_keras().ops

    return ops.flip(pixels, axis=-1) - np.array([103.939, 116.779, 123.68], np.float32)


def torch(pixels: Any) -> Any:
    """Scaled to [0, 1], then standardised by ImageNet; `keras.applications` mode "torch"."""
    scaled = pixels / 255.0 - np.array([0.485, 0.456, 0.406], np.float32)
    return scaled / np.array([0.229, 0.224, 0.225], np.float32)


def symmetric(pixels: Any) -> Any:
    """Scaled to [-1, 1]; `keras.applications` mode "tf"."""
    return pixels / 127.5 - 1.0


def unit(pixels: Any) -> Any:
    """Scaled to [0, 1]."""
    return pixels / 255.0


def lite(pixels: Any) -> Any:
    """(x - 127) / 128, as in the EfficientNet-Lite release (tensorflow/tpu, `lite`)."""
    return (pixels - 127.0) / 128.0


def identity(pixels: Any) -> Any:
    """Unchanged, 0 to 255, for bases with preprocessing layers of their own."""
    return pixels


PREPROCESSINGS: dict[str, Callable[[Any], Any]] = {
    "caffe": caffe,
    "torch": torch,
    "symmetric": symmetric,
    "unit": unit,
    "lite": lite,
    "identity": identity,
}

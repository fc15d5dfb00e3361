"""`weights: none`: a file of seeded weights whose features have a spread that tests can see.

Keras' own initialisation gives features of 1e-12 after dozens of layers, and every test on them
would pass. Here kernels are He-normal (https://arxiv.org/abs/1502.01852) and every
BatchNormalization has the statistics of smooth images, as if after training.
"""

import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from stages.backbones import foreign
from stages.backbones.build import build
from stages.backbones.canary import probes
from stages.backbones.frameworks import load_keras
from stages.backbones.table import BACKBONES

VERSION = 1
PROBES = 32
PROBE_SIZE = 128
LAYER_SCALE = 0.1

logger = logging.getLogger(__name__)


def make(backbone: str, path: Path) -> None:
    """Write the seeded weights of a base, unless another process has done so meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if path.exists():
            return
        logger.info("%s: making seeded weights at %s", backbone, path)
        partial = path.with_name(f"partial-{os.getpid()}-{path.name}")
        seeded_base(backbone).save_weights(str(partial))
        partial.replace(path)
        foreign.note(path)


def seeded_base(backbone: str) -> Any:
    keras = load_keras()

    row = BACKBONES[backbone]
    size = max(PROBE_SIZE, row.smallest)
    model = build(
        backbone, None, image_size=size, preprocessing=row.preprocessing, outputs=["flatten"]
    )
    _draw_kernels(model)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if norms:
        _settle(model, norms, probes(PROBES, size))
    return model


def _draw_kernels(model: Any) -> None:
    keras = load_keras()

    random = np.random.default_rng(0)
    for layer in model.layers:
        for variable in layer.weights:
            shape = tuple(variable.shape)
            if len(shape) >= 2:
                depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
                depthwise = depthwise or "depthwise" in variable.name
                fan_in = math.prod(shape[:2] if depthwise else shape[:-1])
                kernel = random.standard_normal(shape, np.float32) * math.sqrt(2 / fan_in)
                variable.assign(kernel)
            elif type(layer).__name__ == "LayerScale":  # ConvNeXt's 1e-6 would hide its blocks
                variable.assign(np.full(shape, LAYER_SCALE, np.float32))


def _settle(model: Any, norms: list[Any], images: NDArray[np.float32]) -> None:
    """Set the moving statistics to those of one batch; nothing is dropped while they are taken."""
    keras = load_keras()

    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.trainable, layer.momentum = True, 0.0
    model(images, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.trainable, layer.momentum = False, momentum

"""`weights: none`: making a file of seeded weights whose features differ between images.

With Keras' own initialisation, features are about 1e-12 after dozens of layers, and tests on them
would always pass. Here kernels are He-normal (https://arxiv.org/abs/1502.01852) and every
BatchNormalization has the statistics of smooth images, as after training.
"""

import hashlib
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.build import build
from cryobase.stages.backbones.frameworks import load_keras
from cryobase.stages.backbones.probes import canary_images, probes
from cryobase.stages.backbones.table import BACKBONES
from cryobase.stages.errors import MissingWeightsError
from cryobase.store.publish import free_name

VERSION = 1
PROBES = 32
PROBE_SIZE = 128
LAYER_SCALE = 0.1
SPREAD = 1e-2, 1e2  # range of usable features; the bases of the table have 0.08 to 11

logger = logging.getLogger(__name__)


def name(backbone: str, sha256: str) -> str:
    """The name of a file of seeded weights. It has the file's SHA-256, to detect damage."""
    return f"{backbone}-seeded-{VERSION}-{sha256}.weights.h5"


def make(backbone: str, directory: Path) -> Path:
    """Write the seeded weights of a base. They are read and checked before the file gets its name.

    Raises:
        MissingWeightsError: the weights give no usable features.
    """
    logger.info("%s: making seeded weights in %s", backbone, directory)
    with free_name(directory, ".weights.h5") as partial:
        seeded_base(backbone).save_weights(str(partial))
        check(backbone, partial)
        with partial.open("rb") as file:
            path = directory / name(backbone, hashlib.file_digest(file, "sha256").hexdigest())
        return partial.replace(path)


def check(backbone: str, path: Path) -> None:
    """Refuse weights that cannot be loaded, or whose features do not differ between images.

    Raises:
        MissingWeightsError: they cannot be used; the message has the measured spread.
    """
    row = BACKBONES[backbone]
    size = max(PROBE_SIZE, row.smallest)
    model = build(backbone, path, image_size=size, preprocessing=row.preprocessing, outputs=["avg"])
    features = np.asarray(model(canary_images(size), training=False))
    spread = float(features.std(axis=0, dtype=np.float64).mean())
    if not SPREAD[0] <= spread <= SPREAD[1]:  # true for NaN, too
        raise MissingWeightsError(
            f"{backbone}: its seeded weights give features with a spread of {spread:.2g}, expected"
            f" {SPREAD[0]:g} to {SPREAD[1]:g}; Keras or TensorFlow do not compute here as they"
            " should; run `pip install -r requirements.lock`"
        )


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
    """Set the moving statistics to those of one batch, computed without dropout."""
    keras = load_keras()

    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.trainable, layer.momentum = True, 0.0
    _run(model, images)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.trainable, layer.momentum = False, momentum


def _run(model: Any, images: NDArray[np.float32]) -> None:
    """Like `model(images, training=True)`, but frees each tensor after its last use.

    Keras' own call keeps the output of every layer: two gigabytes for a ResNet50.
    """
    keras = load_keras()

    depths = sorted(model._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in model._nodes_by_depth[depth] if not node.is_input]
    last = {id(tensor): node for node in nodes for tensor in node.input_tensors}
    held = {id(model.inputs[0]): keras.ops.convert_to_tensor(images)}
    for node in nodes:
        arguments, options = node.arguments.fill_in(held)
        if getattr(node.operation, "_call_has_training_arg", False):
            options["training"] = True
        given = keras.tree.flatten(node.operation(*arguments, **options))
        held |= {id(tensor): value for tensor, value in zip(node.outputs, given, strict=True)}
        del arguments, given
        for tensor in node.input_tensors:
            if last[id(tensor)] is node:
                held.pop(id(tensor), None)

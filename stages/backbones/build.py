"""Building a base of the table as a Keras model: from pixels to one feature per output."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryobase.stages.backbones import lite0
from cryobase.stages.backbones.foreign import is_known, load_weights
from cryobase.stages.backbones.frameworks import forget_names, load_keras
from cryobase.stages.backbones.preprocessing import PREPROCESSINGS
from cryobase.stages.backbones.table import BACKBONES, resolve
from cryobase.stages.errors import ConfigError, DataError, MissingWeightsError

POOLINGS = ("avg", "max", "flatten")


def build(
    backbone: str,
    weights_file: Path | None,
    *,
    image_size: int,
    preprocessing: str,
    outputs: Sequence[str],
) -> Any:
    """A frozen base with its preprocessing and its outputs' pooling in the graph.

    Clears Keras' session first: otherwise layers get other automatic names in a second build.

    Args:
        backbone: a key of `BACKBONES`.
        weights_file: the file from `locate_weights`; None keeps Keras' random initialisation.
        image_size: side of the square input in pixels.
        preprocessing: a key of `PREPROCESSINGS`.
        outputs: each is `avg`, `max` or `flatten`, applied to the last feature map, or a layer's
            name, alone or followed by `:avg`, `:max` or `:flatten`.

    Returns:
        A `keras.Model` from float32 RGB pixels (batch, image_size, image_size, 3) in 0 to 255 to a
        list of one float32 tensor per output.

    Raises:
        ConfigError: the image is too small for the base, or there is no such output.
        MissingWeightsError: the weights do not fit the base.
    """
    keras = load_keras()
    row = BACKBONES[backbone]
    if image_size < row.smallest:
        raise ConfigError(
            f"{backbone}: image_size {image_size} is too small; it takes {row.smallest} or more"
        )
    forget_names()
    inputs = keras.Input((image_size, image_size, 3), name="image")
    tensor = PREPROCESSINGS[preprocessing](inputs)
    base = resolve(row.constructor)(input_tensor=tensor, include_top=False, weights=None)
    if weights_file is not None:
        set_weights(backbone, base, weights_file)
    features = [_output(base, backbone, name) for name in outputs]
    model = keras.Model(inputs, features, name=backbone)
    model.trainable = False
    return model


def set_weights(backbone: str, base: Any, weights_file: Path) -> None:
    """Set a base's weights from a file.

    Raises:
        MissingWeightsError: the weights do not fit the base, or the file cannot be read.
    """
    try:
        if weights_file.suffix == ".pth":
            lite0.load_weights(base, weights_file)
        else:
            load_weights(base, weights_file, known=is_known(backbone, weights_file))
    except (DataError, OSError) as error:
        reason = str(error).removeprefix(f"{weights_file}: ")
        raise MissingWeightsError(
            f"{weights_file}: these are no weights of {backbone} without its top: {reason};"
            f" give a file that a model built with `weights: none` saved"
        ) from None


def _output(base: Any, backbone: str, name: str) -> Any:
    layers = load_keras().layers

    layer, _, pooling = name.rpartition(":")
    if not layer and pooling not in POOLINGS:
        layer, pooling = pooling, ""
    tensor = _layer_output(base, backbone, layer) if layer else base.output
    if pooling and pooling not in POOLINGS:
        raise ConfigError(f"{name}: no pooling {pooling!r}; take one of {', '.join(POOLINGS)}")
    if pooling == "flatten":
        return layers.Flatten()(tensor)
    if pooling and len(tensor.shape) == 4:
        pool = layers.GlobalAveragePooling2D if pooling == "avg" else layers.GlobalMaxPooling2D
        return pool()(tensor)
    if pooling:
        raise ConfigError(f"{name}: {layer!r} gives {tensor.shape}, which has nothing to pool")
    return tensor


def _layer_output(base: Any, backbone: str, layer: str) -> Any:
    try:
        return base.get_layer(layer).output
    except ValueError:
        known = [candidate.name for candidate in base.layers]
        alike = ", ".join(difflib.get_close_matches(layer, known, 5, 0) + known[-1:])
        raise ConfigError(
            f"{backbone}: no layer {layer!r} among its {len(known)}; take one like {alike}"
        ) from None

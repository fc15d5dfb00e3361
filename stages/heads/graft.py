"""Joining a backbone, or the two of a pair, and a head into one Keras model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cryobase.stages.backbones.frameworks import load_keras
from cryobase.stages.backbones.weights import locate_weights
from cryobase.stages.data.pixels import PixelSpec
from cryobase.stages.errors import DataError, MissingWeightsError
from cryobase.stages.heads.head import Head
from cryobase.store import FeatureSpec


def graft_onto(
    head: Head, weights: str | Sequence[str] | None, *, preprocessing: str | None = None
) -> Any:
    """Build the backbones that a head was trained on, with preprocessing, and graft the head.

    Args:
        head: the head.
        weights: where to look for the backbones' weights: "imagenet", "none" or paths; None leaves
            those that Keras draws.
        preprocessing: another one than that of the head's features, for diagnosis.

    Raises:
        DataError: the head's feature sets see an image in different ways, so that no single input
            serves both.
        MissingWeightsError: none of the weights are those that the features were computed with.
    """
    images = [PixelSpec.of(spec) for spec in head.specs]
    if other := next((one for one in images if one != images[0]), None):
        raise DataError(
            f"graft: one model has one input, the head's feature sets take {images[0]} and {other};"
            " extract both with equal image_size, resize, aspect and decode"
        )
    places = [weights] if isinstance(weights, str) else weights
    bases: list[list[FeatureSpec]] = []
    for spec in head.specs:
        if bases and bases[-1][0].pass_key() == spec.pass_key():
            bases[-1].append(spec)
        else:
            bases.append([spec])
    built = [_base(specs, places, preprocessing) for specs in bases]
    return graft(built[0] if len(built) == 1 else _beside(built), head)


def weights_of(spec: FeatureSpec, places: Sequence[str]) -> Path:
    """The weights file that the features of a spec were computed with.

    Raises:
        MissingWeightsError: it is in none of the places.
    """
    reasons = []
    for one in dict.fromkeys(places):
        try:
            found = locate_weights(spec.backbone, one, image_size=spec.image_size)
        except MissingWeightsError as error:
            reasons.append(str(error))
            continue
        if found.sha256 == spec.weights_sha256:
            return found.path
        reasons.append(f"{found.path}: SHA-256 {found.sha256[:12]}…")
    raise MissingWeightsError(
        f"the weights of {spec.backbone} with SHA-256 {spec.weights_sha256[:12]}… are needed;"
        f" found: {'; '.join(reasons) or 'nothing'}; bring them, or run `cryobase extract &&"
        " cryobase train`"
    )


def _base(
    specs: Sequence[FeatureSpec], places: Sequence[str] | None, preprocessing: str | None
) -> Any:
    """One backbone with an output per spec."""
    from cryobase.stages.backbones.build import build

    first = specs[0]
    return build(
        first.backbone,
        None if places is None else weights_of(first, places),
        image_size=first.image_size,
        preprocessing=preprocessing or first.preprocessing,
        outputs=[spec.output for spec in specs],
    )


def _beside(bases: Sequence[Any]) -> Any:
    """Backbones on one image; each stays a model of its own, for their layers share names."""
    keras = load_keras()
    image = keras.Input(bases[0].input_shape[1:], name="image")
    features = []
    for k, base in enumerate(bases):
        named = keras.Model(base.inputs, base.outputs, name=f"base{k}_{base.name}")
        features += named(image)
    model = keras.Model(image, features, name="side_by_side_bases")
    model.trainable = False
    return model


def graft(backbone: Any, head: Head) -> Any:
    """A `keras.Model` from images (n, size, size, 3), RGB 0..255, to probabilities.

    Args:
        backbone: a model with an output per spec of the head, preprocessing inside.
        head: the head; its standardisation becomes a layer of its own.

    Returns:
        The model; its output is (n, classes), or (n, 1), the probability of the second class, for a
        head with `output: sigmoid`. The last two layers are `logits` and `probabilities`.

    Raises:
        DataError: the backbone's features do not have the head's shapes.
    """
    keras = load_keras()
    shapes = tuple(tuple(output.shape[1:]) for output in backbone.outputs)
    if shapes != head.shapes:
        raise DataError(f"graft: the backbone gives {shapes}, the head takes {head.shapes}")
    flat = [keras.layers.Flatten(name=f"flat{k}")(x) for k, x in enumerate(backbone.outputs)]
    x = flat[0] if len(flat) == 1 else keras.layers.Concatenate(name="side_by_side")(flat)
    x = _logits(x, head)
    activation = "sigmoid" if head.outputs == 1 else "softmax"
    x = keras.layers.Activation(activation, dtype="float32", name="probabilities")(x)
    return keras.Model(backbone.inputs, x, name="grafted")


def _logits(x: Any, head: Head) -> Any:
    layers = load_keras().layers

    if head.mean is not None and head.scale is not None:
        # no Normalization: tf2onnx makes its mean and variance inputs of the model
        scale = 1 / head.scale.astype(np.float64)
        rescaling = layers.Rescaling(scale, -head.mean * scale, dtype="float32", name="standardize")
        x = rescaling(x)
    for k, weights in enumerate(head.layers):
        last = k == len(head.layers) - 1
        dense = layers.Dense(
            len(weights[1]),
            activation=None if last else head.params.activation,
            dtype="float32",  # half precision would save nothing here, and features vary little
            name="logits" if last else f"hidden{k}",
        )
        x = dense(x)
        dense.set_weights(weights)
        if head.params.dropout and not last:
            x = layers.Dropout(head.params.dropout, dtype="float32", name=f"dropout{k}")(x)
    return x

"""Joining a backbone and a head into one Keras model."""

from typing import Any

import numpy as np

from stages.backbones.frameworks import load_keras
from stages.errors import DataError, MissingWeightsError
from stages.heads.head import Head


def graft_onto(head: Head, weights: str, *, preprocessing: str | None = None) -> Any:
    """Build the backbone that a head was trained on, with its preprocessing, and graft the head.

    Args:
        head: the head.
        weights: the backbone's, as in the feature set's params.
        preprocessing: another one than that of the head's features, for diagnosis.

    Raises:
        DataError: the head's features come from several backbones, which take several inputs.
        MissingWeightsError: the weights are not those that the features were computed with.
    """
    from stages.backbones.build import build
    from stages.backbones.weights import locate_weights

    spec = head.specs[0]
    different = {field for other in head.specs for field in spec.differences(other)}
    if different - {"output", "dtype", "augmentation"}:
        raise DataError(f"graft: the head's feature sets differ in {', '.join(sorted(different))}")
    found = locate_weights(spec.backbone, weights, image_size=spec.image_size)
    if found.sha256 != spec.weights_sha256:
        raise MissingWeightsError(
            f"{found.path}: SHA-256 {found.sha256[:12]}…, the head's features were computed with"
            f" {spec.weights_sha256[:12]}…; run: cryobase extract, then cryobase train"
        )
    outputs = [one.output for one in head.specs]
    backbone = build(
        spec.backbone,
        found.path,
        image_size=spec.image_size,
        preprocessing=preprocessing or spec.preprocessing,
        outputs=outputs,
    )
    return graft(backbone, head)


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
    from keras import layers

    if head.mean is not None and head.scale is not None:
        variance = head.scale.astype(np.float64) ** 2
        x = layers.Normalization(mean=head.mean, variance=variance, name="standardize")(x)
    for k, weights in enumerate(head.layers):
        last = k == len(head.layers) - 1
        dense = layers.Dense(
            len(weights[1]),
            activation=None if last else head.params.activation,
            name="logits" if last else f"hidden{k}",
        )
        x = dense(x)
        dense.set_weights(weights)
        if head.params.dropout and not last:
            x = layers.Dropout(head.params.dropout, name=f"dropout{k}")(x)
    return x

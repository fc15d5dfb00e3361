"""EfficientNetB0 with the same input scaling for every source of weights."""

from typing import Any

import numpy as np

from cryobase.stages.backbones.frameworks import load_keras

IMAGENET_MEANS = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_DEVIATIONS = np.array([0.229, 0.224, 0.225], np.float32)


def EfficientNetB0(  # noqa: N802 (named like the function that it replaces)
    *, input_tensor: Any, include_top: bool = False, weights: str | None = None
) -> Any:
    """`keras.applications.EfficientNetB0` with the rescaling that Keras adds only for ImageNet.

    The published weights need an input divided by the root of the deviations a second time
    (https://github.com/tensorflow/tensorflow/issues/49930). Keras inserts this division behind its
    Normalization layer, but only if `weights="imagenet"`. So the same file, loaded by its path,
    would give other features. Here the pixels are scaled about ImageNet's means before that layer,
    which gives the same values.
    """
    keras = load_keras()

    if weights == "imagenet":
        spread = input_tensor
    else:
        means = 255 * IMAGENET_MEANS
        spread = (input_tensor - means) / np.sqrt(IMAGENET_DEVIATIONS) + means
    return keras.applications.EfficientNetB0(
        input_tensor=spread, include_top=include_top, weights=weights
    )

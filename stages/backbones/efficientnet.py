"""EfficientNetB0 whose architecture does not depend on where its weights come from."""

from typing import Any

import numpy as np

IMAGENET_DEVIATIONS = (0.229, 0.224, 0.225)


def EfficientNetB0(  # noqa: N802 (named like the function that it mends)
    *, input_tensor: Any, include_top: bool = False, weights: str | None = None
) -> Any:
    """`keras.applications.EfficientNetB0` with the rescaling that Keras adds for ImageNet alone.

    The published weights need an input divided by the root of the deviations a second time
    (https://github.com/tensorflow/tensorflow/issues/49930). Keras inserts that layer only where
    `weights="imagenet"`, so the same file loaded by its path gives other features.
    """
    import keras

    if weights == "imagenet":
        return keras.applications.EfficientNetB0(
            input_tensor=input_tensor, include_top=include_top, weights=weights
        )
    plain = keras.applications.EfficientNetB0(
        input_shape=input_tensor.shape[1:], include_top=include_top, weights=None
    )
    rescaling = keras.layers.Rescaling((1 / np.sqrt(IMAGENET_DEVIATIONS)).tolist())

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        return rescaling(outputs) if isinstance(layer, keras.layers.Normalization) else outputs

    return keras.models.clone_model(plain, input_tensors=input_tensor, call_function=call)

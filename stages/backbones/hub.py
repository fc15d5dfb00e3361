"""KerasHub's bases, as flat Keras models (extra `keras-hub`)."""

import os
from pathlib import Path
from typing import Any

from cryobase.stages.backbones.frameworks import load_keras
from cryobase.stages.errors import MissingWeightsError

FILE = "model.weights.h5"
XCEPTION_41 = "kaggle://keras/xception/keras/xception_41_imagenet/2"
# from the preset's config.json; the middle flow repeats eight times
XCEPTION_41_FILTERS = [
    [32, 64],
    [128, 128],
    [256, 256],
    [728, 728],
    *([[728, 728, 728]] * 8),
    [728, 1024],
    [1536, 2048],
]
XCEPTION_41_POOLING = [False, True, True, True, *([False] * 8), True, False]


def Xception41(*, input_tensor: Any, include_top: bool = False, weights: str | None = None) -> Any:  # noqa: N802
    """The backbone of the preset `xception_41_imagenet` on a Keras tensor in [-1, 1]."""
    keras = load_keras()

    if include_top or weights is not None:
        raise MissingWeightsError("xception_41_imagenet: the row has no classifier; take xception")
    hub = _keras_hub().models.XceptionBackbone(
        stackwise_conv_filters=XCEPTION_41_FILTERS,
        stackwise_pooling=XCEPTION_41_POOLING,
        image_shape=tuple(input_tensor.shape[1:]),
    )
    tensors = {id(hub.input): input_tensor}
    for layer in hub.layers[1:]:  # copied onto our tensor: KerasHub has no `input_tensor`
        inputs = layer.input
        sources = inputs if isinstance(inputs, list) else [inputs]
        ours = [tensors[id(tensor)] for tensor in sources]
        copy = type(layer).from_config(layer.get_config())
        tensors[id(layer.output)] = copy(ours if isinstance(inputs, list) else ours[0])
    return keras.Model(keras.utils.get_source_inputs(input_tensor), tensors[id(hub.output)])


def xception_41_kept() -> Path:
    """The path of the preset's weights file in KaggleHub's cache; it may not exist yet."""
    cache = os.environ.get("KAGGLEHUB_CACHE") or os.path.expanduser("~/.cache/kagglehub")
    owner, model, *rest = XCEPTION_41.removeprefix("kaggle://").split("/")
    return Path(cache, "models", owner, model, *rest, FILE)


def xception_41_weights() -> Path:
    """The preset's weights file, downloaded into KaggleHub's cache if it is missing."""
    _keras_hub()
    import kagglehub

    return Path(kagglehub.model_download(XCEPTION_41.removeprefix("kaggle://"), FILE))


def _keras_hub() -> Any:
    load_keras()
    try:
        import keras_hub
    except ImportError:
        raise MissingWeightsError(
            "xception_41_imagenet: KerasHub is not installed;"
            " run `pip install 'cryobase[keras-hub]'`"
        ) from None
    return keras_hub

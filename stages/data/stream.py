"""Decoded images in batches, for training end to end."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.data.pixels import PixelSpec, load
from stages.data.raw import RawImages


def image_batches(
    images: RawImages,
    ids: NDArray[np.bytes_],
    spec: PixelSpec,
    *,
    batch_size: int,
    shuffle_seed: int | None = None,
) -> Any:
    """A `tf.data.Dataset` of float32 pixels (batch, size, size, 3) in 0 to 255 and int32 labels.

    Images are read and decoded ahead on all cores, in the order of `ids`, or in a new order each
    epoch that depends on the seed alone.
    """
    import tensorflow as tf

    def read(position: NDArray[np.int64]) -> NDArray[np.float32]:
        return load(images.read(int(position)), spec)

    def decoded(position: Any, label: Any) -> tuple[Any, Any]:
        pixels = tf.numpy_function(read, [position], tf.float32, stateful=False)
        pixels.set_shape((spec.image_size, spec.image_size, 3))
        return pixels, label

    positions = images.examples.positions(ids)
    dataset = tf.data.Dataset.from_tensor_slices((positions, images.examples.labels[positions]))
    if shuffle_seed is not None:
        dataset = dataset.shuffle(max(1, len(positions)), seed=shuffle_seed)
    dataset = dataset.map(decoded, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size).prefetch(2)

"""In which numbers a model is built and trained."""

import contextlib
from collections.abc import Iterator

HALVES = ("mixed_float16", "mixed_bfloat16")


@contextlib.contextmanager
def precision(policy: str) -> Iterator[str]:
    """Build and train under a Keras dtype policy.

    Args:
        policy: `float32`, `mixed_float16`, `mixed_bfloat16`, or `auto`: `mixed_float16` where
            TensorFlow sees a GPU, else `float32`.

    Yields:
        The policy that is in force, never `auto`.
    """
    from stages.backbones.frameworks import load_keras

    keras = load_keras()
    if policy == "auto":
        import tensorflow as tf

        policy = "mixed_float16" if tf.config.list_physical_devices("GPU") else "float32"
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield policy
    finally:
        keras.config.set_dtype_policy(before)

"""In which numbers a model is built and trained."""

import contextlib
from collections.abc import Iterator

from cryobase.stages.backbones.frameworks import dtype_policy, load_tensorflow

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
    if policy == "auto":
        gpus = load_tensorflow().config.list_physical_devices("GPU")
        policy = "mixed_float16" if gpus else "float32"
    with dtype_policy(policy):
        yield policy

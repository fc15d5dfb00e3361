"""Loading Keras and TensorFlow without their greeting: the one place that knows how."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

# absl prints these on file descriptor 2 before any setting of TensorFlow's can stop it
GREETING = re.compile(rb"^(WARNING: All log messages before absl|[IW]\d{4,} [\d:. ]+\S+\.cc:\d+\])")


def load_keras() -> Any:
    """The module `keras` on TensorFlow; the first call takes seconds."""
    with _without_greeting():
        import keras
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        tf.config.list_physical_devices()  # greets a second time
    return keras


def forget_names() -> None:
    """Count automatic layer names from the start again, so that a second build has the same.

    Keras forgets its dtype policy with them; that is kept.
    """
    keras = load_keras()
    policy = keras.config.dtype_policy()
    keras.utils.clear_session()
    keras.config.set_dtype_policy(policy)


@contextlib.contextmanager
def _without_greeting() -> Iterator[None]:
    """Hold back what is written to stderr meanwhile, then pass on all but the greeting."""
    if "tensorflow" in sys.modules:
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            held.seek(0)
            for line in held:
                if not GREETING.match(line):
                    os.write(stderr, line)
            os.close(stderr)

"""The random order of examples in an epoch, and the random view of each example.

All training uses these two functions: on rows in memory, on stored rows, on a cached trunk, on
images. So a seed means the same everywhere, and an epoch does not depend on earlier epochs.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ORDER, _VIEWS = 0, 1  # two independent random streams of an epoch


def shuffled(values: NDArray[Any], seed: int, epoch: int) -> NDArray[Any]:
    """A copy of values (n, …) in random order.

    Args:
        values: The values to shuffle, along the first axis.
        seed: From 0 to 2⁶⁴ - 1.
        epoch: From 0 to 2⁶³ - 1.
    """
    return _random(seed, epoch, _ORDER).permutation(values)


def drawn_views(count: int, seed: int, epoch: int, views: range) -> NDArray[np.int64]:
    """(count,) a random view out of `views` for each example of an epoch."""
    return _random(seed, epoch, _VIEWS).integers(views.start, views.stop, count)


def _random(seed: int, epoch: int, stream: int) -> "np.random.Generator":
    # Numpy may turn a plain list into floats.
    key = np.array([seed, epoch << 1 | stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))

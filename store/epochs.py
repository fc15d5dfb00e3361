"""In which order training sees examples, and which view of each: another one in every epoch.

Whatever trains draws both here: on rows in memory, on stored rows, on a cached trunk, on images. So
a seed means the same everywhere, and no epoch depends on the ones before it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ORDER, _VIEWS = 0, 1  # two streams of an epoch, that do not depend on each other


def shuffled(values: NDArray[Any], seed: int, epoch: int) -> NDArray[Any]:
    """A copy of values (n, …) in random order.

    Args:
        values: What is put in order, along the first axis.
        seed: From 0 to 2⁶⁴ - 1.
        epoch: From 0 to 2⁶³ - 1.
    """
    return _random(seed, epoch, _ORDER).permutation(values)


def drawn_views(count: int, seed: int, epoch: int, views: range) -> NDArray[np.int64]:
    """A view (count,) for each example of an epoch, drawn from `views`."""
    return _random(seed, epoch, _VIEWS).integers(views.start, views.stop, count)


def _random(seed: int, epoch: int, stream: int) -> "np.random.Generator":
    key = np.array([seed, epoch << 1 | stream], np.uint64)  # a list of both may become floats
    return np.random.Generator(np.random.Philox(key=key))

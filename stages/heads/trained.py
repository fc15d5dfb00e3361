"""What training gives: arrays and the record of its epochs, before they become a `Head`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.heads.history import History

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Trained:
    """The weights of one trained head.

    Attributes:
        layers: kernel (inputs, outputs) and bias (outputs,) of each dense layer, in order.
        mean: (width,) subtracted from the features; None where they are taken as they are.
        scale: (width,) that they are then divided by.
        history: the epochs; empty for heads that are solved, not iterated.
    """

    layers: tuple[Layer, ...]
    mean: NDArray[np.float32] | None
    scale: NDArray[np.float32] | None
    history: History

"""What training gives: arrays and the record of its epochs, before they become a `Head`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.heads.history import History

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]


def forward(
    x: NDArray[np.float32],
    layers: Sequence[Layer],
    mean: NDArray[np.float32] | None,
    scale: NDArray[np.float32] | None,
    activation: str = "relu",
) -> NDArray[np.float32]:
    """Logits (n, outputs) of features (n, width) in float32."""
    if mean is not None and scale is not None:
        x = (x - mean) / scale
    for kernel, bias in layers[:-1]:
        x = x @ kernel + bias
        x = np.maximum(x, 0) if activation == "relu" else x
    kernel, bias = layers[-1]
    return x @ kernel + bias


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

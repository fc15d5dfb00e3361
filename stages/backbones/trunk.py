"""A trunk, and what an engine is to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.build import build
from cryobase.stages.backbones.weights import WeightsFile


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """A base from pixels to its last feature map: what feature sets must share to share a pass."""

    backbone: str
    weights: WeightsFile
    image_size: int
    preprocessing: str

    def model(self, outputs: Sequence[str]) -> Any:
        """The Keras model with these outputs; see `build`."""
        return build(
            self.backbone,
            self.weights.path,
            image_size=self.image_size,
            preprocessing=self.preprocessing,
            outputs=outputs,
        )


class Engine(Protocol):
    """Runs one trunk and gives the features of several outputs; threads may share it.

    Attributes:
        name: its key in `ENGINES`.
        streams: how many threads may call it at once to some profit.
        shapes: the shape of one row of each output.
    """

    name: str
    streams: int
    shapes: list[tuple[int, ...]]

    def __init__(self, trunk: Trunk, outputs: Sequence[str], batch_size: int) -> None: ...

    def __call__(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Features of float32 RGB pixels (n, size, size, 3), 0 to 255; n up to the batch size."""
        ...


def padded(batch: NDArray[np.float32], batch_size: int) -> NDArray[np.float32]:
    """The batch with zeros up to the fixed size: other shapes would be compiled anew."""
    if len(batch) == batch_size:
        return batch
    whole = np.zeros((batch_size, *batch.shape[1:]), np.float32)
    whole[: len(batch)] = batch
    return whole

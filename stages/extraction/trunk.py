"""The trunk of a base, the interface of engines, and the number of processors to use."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.build import build
from cryobase.stages.backbones.weights import WeightsFile
from cryobase.stages.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """A base from pixels to its last feature map. Feature sets of one trunk can share a pass."""

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
    """Computes the features of several outputs of one trunk. Threads may share an engine.

    Attributes:
        name: the engine's key in `ENGINES`.
        streams: how many simultaneous calls make it faster.
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
    """Pad the batch with zeros to the fixed size; each new shape would be compiled again."""
    if len(batch) == batch_size:
        return batch
    whole = np.zeros((batch_size, *batch.shape[1:]), np.float32)
    whole[: len(batch)] = batch
    return whole


def cores() -> int:
    """The number of processors that this process may use, or `$CRYOBASE_THREADS` if it is set.

    Raises:
        ConfigError: the variable's value is not a number from 1 to 9999.
    """
    if own := os.environ.get("CRYOBASE_THREADS"):
        if not re.fullmatch(r"[1-9]\d{0,3}", own, re.ASCII):
            raise ConfigError(f"CRYOBASE_THREADS is {own!r:.40}, expected a number from 1 to 9999")
        return int(own)
    affinity = getattr(os, "sched_getaffinity", None)  # macOS does not have it
    return len(affinity(0)) if affinity else os.cpu_count() or 1

"""Images from a stranger: decoded once, in a child, which hands over the pixels of a base's input.

Owns how pixels travel. Must not decode anything in the process that asks.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data import pixels
from cryobase.stages.data.isolation import IsolatedDecoder
from cryobase.stages.data.pixels import PixelSpec, UndecodableImageError


def pixel_bytes(data: bytes, **spec: Any) -> bytes:
    """In a child: the pixels that `pixels.load` makes of an image, see `PixelSpec`.

    Raises:
        UndecodableImageError: with the reason.
    """
    return pixels.load(data, PixelSpec(**spec)).tobytes()


class ReceivedPixels:
    """Loads images in a child process, which is started with the first one."""

    def __init__(self, spec: PixelSpec) -> None:
        self._shape = (spec.image_size, spec.image_size, 3)
        size = 4 * spec.image_size**2 * 3
        self._decoder = IsolatedDecoder(pixel_bytes, size=size, **asdict(spec))

    def load(self, data: bytes) -> NDArray[np.float32]:
        """The pixels of an encoded image, as `pixels.load` makes them: float32 (size, size, 3).

        Raises:
            UndecodableImageError: with the reason.
            StageError: children do not even start.
        """
        ((reason, found),) = self._decoder.examine([data])
        if reason:
            raise UndecodableImageError(reason)
        return np.frombuffer(found, np.float32).reshape(self._shape)

    def close(self) -> None:
        """End the child."""
        self._decoder.close()

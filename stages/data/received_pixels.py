"""Decoding received images in a child process, which returns the pixels of a base's input.

Owns how pixels are sent. Must not decode anything in the calling process.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data import pixels
from cryobase.stages.data.isolation import IsolatedDecoder
from cryobase.stages.data.pixels import PixelSpec, UndecodableImageError


def pixel_bytes(data: bytes, **spec: Any) -> bytes:
    """Runs in a child: the result of `pixels.load`, as bytes; `spec` has the fields of `PixelSpec`.

    Raises:
        UndecodableImageError: with the reason.
    """
    return pixels.load(data, PixelSpec(**spec)).tobytes()


class ReceivedPixels:
    """Loads images in a child process, which starts at the first image."""

    def __init__(self, spec: PixelSpec) -> None:
        self._shape = (spec.image_size, spec.image_size, 3)
        size = 4 * spec.image_size**2 * 3
        self._decoder = IsolatedDecoder(pixel_bytes, size=size, **asdict(spec))

    def load(self, data: bytes) -> NDArray[np.float32]:
        """The pixels of an encoded image: float32 (size, size, 3), as from `pixels.load`.

        Raises:
            UndecodableImageError: with the reason.
            StageError: the child does not start.
        """
        ((reason, raw),) = self._decoder.examine([data])
        if reason:
            raise UndecodableImageError(reason)
        return np.frombuffer(raw, np.float32).reshape(self._shape)

    def close(self) -> None:
        """End the child."""
        self._decoder.close()

"""Batches of decoded images, for training a base and a head together."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data.augment import Augmentation, augment
from cryobase.stages.data.pixels import PixelSpec, load
from cryobase.stages.data.raw import RawImages
from cryobase.store.parallel import ordered_map

Batch = tuple[NDArray[np.float32], NDArray[np.int32]]

AHEAD = 8  # decoded images per thread that wait for a batch


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageStream:
    """Batches of the pixels that extraction uses, read and decoded ahead in threads.

    Attributes:
        images: the images.
        pixels: how they become squares.
        batch_size: images in a batch; the last batch may have fewer.
        augmentation: the policy; None for plain images.
        seed: together with epoch and image, it decides how an image is augmented.
    """

    images: RawImages
    pixels: PixelSpec
    batch_size: int
    augmentation: Augmentation | None = None
    seed: int = 0

    @property
    def plain(self) -> "ImageStream":
        """The same stream without augmentation, for validation and test."""
        return replace(self, augmentation=None)

    def batches(self, ids: NDArray[np.bytes_], epoch: int = 0) -> Iterator[Batch]:
        """Pixels (b, size, size, 3) in 0 to 255 and labels (b,) of the examples, in order.

        Args:
            ids: the examples.
            epoch: augmented images differ in every epoch; plain ones do not.
        """
        positions = self.images.examples.positions(ids)
        labels = self.images.examples.labels[positions]
        decoded = ordered_map(
            lambda position: self._image(int(position), epoch),
            positions,
            workers=os.cpu_count() or 1,
            ahead=AHEAD,
        )
        for start in range(0, len(positions), self.batch_size):
            batch = labels[start : start + self.batch_size]
            yield np.stack([next(decoded) for _ in batch]), batch

    def _image(self, position: int, epoch: int) -> NDArray[np.float32]:
        image = load(self.images.read(position), self.pixels)
        if self.augmentation is None:
            return image
        digest = self.images.examples.digests[position].tobytes()
        return augment(image, self.augmentation, digest, live_view(self.seed, epoch))


def live_view(seed: int, epoch: int) -> int:
    """The view that an epoch uses: never 0, and never the number of a stored view."""
    return 1 << 31 | (seed * 65_537 + epoch) & 0x7FFF_FFFF

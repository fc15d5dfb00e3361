"""From encoded bytes to a backbone's float32 pixels: decoding, aspect ratio, resizing.

The pixels are part of every feature's value: a change here changes features (CONTRIBUTING, "How to
change").
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data import decoding
from cryobase.stages.data.decoding import UndecodableImageError
from cryobase.stages.errors import DataError
from cryobase.store import FeatureSpec, is_foreign
from cryobase.store.text import visible

__all__ = ["PixelSpec", "UndecodableImageError", "decode", "load", "resize"]

LARGE = 768  # pixels a side

Resize = Callable[[NDArray[np.uint8], int, int], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class PixelSpec:
    """How an image becomes a square of `image_size` pixels. The fingerprint has all fields."""

    image_size: int
    resize: Literal["bilinear", "nearest"] = "bilinear"
    aspect: Literal["stretch", "crop", "pad"] = "stretch"
    decode: Literal["exact", "fast"] = "exact"

    @classmethod
    def of(cls, spec: FeatureSpec) -> "PixelSpec":
        """The pixels that the features of a spec were computed from.

        Raises:
            DataError: the features are foreign, so their pixels are unknown.
        """
        if is_foreign(spec):
            raise DataError(
                f"features of {visible(spec.backbone)[:200]} were computed elsewhere: no base here"
                " computes them of an image; take a head of another set"
            )
        names = (field.name for field in fields(cls))
        return cls(**{name: getattr(spec, name) for name in names})

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size: at least 1, not {self.image_size}")
        for key, known in (("resize", RESIZES), ("aspect", ASPECTS), ("decode", ("exact", "fast"))):
            if getattr(self, key) not in known:
                raise ValueError(f"{key}: one of {', '.join(known)}, not {getattr(self, key)!r}")


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode an image in full: uint8 (height, width, 3), RGB, upright; see `decoding.decode`.

    Raises:
        UndecodableImageError: with the reason.
    """
    return decoding.decode(data)


def load(data: bytes, spec: PixelSpec) -> NDArray[np.float32]:
    """Decode and resize an image to a base's input: float32 (size, size, 3), RGB, 0 to 255.

    The base's own scaling is part of its model (`backbones.preprocessing`).

    `bilinear` gives the pixels of `keras.utils.image_dataset_from_directory`. `nearest` gives those
    of `keras.utils.load_img(target_size=…)`, which `ImageDataGenerator` uses.

    Raises:
        UndecodableImageError: with the reason.
    """
    smallest = _smallest(data, spec) if spec.decode == "fast" else (0, 0)
    accurate = spec.resize == "nearest"  # as `load_img`, which uses Pillow
    return resize(decoding.decode(data, accurate=accurate, smallest=smallest), spec)


def resize(pixels: NDArray[np.uint8], spec: PixelSpec) -> NDArray[np.float32]:
    """Resize uint8 (height, width, 3) to float32 (size, size, 3), 0 to 255."""
    return ASPECTS[spec.aspect](pixels, spec.image_size, RESIZES[spec.resize])


def _smallest(data: bytes, spec: PixelSpec) -> tuple[int, int]:
    """The (height, width) that a scaled JPEG must have at least, so that it is not enlarged."""
    if spec.aspect != "pad":
        return spec.image_size, spec.image_size
    height, width = decoding.inspect(data).upright
    longest = max(height, width)
    return -(-height * spec.image_size // longest), -(-width * spec.image_size // longest)


def _bilinear(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """`tf.image.resize` without antialiasing, to within 0.02 of 255 levels.

    TensorFlow's float32 coordinates are less precise in large images. So above `LARGE` pixels its
    steps are repeated exactly. This converts only the pixels that are used to float32.
    """
    if max(pixels.shape) > LARGE:
        return _bilinear_in_tensorflow_steps(pixels, height, width)
    import cv2

    resized: NDArray[np.float32] = cv2.resize(
        pixels.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
    )
    return resized


def _bilinear_in_tensorflow_steps(
    pixels: NDArray[np.uint8], height: int, width: int
) -> NDArray[np.float32]:
    """The same bits as `tf.image.resize`: columns first, then rows."""
    rows, row_weights = _taps(pixels.shape[0], height)
    columns, column_weights = _taps(pixels.shape[1], width)
    four = pixels.take(rows, axis=0).take(columns, axis=1).astype(np.float32)
    left, right = four[:, ::2], four[:, 1::2]
    narrow = left + (right - left) * column_weights[:, None]
    top, bottom = narrow[::2], narrow[1::2]
    return top + (bottom - top) * row_weights[:, None, None]


def _taps(length: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Both source neighbours of each target position, interleaved, and the weight of the second."""
    scale = np.float32(length) / np.float32(target)
    place = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    below = np.floor(place)
    first = below.astype(np.intp)
    neighbours = np.stack([np.maximum(first, 0), np.minimum(first + 1, length - 1)], axis=1)
    return neighbours.ravel(), place - below


def _nearest(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    rows, columns = _picked(pixels.shape[0], height), _picked(pixels.shape[1], width)
    return pixels.take(rows, axis=0).take(columns, axis=1).astype(np.float32)


@lru_cache(maxsize=4096)
def _picked(length: int, target: int) -> NDArray[np.intp]:
    """(target,) the pixels that Pillow picks as nearest neighbours.

    Pillow itself resizes a row of positions, so that its rounding is reproduced.
    """
    from PIL import Image

    ruler = Image.fromarray(np.arange(length, dtype=np.int32)[None])
    picked = ruler.resize((target, 1), Image.Resampling.NEAREST)
    return np.array(picked, dtype=np.intp)[0]  # type: ignore[no-any-return]


def _stretch(pixels: NDArray[np.uint8], size: int, resize: Resize) -> NDArray[np.float32]:
    return resize(pixels, size, size)


def _crop(pixels: NDArray[np.uint8], size: int, resize: Resize) -> NDArray[np.float32]:
    """Crop the largest centred square, as `keras.utils.image.smart_resize` does."""
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return resize(np.ascontiguousarray(pixels[top : top + side, left : left + side]), size, size)


def _pad(pixels: NDArray[np.uint8], size: int, resize: Resize) -> NDArray[np.float32]:
    """Fit the image into a black square, with the float32 steps of `tf.image.resize_with_pad`."""
    lengths = np.asarray(pixels.shape[:2], dtype=np.float32)
    fitted = lengths / np.max(lengths / np.float32(size))
    height, width = (max(1, int(length)) for length in fitted)
    top, left = (max(0, int(np.floor(gap))) for gap in (np.float32(size) - fitted) / np.float32(2))
    padded = np.zeros((size, size, 3), dtype=np.float32)
    padded[top : top + height, left : left + width] = resize(pixels, height, width)
    return padded


RESIZES: dict[str, Resize] = {"bilinear": _bilinear, "nearest": _nearest}
ASPECTS: dict[str, Callable[[NDArray[np.uint8], int, Resize], NDArray[np.float32]]] = {
    "stretch": _stretch,
    "crop": _crop,
    "pad": _pad,
}

"""Augmented views: random rotations, shifts, shears, zooms and flips of a resized image.

The settings are those of `keras.preprocessing.image.ImageDataGenerator`, which also cover the
preprocessing layers: `RandomRotation(0.1)` is `rotation: 36`, `RandomZoom(0.2)` is `zoom: 0.2` with
`zoom_together: true`, both with `fill: reflect`; `RandomFlip("horizontal")` is `horizontal_flip`.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cryobase.store.text import parse_json, record

BORDERS = {  # OpenCV's names; OpenCV itself is imported only to augment an image
    "nearest": "BORDER_REPLICATE",
    "reflect": "BORDER_REFLECT",
    "wrap": "BORDER_WRAP",
    "constant": "BORDER_CONSTANT",
}


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """An augmentation policy.

    Each amount is a maximum. The applied amount is uniform from minus to plus the maximum.

    Attributes:
        rotation: Degrees.
        width_shift: Fraction of the width, to the right or left.
        height_shift: Fraction of the height, down or up.
        shear: Degrees.
        zoom: The view shows 1 - zoom to 1 + zoom of the image's extent; below 1 it is enlarged.
        zoom_together: Whether both axes get the same zoom, so that shapes keep their proportions.
        horizontal_flip: Whether half of the views are mirrored, left to right.
        vertical_flip: Whether half of the views are mirrored, top to bottom.
        fill: What is beyond the edge: the nearest pixel, the image reflected or repeated, or a
            constant.
        fill_value: The constant, 0 to 255.
    """

    rotation: float = 0.0
    width_shift: float = 0.0
    height_shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    zoom_together: bool = False
    horizontal_flip: bool = False
    vertical_flip: bool = False
    fill: Literal["nearest", "reflect", "wrap", "constant"] = "nearest"
    fill_value: float = 0.0

    def __post_init__(self) -> None:
        limits = {
            "rotation": 360, "width_shift": 1, "height_shift": 1, "shear": 89, "zoom": 0.99,
            "fill_value": 255,
        }  # fmt: skip
        for key, limit in limits.items():
            if not 0 <= getattr(self, key) <= limit:
                raise ValueError(f"{key}: 0 to {limit}, not {getattr(self, key)}")
        if self.fill not in BORDERS:
            raise ValueError(f"fill: one of {', '.join(BORDERS)}, not {self.fill!r}")

    def to_json(self) -> str:
        """Canonical JSON of the fields that differ from the defaults: the spec's `augmentation`."""
        idle = asdict(Augmentation())
        mine = {
            key: value if isinstance(value, bool | str) else float(value)
            for key, value in asdict(self).items()
            if value != idle[key]
        }
        return json.dumps(mine, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Augmentation":
        """The policy that `to_json` wrote.

        Raises:
            ValueError: the text is not a policy.
        """
        try:
            return record(cls, parse_json(text.encode()))
        except ValueError as error:
            raise ValueError(f"not an augmentation ({error}): {text[:80]!r}") from None


def augment(
    image: NDArray[np.float32], policy: Augmentation, digest: bytes, view: int
) -> NDArray[np.float32]:
    """One view of an image; view 0 is the image itself.

    The random numbers come from SHA-256 of (digest, view, name of the amount). So they are the same
    on every machine, and adding an amount to a policy does not change the other amounts.

    Args:
        image: float32 (height, width, 3), resized.
        policy: The augmentation policy.
        digest: SHA-256 of the encoded image, 32 bytes.
        view: 0 or more.

    Returns:
        float32 (height, width, 3), in the range of the input and `fill_value`.
    """
    import cv2

    if view == 0:
        return image
    matrix = affine(policy, digest, view, image.shape[:2])
    height, width = image.shape[:2]
    seen: NDArray[np.float32] = cv2.warpAffine(
        image,
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=getattr(cv2, BORDERS[policy.fill]),
        borderValue=(policy.fill_value,) * 3,
    )
    return seen


def affine(
    policy: Augmentation, digest: bytes, view: int, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """The (2, 3) matrix that maps (x, y, 1) in the view to (x, y) in the image.

    Rotation, shift, shear, zoom and flip act about the centre, in the order of
    `ImageDataGenerator`: the view is flipped last, so its coordinates are flipped first.
    """

    def amount(name: str, largest: float) -> float:
        return largest * (2 * uniform(digest, view, name) - 1)

    height, width = shape
    turn = math.radians(amount("rotation", policy.rotation))
    lean = math.radians(amount("shear", policy.shear))
    zoom_x = 1 + amount("zoom", policy.zoom)
    zoom_y = zoom_x if policy.zoom_together else 1 + amount("zoom_y", policy.zoom)
    flip_x = policy.horizontal_flip and uniform(digest, view, "horizontal_flip") < 0.5
    flip_y = policy.vertical_flip and uniform(digest, view, "vertical_flip") < 0.5
    rotation = [[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0]]
    shift = [
        [1, 0, amount("width_shift", policy.width_shift) * width],
        [0, 1, amount("height_shift", policy.height_shift) * height],
    ]
    shear = [[1, -math.sin(lean), 0], [0, math.cos(lean), 0]]
    zoom = [[-zoom_x if flip_x else zoom_x, 0, 0], [0, -zoom_y if flip_y else zoom_y, 0]]
    center = [[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2]]
    origin = [[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2]]
    steps = [
        np.array([*step, [0, 0, 1]]) for step in (center, rotation, shift, shear, zoom, origin)
    ]
    whole: NDArray[np.float64] = np.linalg.multi_dot(steps)
    return whole[:2]


def uniform(digest: bytes, view: int, name: str) -> float:
    """A number in [0, 1) that depends only on the arguments."""
    hashed = hashlib.sha256(digest + view.to_bytes(4, "big") + name.encode()).digest()
    return int.from_bytes(hashed[:8], "big") / 2.0**64

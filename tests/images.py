"""Small images made on the spot; each class has its own colour and stripes."""

from pathlib import Path

import cv2
import numpy as np

CLASSES = ("blue", "green", "red")


def picture(label: int, seed: int, size: int = 48) -> np.ndarray:
    """A striped RGB image of a class, (size, size, 3) uint8, with noise that makes it unique."""
    random = np.random.default_rng((label, seed))
    stripes = np.sin(np.arange(size) * (label + 1) * 0.7 + random.uniform(0, 6))[:, None, None]
    image = np.full((size, size, 3), 110.0) + 50 * stripes
    image[..., 2 - label] += 70
    return np.clip(image + random.normal(0, 12, image.shape), 0, 255).astype(np.uint8)


def write_folder(
    root: Path, per_class: int, *, first: int = 0, classes: tuple[str, ...] = CLASSES
) -> Path:
    """Class sub-folders of PNG files `0000.png`, …; `first` is the number of the first new one."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + per_class):
            image = picture(label, number)
            cv2.imwrite(str(root / name / f"{number:04d}.png"), image[..., ::-1])
    return root

"""Synthetic images for trials of a pipeline: each class has its own colour and stripes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data.png import encode_png

SIDE = 64  # pixels


def write_folder(directory: Path, classes: Sequence[str], per_class: int) -> None:
    """Write `<class>/0000.png`, …; the images are the same in every run."""
    for label, name in enumerate(classes):
        (directory / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            data = encode_png(striped(label, number))
            (directory / name / f"{number:04}.png").write_bytes(data)


def striped(label: int, number: int, side: int = SIDE) -> NDArray[np.uint8]:
    """(side, side, 3) RGB: stripes with noise; the class decides their width and colour."""
    random = np.random.default_rng((label, number))
    stripes = np.sin(np.arange(side) * (label + 1) * 0.5 + random.uniform(0, 6))[:, None, None]
    image = np.full((side, side, 3), 110.0) + 50 * stripes
    image[..., label % 3] += 60
    pixels: NDArray[np.uint8] = np.clip(image + random.normal(0, 10, image.shape), 0, 255).astype(
        np.uint8
    )
    return pixels

"""Synthetic images that are the same on every machine, at any size.

Canary rows are the features of some of them. Seeded weights are tuned on others.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

CANARIES = 4
SEED = 2016


@cache
def canary_images(image_size: int) -> NDArray[np.float32]:
    """The images of canary rows: float32 (CANARIES, size, size, 3), 0 to 255, read-only."""
    images = probes(CANARIES, image_size, seed=SEED)
    images.flags.writeable = False
    return images


def probes(count: int, size: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Smooth colour images of blobs and waves, float32 (count, size, size, 3) in 0 to 255."""
    random = np.random.default_rng(seed)
    across = np.linspace(0, 1, size, dtype=np.float64)
    images = np.empty((count, size, size, 3), np.float32)
    for image in images:
        waves = np.zeros((size, size, 3))
        for _ in range(6):
            frequency = random.uniform(-6, 6, 2) * random.uniform(0.2, 1.5)
            phase = across[:, None] * frequency[0] + across[None, :] * frequency[1]
            colour = random.normal(size=3)
            waves += np.sin(2 * math.pi * (phase + random.uniform()))[..., None] * colour
        image[:] = 255 / (1 + np.exp(-waves))
    return images

"""A few fixed images whose features show whether an engine still computes what it did."""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.errors import StageError

COUNT = 4
SEED = 2016
# of the features' standard deviation; engines were seen to differ by 1e-4 to 1e-3 of it
TOLERANCE = 2e-3
MEND = (
    "run with the libraries and the engine that computed those, or, if the new features are right,"
    " raise EXTRACTOR_VERSION in stages/backbones/table.py and run `cryobase extract`"
)


class DriftError(StageError, ArithmeticError):
    """An engine does not reproduce the features that it is held against."""


@cache
def canary_images(image_size: int) -> NDArray[np.float32]:
    """The fixed images at a size: float32 (COUNT, size, size, 3), 0 to 255, read-only."""
    images = probes(COUNT, image_size, seed=SEED)
    images.flags.writeable = False
    return images


def deviation(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """The largest difference, in standard deviations of what was expected.

    Infinite where the shapes differ or a value is not finite.
    """
    if found.shape != expected.shape:
        return math.inf
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max()
    relative = difference / max(float(expected.std(dtype=np.float64)), 1e-12)
    return float(relative) if math.isfinite(relative) else math.inf


def check(
    found: NDArray[np.floating],
    expected: NDArray[np.floating],
    subject: str,
    *,
    of: str = "recorded",
    mend: str = MEND,
) -> None:
    """Refuse features that are not those expected.

    Raises:
        DriftError: naming `subject`, whose features were expected, the measured difference and the
            mend.
    """
    measured = deviation(found, expected)
    if measured > TOLERANCE:
        raise DriftError(
            f"{subject}: the canary images' features differ by {measured:.2g} standard deviations"
            f" from those {of}, at most {TOLERANCE:g} is allowed; {mend}"
        )


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

"""How two floating-point computations of the same thing are compared: relative to its scale.

A figure from one machine is no tolerance. A bound says how many roundings lie between both sides,
or names the promise that is tested.
"""

import numpy as np
from numpy.typing import ArrayLike

BETWEEN_ENGINES = 2e-3  # of the features' standard deviation: the design's promise
RESIZING = 0.02 / 255  # of all levels: the design's promise of equal pixels


def rounding(depth: int, dtype: str = "float32") -> float:
    """How far `depth` roundings in a row may lead at worst, as a share of the largest value.

    A rounding errs by half an epsilon, and so does the other side's; numpy has no bfloat16.
    """
    epsilon = 2.0**-7 if dtype == "bfloat16" else float(np.finfo(dtype).eps)
    return depth * epsilon


def assert_close(
    found: ArrayLike, expected: ArrayLike, *, within: float, scale: float | None = None
) -> None:
    """Assert that no value differs by more than a share of the quantity's scale.

    Args:
        found: any shape.
        expected: the same shape.
        within: the share, from `rounding` or one of the promises above.
        scale: of the quantity; by default the largest magnitude in `expected`.
    """
    left, right = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert left.shape == right.shape
    unit = float(np.abs(right).max()) if scale is None else scale
    assert unit > 0, "of zeros, no share can be told"
    error = float(np.abs(left - right).max()) / unit
    assert error <= within, f"differ by {error:.3g} of their scale {unit:.3g}, allowed {within:.3g}"

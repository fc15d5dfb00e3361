"""Probe images and the comparison of features."""

import math

import numpy as np
import pytest

from cryobase.stages.backbones import canary
from tests.closeness import assert_close, rounding


def test_the_images_are_fixed_smooth_and_different():
    images = canary.canary_images(32)
    assert images.shape == (canary.COUNT, 32, 32, 3)
    assert images.dtype == np.float32
    assert np.array_equal(images, canary.probes(canary.COUNT, 32, seed=canary.SEED))
    assert images.min() >= 0
    assert images.max() <= 255
    large = canary.canary_images(128)
    assert np.abs(np.diff(large, axis=1)).mean() < 0.2 * large.std()
    assert all(np.abs(images[0] - other).mean() > 10 for other in images[1:])
    corners = [[15.371, 62.338], [106.374, 241.375]]
    assert_close(images[0, ::16, ::16, 0], corners, within=1e-5)  # three decimals are given


def test_the_deviation_is_relative_to_the_spread():
    expected = np.random.default_rng(0).normal(5, 0.1, (4, 100)).astype(np.float32)
    changed = expected.copy()
    changed[1, 2] += 0.001
    measured = canary.deviation(changed, expected)
    assert_close(measured, 0.001 / expected.std(), within=rounding(2) * 5 / 0.001)  # 0.001 at 5
    larger = canary.deviation(changed * 1000, expected * 1000)
    assert_close(larger, measured, within=rounding(4) * 5 / 0.001)
    assert canary.deviation(expected, expected) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_deviate_without_end(bad):
    expected = np.ones((2, 2), np.float32)
    assert canary.deviation(np.full((2, 2), bad, np.float32), expected) == math.inf
    assert canary.deviation(expected[:1], expected) == math.inf


def test_drift_is_refused_with_the_measured_difference():
    expected = np.random.default_rng(0).normal(0, 1, (4, 100)).astype(np.float32)
    canary.check(expected + 0.001, expected, "pool")
    with pytest.raises(canary.DriftError, match=r"pool: .*differ by 0\.01 standard deviations"):
        canary.check(expected + 0.01, expected, "pool")

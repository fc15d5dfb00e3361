"""How features are compared with those that were recorded, or with TensorFlow's."""

import math

import numpy as np
import pytest

from cryobase.stages.errors import DriftError
from cryobase.stages.extraction.engines import check_features, deviation
from tests.closeness import assert_close, rounding


def test_the_deviation_is_relative_to_the_spread():
    expected = np.random.default_rng(0).normal(5, 0.1, (4, 100)).astype(np.float32)
    changed = expected.copy()
    changed[1, 2] += 0.001
    measured = deviation(changed, expected)
    assert_close(measured, 0.001 / expected.std(), within=rounding(2) * 5 / 0.001)  # 0.001 at 5
    larger = deviation(changed * 1000, expected * 1000)
    assert_close(larger, measured, within=rounding(4) * 5 / 0.001)
    assert deviation(expected, expected) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_deviate_without_end(bad):
    expected = np.ones((2, 2), np.float32)
    assert deviation(np.full((2, 2), bad, np.float32), expected) == math.inf
    assert deviation(expected[:1], expected) == math.inf


def test_drift_is_refused_with_the_measured_difference():
    expected = np.random.default_rng(0).normal(0, 1, (4, 100)).astype(np.float32)
    check_features(expected + 0.001, expected, "pool")
    with pytest.raises(DriftError, match=r"pool: .*differ by 0\.01 standard deviations"):
        check_features(expected + 0.01, expected, "pool")

"""The images that are drawn."""

import numpy as np

from cryobase.stages.backbones.probes import CANARIES, SEED, canary_images, probes
from tests.closeness import assert_close


def test_the_images_are_fixed_smooth_and_different():
    images = canary_images(32)
    assert images.shape == (CANARIES, 32, 32, 3)
    assert images.dtype == np.float32
    assert np.array_equal(images, probes(CANARIES, 32, seed=SEED))
    assert images.min() >= 0
    assert images.max() <= 255
    large = canary_images(128)
    assert np.abs(np.diff(large, axis=1)).mean() < 0.2 * large.std()
    assert all(np.abs(images[0] - other).mean() > 10 for other in images[1:])
    corners = [[15.371, 62.338], [106.374, 241.375]]
    assert_close(images[0, ::16, ::16, 0], corners, within=1e-5)  # three decimals are given

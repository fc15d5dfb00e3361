"""What lies in front of a base is what its family's `preprocess_input` does."""

import inspect
import sys

import numpy as np
import pytest

from cryobase.stages.backbones.preprocessing import PREPROCESSINGS
from cryobase.stages.backbones.table import BACKBONES, resolve
from tests.closeness import assert_close, rounding


@pytest.fixture(scope="module")
def pixels():
    random = np.random.default_rng(3)
    images = random.uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)
    images[0], images[1] = 0, 255
    return images


def run(name, pixels):
    import keras

    inputs = keras.Input(pixels.shape[1:])
    return np.asarray(keras.Model(inputs, PREPROCESSINGS[name](inputs))(pixels))


def _keras_rows():
    return [name for name, row in BACKBONES.items() if row.weights.startswith("https://")]


@pytest.mark.parametrize("backbone", _keras_rows())
def test_equals_the_familys_preprocess_input(backbone, pixels):
    import keras

    name = resolve(BACKBONES[backbone].constructor).__name__
    family = sys.modules[inspect.unwrap(getattr(keras.applications, name)).__module__]
    expected = family.preprocess_input(pixels.copy())
    found = run(BACKBONES[backbone].preprocessing, pixels)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "black", "white"),
    [
        ("identity", 0, 255),
        ("unit", 0, 1),
        ("symmetric", -1, 1),
        ("lite", -127 / 128, 1),
        ("caffe", [-103.939, -116.779, -123.68], [151.061, 138.221, 131.32]),
        ("torch", [-2.117904, -2.035714, -1.804444], [2.248908, 2.428571, 2.64]),
    ],
)
def test_black_and_white(name, black, white, pixels):
    found = run(name, pixels)
    assert found.shape == pixels.shape
    ends = np.broadcast_to(np.reshape([black, white], (2, -1)), (2, 3))
    assert_close(found[:2, 0, 0], ends, within=rounding(4))  # divided, shifted, seven digits


def test_caffe_turns_rgb_to_bgr(pixels):
    red = np.zeros_like(pixels)
    red[..., 0] = 255
    assert np.argmax(run("caffe", red)[0, 0, 0] - run("caffe", red * 0)[0, 0, 0]) == 2

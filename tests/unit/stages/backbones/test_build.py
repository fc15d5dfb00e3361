"""Building a base: outputs by name, sizes, and weights that do not fit."""

import sys

import numpy as np
import pytest

from cryobase.stages.backbones.build import build
from cryobase.stages.backbones.efficientnet import IMAGENET_DEVIATIONS, IMAGENET_MEANS
from cryobase.stages.backbones.probes import probes
from cryobase.stages.backbones.weights import locate_weights
from cryobase.stages.errors import ConfigError, MissingWeightsError
from cryobase.stages.extraction.engines import deviation
from tests.closeness import assert_close, rounding

OUTPUTS = [
    "avg",
    "max",
    "flatten",
    "conv_pw_3_relu",
    "conv_pw_3_relu:avg",
    "conv_pw_3_relu:flatten",
]


def test_outputs(model_of):
    model = model_of("mobilenet", *OUTPUTS)
    images = probes(2, 64)
    average, largest, flat, layer, pooled, unrolled = map(np.asarray, model(images))
    grid = flat.reshape(2, 2, 2, 1024)
    assert_close(average, grid.mean(axis=(1, 2)), within=rounding(2 * 2))
    assert np.array_equal(largest, grid.max(axis=(1, 2)))
    assert layer.shape == (2, 16, 16, 128)
    assert_close(pooled, layer.mean(axis=(1, 2)), within=rounding(16 * 16))
    assert np.array_equal(unrolled, layer.reshape(2, -1))
    assert not model.trainable_weights


def test_a_second_build_gives_the_same(model_of, trunk_of):
    images = probes(2, 64)
    first = np.asarray(model_of("mobilenet", *OUTPUTS)(images)[0])
    assert np.array_equal(np.asarray(trunk_of("mobilenet").model(["avg"])(images)), first)


def test_efficientnetb0_by_its_path_is_that_of_imagenet(tmp_path, monkeypatch):
    """Keras adds a rescaling where `weights="imagenet"` alone; the same file must give the same."""
    import keras

    path = tmp_path / "notop.weights.h5"
    images = probes(2, 64)
    plain = keras.applications.EfficientNetB0(
        weights=None, include_top=False, input_shape=(64, 64, 3)
    )
    values = plain.get_weights()
    values[:2] = [IMAGENET_MEANS, IMAGENET_DEVIATIONS]  # what ImageNet's file has there
    plain.set_weights(values)
    plain.save_weights(path)
    module = sys.modules["keras.src.applications.efficientnet"]
    monkeypatch.setattr(module.file_utils, "get_file", lambda *_, **__: str(path))
    official = keras.applications.EfficientNetB0(include_top=False, input_shape=(64, 64, 3))
    wanted = np.asarray(official(images)).mean(axis=(1, 2))
    ours = build("efficientnetb0", path, image_size=64, preprocessing="identity", outputs=["avg"])
    assert deviation(np.asarray(ours(images)), wanted) < 1e-4


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("conv_pw_3_rellu:avg", "no layer 'conv_pw_3_rellu' among its .* like conv_pw_3_relu"),
        ("conv_pw_3_relu:mean", "no pooling 'mean'; take one of avg, max, flatten"),
    ],
)
def test_unknown_outputs(output, message):
    with pytest.raises(ConfigError, match=message):
        build("mobilenet", None, image_size=64, preprocessing="symmetric", outputs=[output])


def test_too_small_an_image():
    with pytest.raises(ConfigError, match="image_size 70 is too small; it takes 71 or more"):
        build("xception", None, image_size=70, preprocessing="symmetric", outputs=["avg"])


@pytest.mark.fault(58)
def test_weights_of_another_base_are_refused():
    weights = locate_weights("vgg16", "none")
    with pytest.raises(MissingWeightsError, match="no weights of mobilenet without its top"):
        build("mobilenet", weights.path, image_size=64, preprocessing="symmetric", outputs=["avg"])


@pytest.mark.parametrize("name", ["truncated.weights.h5", "truncated.h5", "text.keras", "text.pth"])
@pytest.mark.fault(56)
def test_files_that_are_no_weights_are_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x89HDF\r\n\x1a\n" if "truncated" in name else b"weights")
    with pytest.raises((MissingWeightsError, ValueError), match=str(path)):
        build("mobilenet", path, image_size=64, preprocessing="symmetric", outputs=["avg"])

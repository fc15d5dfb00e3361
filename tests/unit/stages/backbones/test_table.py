"""The table of backbones: plain data, cheap to read, and true of what Keras publishes."""

import inspect
import subprocess
import sys

import pytest

from cryobase.stages.backbones.preprocessing import PREPROCESSINGS
from cryobase.stages.backbones.table import BACKBONES, resolve
from tests.scale import RUN_ALL

ISSUE = (
    "efficientnet_lite0 vgg16 vgg19 resnet50 resnet50v2 inceptionv3 xception mobilenet mobilenetv2"
    " densenet121 efficientnetb0 efficientnetv2b0 convnexttiny xception_41_imagenet"
)


def test_reading_the_table_and_the_config_loads_nothing_slow():
    code = (
        "import sys, cryobase.pipeline.params, cryobase.stages.extraction.plan;"
        "slow = {'keras', 'tensorflow', 'openvino', 'dask', 'cv2', 'numpy.random', 'numpy.ma'};"
        "loaded = slow & set(sys.modules);"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_promised_backbone_has_a_row():
    assert list(BACKBONES) == ISSUE.split()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_rows_are_consistent(backbone):
    row = BACKBONES[backbone]
    assert row.preprocessing in PREPROCESSINGS
    assert row.smallest <= row.image_size
    assert row.image_size in (row.sizes or (row.image_size,))
    assert ("{size}" in row.weights) == bool(row.sizes)
    assert len(row.checksum) in (0, 32, 64)
    assert row.weights.startswith("https://") or callable(resolve(row.weights))


def _keras_rows():
    """Keras builds the whole base before it asks for the file, so some rows stand for all in CI."""
    rows = [name for name, row in BACKBONES.items() if row.constructor.startswith("keras.")]
    return rows if RUN_ALL else ["vgg16", "mobilenetv2"]


@pytest.mark.parametrize("backbone", _keras_rows())
def test_weights_are_those_that_keras_itself_would_fetch(backbone, monkeypatch):
    """Keras looks files up by name in its cache; another name would be downloaded twice."""
    row = BACKBONES[backbone]
    constructor = resolve(row.constructor)
    module = sys.modules[inspect.unwrap(constructor).__module__]
    asked = []

    def get_file(name, origin, *, cache_subdir, file_hash=None):
        asked.append((name, origin, cache_subdir, file_hash or ""))
        raise InterruptedError

    owner = (
        module if hasattr(module, "file_utils") else sys.modules["keras.src.applications.resnet"]
    )
    monkeypatch.setattr(owner.file_utils, "get_file", get_file)
    size = row.image_size
    with pytest.raises(InterruptedError):
        constructor(weights="imagenet", include_top=False, input_shape=(size, size, 3))
    url = row.weights.format(size=row.image_size)
    assert asked == [(url.rpartition("/")[2], url, "models", row.checksum)]

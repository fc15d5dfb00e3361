"""Every row of the table: builds, has its width, spreads, saves, and runs on all engines."""

import importlib.util

import numpy as np
import pytest

from cryobase.stages.backbones import seeded
from cryobase.stages.backbones.probes import probes
from cryobase.stages.backbones.table import BACKBONES
from cryobase.stages.backbones.weights import locate_weights
from cryobase.stages.extraction.engines import ENGINES, TOLERANCE, deviation, start_engine
from cryobase.stages.extraction.trunk import Trunk
from tests.closeness import assert_close, rounding
from tests.memory import give_back
from tests.scale import RUN_ALL

OUTPUTS = ["avg", "max"]


def needs_installed(backbone):
    if BACKBONES[backbone].extra == "keras-hub" and importlib.util.find_spec("keras_hub") is None:
        pytest.skip("the extra keras-hub is not installed")


@pytest.fixture(autouse=True)
def _a_base_at_a_time():
    """What one test has built goes before the next one builds more."""
    yield
    give_back()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_row(backbone, tmp_path):
    """One test, because building a base is what costs."""
    needs_installed(backbone)
    row = BACKBONES[backbone]
    seeded_model = seeded.seeded_base(backbone)
    images = probes(6, seeded_model.inputs[0].shape[1], seed=5)
    saved = tmp_path / "saved.weights.h5"
    seeded_model.save_weights(saved)
    expected = np.asarray(seeded_model(images)).reshape(6, -1, row.width)
    del seeded_model

    weights = locate_weights(backbone, str(saved))
    trunk = Trunk(
        backbone=backbone,
        weights=weights,
        image_size=images.shape[1],
        preprocessing=row.preprocessing,
    )
    positions, average, largest = map(np.asarray, trunk.model(["flatten", "avg", "max"])(images))
    assert np.array_equal(positions, expected.reshape(6, -1)), "loaded weights are other weights"
    assert_close(average, expected.mean(axis=1), within=rounding(expected.shape[1]))
    assert np.array_equal(largest, expected.max(axis=1))

    half = average.astype(np.float16)
    assert np.isfinite(half).all()
    assert average.std(axis=0).mean() > 0.01, "different images must have different features"
    assert np.abs(half - average).max() < 0.01 * average.std(), "float16 must keep the differences"


ENGINE_ROWS = list(BACKBONES) if RUN_ALL else ["efficientnet_lite0", "vgg16"]


@pytest.mark.parametrize("backbone", ENGINE_ROWS)
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "tensorflow"])
def test_engines_agree_within_the_tolerance(backbone, engine, trunk_of, model_of):
    """Also after the model was kept and loaded: the first start keeps, the second loads.

    With `-s` it shows the table of docs/backbones.md.
    """
    needs_installed(backbone)
    trunk = trunk_of(backbone)
    images = probes(6, trunk.image_size, seed=6)
    expected = [np.asarray(one) for one in model_of(backbone, *OUTPUTS)(images)]
    deviations = []
    for _ in range(2):
        found = start_engine(engine, trunk, OUTPUTS, 8)(images)
        deviations += [deviation(*pair) for pair in zip(found, expected, strict=True)]
    print(f"\n{backbone} {trunk.image_size} {max(deviations):.1e}")
    assert max(deviations) < TOLERANCE

"""Engines: the choice among them, what is kept, and what happens when it is damaged."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from stages.backbones import canary, engines, openvino_engine
from stages.backbones.engines import start_engine
from stages.backbones.openvino_engine import OpenVinoEngine
from stages.backbones.tensorflow_engine import TensorFlowEngine
from stages.errors import ConfigError
from tests.scale import RUN_ALL

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def trunk(trunk_of):
    return trunk_of("mobilenet")


@pytest.fixture(scope="module")
def images():
    return canary.probes(11, 64, seed=8)


@pytest.fixture(scope="module")
def expected(trunk, images):
    return TensorFlowEngine(trunk, ["avg", "conv_pw_3_relu"], 16)(images)


def check(engine, images, expected):
    for found, wanted in zip(engine(images), expected, strict=True):
        assert found.dtype == np.float32
        assert canary.deviation(found, wanted) < canary.TOLERANCE


def test_auto_takes_openvino_on_processors(trunk, images, expected, monkeypatch):
    monkeypatch.setattr(engines, "has_accelerator", lambda: False)
    engine = start_engine("auto", trunk, ["avg", "conv_pw_3_relu"], 16)
    assert engine.name == "openvino"
    assert engine.shapes == [(1024,), (16, 16, 128)]
    check(engine, images, expected)


@pytest.mark.parametrize("missing", ["accelerator", "openvino"])
def test_auto_takes_tensorflow_on_gpus_and_without_openvino(trunk, monkeypatch, missing):
    if missing == "accelerator":
        monkeypatch.setattr(engines, "has_accelerator", lambda: True)
    else:
        monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: None)
    assert start_engine("auto", trunk, ["avg"], 16).name == "tensorflow"


def test_an_engine_that_does_not_reproduce_the_reference_is_not_taken(trunk, monkeypatch, caplog):
    """As if OpenVINO computed in half precision: its features drift, so TensorFlow runs."""
    original = OpenVinoEngine.__call__
    monkeypatch.setattr(
        OpenVinoEngine, "__call__", lambda self, batch: [1.01 * f for f in original(self, batch)]
    )
    monkeypatch.setattr(engines, "has_accelerator", lambda: False)
    with pytest.raises(canary.DriftError, match="mobilenet with openvino"):
        start_engine("openvino", trunk, ["avg"], 16)
    assert start_engine("auto", trunk, ["avg"], 16).name == "tensorflow"
    assert "OpenVINO cannot stand in" in caplog.text


def test_an_engine_that_is_not_installed_is_refused(trunk, monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'cryobase\[openvino\]'"):
        start_engine("openvino", trunk, ["avg"], 16)


def test_a_kept_model_needs_neither_keras_nor_tensorflow(trunk):
    start_engine("openvino", trunk, ["avg"], 16)
    code = (
        "import sys; from pathlib import Path;"
        "from stages.backbones.canary import canary_images;"
        "from stages.backbones.engines import start_engine;"
        "from stages.backbones.trunk import Trunk;"
        "from stages.backbones.weights import WeightsFile;"
        f"trunk = Trunk(backbone='mobilenet', image_size=64, preprocessing='symmetric',"
        f" weights=WeightsFile(Path('no'), {trunk.weights.sha256!r}));"
        "assert start_engine('openvino', trunk, ['avg'], 16)(canary_images(64))[0].any();"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "damage", ["weights", "reference", "model", "missing"] if RUN_ALL else ["weights", "reference"]
)
def test_a_damaged_kept_model_is_made_again(trunk, images, expected, damage):
    outputs = ["avg", "conv_pw_3_relu"]
    start_engine("openvino", trunk, outputs, 16)
    kept = openvino_engine.kept_directory(trunk, outputs)
    path = kept / {"weights": "model.bin", "model": "model.xml"}.get(damage, "reference.npz")
    if damage == "missing":
        path.unlink()
    elif damage == "weights":
        data = np.fromfile(path, "<f4")
        (data[len(data) // 3 :] * 0.9).tofile(path)
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    check(start_engine("openvino", trunk, outputs, 16), images, expected)


def test_what_is_kept_is_full_precision(trunk):
    """OpenVINO halves weights on saving unless told not to."""
    start_engine("openvino", trunk, ["avg"], 16)
    kept = openvino_engine.kept_directory(trunk, ["avg"]) / "model.bin"
    assert kept.stat().st_size > 3_200_000 * 4, "3.2 million weights of 4 bytes"


@pytest.mark.parametrize("engine", [TensorFlowEngine, OpenVinoEngine])
def test_a_row_does_not_depend_on_its_batch(engine, trunk, images):
    engine = engine(trunk, ["avg"], 8)
    whole = engine(images[:8])[0]
    for count in (1, 3):
        assert canary.deviation(engine(images[:count])[0], whole[:count]) < 1e-4


def test_openvino_spreads_one_call_over_all_streams(trunk, images, monkeypatch):
    """Else the cores would not end together."""
    monkeypatch.setattr(openvino_engine, "cores", lambda: 2)
    engine = OpenVinoEngine(trunk, ["avg"], 16)
    inside, together = threading.Lock(), threading.Barrier(2, timeout=60)
    original, seen = engine._infer, []

    def infer(part, features):
        with inside:
            seen.append(len(part))
            first_two = len(seen) <= 2
        if first_two:
            together.wait()
        original(part, features)

    monkeypatch.setattr(engine, "_infer", infer)
    engine(images)
    assert sorted(seen) == [3, 4, 4]


def test_an_inference_that_fails_is_raised_and_loses_no_request(trunk, images):
    engine = OpenVinoEngine(trunk, ["avg"], 16)
    for _ in range(5 * openvino_engine.REQUESTS_PER_STREAM * engine.streams):
        with pytest.raises(RuntimeError):
            engine(images[:, :32])
    assert engine(images)[0].shape == (11, 1024)

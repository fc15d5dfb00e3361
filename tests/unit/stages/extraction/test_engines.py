"""Engines: the choice among them, what is kept, and what happens when it is damaged."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from cryobase.stages.backbones.kept import kept
from cryobase.stages.backbones.probes import canary_images, probes
from cryobase.stages.errors import ConfigError, DriftError
from cryobase.stages.extraction import engines, openvino_engine
from cryobase.stages.extraction.engines import TOLERANCE, TensorFlowEngine, deviation, start_engine
from cryobase.stages.extraction.openvino_engine import OpenVinoEngine
from cryobase.stages.extraction.passes import checked_engine
from cryobase.stages.extraction.plan import Pass, Target
from cryobase.stages.extraction.trunk import cores
from cryobase.store import Pool
from tests.bases import tiny_base  # noqa: F401 - a fixture
from tests.scale import RUN_ALL
from tests.unit.stages.heads.sets import SPEC

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def trunk(trunk_of):
    return trunk_of("tiny")


@pytest.fixture(scope="module")
def images():
    return probes(11, 64, seed=8)


@pytest.fixture(scope="module")
def expected(trunk, images):
    return TensorFlowEngine(trunk, ["avg", "block_1_relu"], 16)(images)


def check(engine, images, expected):
    for found, wanted in zip(engine(images), expected, strict=True):
        assert found.dtype == np.float32
        assert deviation(found, wanted) < TOLERANCE


def test_auto_takes_openvino_on_processors(trunk, images, expected, monkeypatch):
    monkeypatch.setattr(engines, "has_accelerator", lambda: False)
    engine = start_engine("auto", trunk, ["avg", "block_1_relu"], 16)
    assert engine.name == "openvino"
    assert engine.shapes == [(24,), (31, 31, 8)]
    check(engine, images, expected)


@pytest.mark.parametrize("missing", ["accelerator", "openvino"])
def test_auto_takes_tensorflow_on_gpus_and_without_openvino(trunk, monkeypatch, missing):
    if missing == "accelerator":
        monkeypatch.setattr(engines, "has_accelerator", lambda: True)
    else:
        monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: None)
    assert start_engine("auto", trunk, ["avg"], 16).name == "tensorflow"


@pytest.mark.parametrize("drifting", [0, 1])
def test_an_engine_that_does_not_reproduce_the_reference_is_not_taken(
    trunk, monkeypatch, caplog, drifting
):
    """As if OpenVINO computed one output in half precision: it drifts, so TensorFlow runs."""
    outputs, original = ["avg", "block_1_relu"], OpenVinoEngine.__call__

    def drifts(self, batch):
        found = original(self, batch)
        found[drifting] *= 1.01
        return found

    monkeypatch.setattr(OpenVinoEngine, "__call__", drifts)
    monkeypatch.setattr(engines, "has_accelerator", lambda: False)
    with pytest.raises(DriftError, match=r"tiny with openvino: .* those of TensorFlow"):
        start_engine("openvino", trunk, outputs, 16)
    assert start_engine("auto", trunk, outputs, 16).name == "tensorflow"
    assert "OpenVINO cannot be used" in caplog.text


def test_an_engine_that_is_not_installed_is_refused(trunk, monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'cryobase\[openvino\]'"):
        start_engine("openvino", trunk, ["avg"], 16)


def pass_of(pool, trunk, *outputs):
    specs = [
        replace(
            SPEC,
            backbone=trunk.backbone,
            weights_sha256=trunk.weights.sha256,
            image_size=trunk.image_size,
            preprocessing=trunk.preprocessing,
            output=output,
        )
        for output in outputs
    ]
    targets = tuple(Target(Pool(pool, spec), 0) for spec in specs)
    return Pass(targets, np.empty(0, "i8"), np.empty(0, "u2"))


def test_a_kept_model_needs_neither_keras_nor_tensorflow_where_the_pool_has_canary_rows(
    trunk, tmp_path
):
    each = pass_of(tmp_path / "pool", trunk, "avg")
    checked_engine(each, trunk.weights, "openvino", 16)
    code = (
        "import json, sys; from pathlib import Path; import numpy as np;"
        "from cryobase.stages.backbones.probes import canary_images;"
        "from cryobase.stages.extraction.passes import checked_engine;"
        "from cryobase.stages.extraction.plan import Pass, Target;"
        "from cryobase.stages.backbones.weights import WeightsFile;"
        "from cryobase.store import FeatureSpec, Pool;"
        f"spec = FeatureSpec.from_json({each.targets[0].spec.to_json()});"
        f"targets = (Target(Pool(Path({str(tmp_path / 'pool')!r}), spec), 0),);"
        "each = Pass(targets, np.empty(0, 'i8'), np.empty(0, 'u2'));"
        f"weights = WeightsFile(Path('no'), {trunk.weights.sha256!r});"
        "assert checked_engine(each, weights, 'openvino', 16)(canary_images(64))[0].any();"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "damage", ["weights", "card", "model", "missing"] if RUN_ALL else ["weights", "card"]
)
def test_a_damaged_kept_model_is_made_again(trunk, images, expected, damage):
    outputs = ["avg", "block_1_relu"]
    start_engine("openvino", trunk, outputs, 16)
    kept = openvino_engine.kept_directory(trunk, outputs)
    path = kept / {"weights": "model.bin", "model": "model.xml"}.get(damage, "kept.json")
    if damage == "missing":
        path.unlink()
    elif damage == "weights":
        altered(path)
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    engine = OpenVinoEngine(trunk, outputs, 16)
    assert engine.reference is not None, "converted anew"
    check(engine, images, expected)


def altered(path):
    data = np.fromfile(path, "<f4")
    data[len(data) // 3 :] *= 0.9
    data.tofile(path)


def forge(trunk, outputs, monkeypatch):
    """Another model in the place of the kept one, with a card that fits: no hash can tell."""
    start_engine("openvino", trunk, outputs, 16)
    kept = openvino_engine.kept_directory(trunk, outputs)
    altered(kept / "model.bin")
    card = openvino_engine._card(kept, trunk, outputs)
    (kept / "kept.json").write_text(json.dumps(card))
    assert OpenVinoEngine(trunk, outputs, 16).reference is None, "nothing is noticed"


@pytest.mark.parametrize("pool", ["new", "old"])
def test_a_kept_model_that_was_replaced_writes_no_row(
    trunk, images, expected, tmp_path, monkeypatch, pool
):
    """A pool's canary rows tell, or TensorFlow's of now; whoever writes to a cache has neither."""
    each = pass_of(tmp_path, trunk, "avg", "block_1_relu")
    if pool == "old":
        checked_engine(each, trunk.weights, "tensorflow", 16)
    forge(trunk, each.outputs, monkeypatch)
    engine = checked_engine(each, trunk.weights, "openvino", 16)
    assert engine.name == "openvino"
    check(engine, images, expected)
    reference = TensorFlowEngine(trunk, each.outputs, 16)(canary_images(64))
    for target in each.targets:
        rows = reference[each.outputs.index(target.spec.output)]
        assert deviation(target.pool.canary(), rows) < 1e-5, "TensorFlow's, not OpenVINO's"


def test_a_first_writer_whose_engine_is_wrong_defines_nothing(trunk, tmp_path, monkeypatch):
    original = OpenVinoEngine.__call__
    monkeypatch.setattr(
        OpenVinoEngine, "__call__", lambda self, batch: [1.01 * f for f in original(self, batch)]
    )
    monkeypatch.setattr(engines, "has_accelerator", lambda: False)
    each = pass_of(tmp_path, trunk, "avg")
    with pytest.raises(DriftError, match=r"set extract\.engine: tensorflow"):
        checked_engine(each, trunk.weights, "openvino", 16)
    assert each.targets[0].pool.canary() is None
    assert checked_engine(each, trunk.weights, "auto", 16).name == "tensorflow"


@pytest.mark.parametrize("drifting", ["avg", "block_1_relu"])
def test_canary_rows_of_every_output_are_held_against_those_recorded(trunk, tmp_path, drifting):
    each = pass_of(tmp_path, trunk, "avg", "block_1_relu")
    rows = TensorFlowEngine(trunk, each.outputs, 16)(canary_images(64))
    for target in each.targets:
        found = rows[each.outputs.index(target.spec.output)]
        target.pool.record_canary(found * 1.01 if target.spec.output == drifting else found)
    wrong = next(target.pool for target in each.targets if target.spec.output == drifting)
    for engine in ("tensorflow", "openvino"):
        with pytest.raises(DriftError, match=f"{wrong.directory} with {engine}"):
            checked_engine(each, trunk.weights, engine, 16)


def test_the_cache_must_be_the_users_own(trunk, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("CRYOBASE_CACHE", str(cache))
    assert kept("openvino").stat().st_mode & 0o777 == cache.stat().st_mode & 0o777 == 0o700
    for directory in (cache, cache / "openvino"):
        directory.chmod(0o777)
        with pytest.raises(ConfigError, match=f"anybody may write there.*chmod o-w {directory}"):
            start_engine("auto", trunk, ["avg"], 16)
        directory.chmod(0o770)  # a group was given that right, or is the user's own
        assert kept("openvino")
    if os.geteuid():
        monkeypatch.setattr("os.geteuid", lambda: cache.stat().st_uid + 1)
    else:
        os.chown(cache, 1234, -1)
    with pytest.raises(ConfigError, match=r"belongs to user \d+.*set CRYOBASE_CACHE"):
        kept("openvino")


def test_what_is_kept_is_full_precision(trunk):
    """OpenVINO halves weights on saving unless told not to."""
    start_engine("openvino", trunk, ["avg"], 16)
    kept = openvino_engine.kept_directory(trunk, ["avg"]) / "model.bin"
    kernels = 3 * 3 * (3 * 8 + 8 + 8 * 24)
    assert kept.stat().st_size > 4 * kernels, "four bytes a weight"


@pytest.mark.parametrize("engine", [TensorFlowEngine, OpenVinoEngine])
def test_a_row_does_not_depend_on_its_batch(engine, trunk, images):
    engine = engine(trunk, ["avg"], 8)
    whole = engine(images[:8])[0]
    for count in (1, 3):
        assert deviation(engine(images[:count])[0], whole[:count]) < 1e-4


@pytest.mark.parametrize("text", ["abc", "0", "-1", "1.5", "99999"])
def test_a_number_of_threads_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("CRYOBASE_THREADS", text)
    with pytest.raises(ConfigError, match=r"CRYOBASE_THREADS is .* expected a number from 1"):
        cores()


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
    assert engine(images)[0].shape == (11, 24)

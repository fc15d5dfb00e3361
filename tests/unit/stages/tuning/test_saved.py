"""Tuned models from somebody else: weights come back, nothing else in the file counts."""

import hashlib
import json
import os
import shutil
import zipfile

import numpy as np
import pytest

from cryobase.stages.errors import DataError
from cryobase.stages.tuning import saved, starts
from cryobase.stages.tuning.config import Network, NewHead
from tests.closeness import assert_close, rounding
from tests.integration.received_models import H5, KERAS, keras_archive

NETWORK = Network(kind="book-digits", image_size=28)
IMAGES = np.random.default_rng(0).uniform(0, 255, (4, 28, 28, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def start():
    return starts.scratch(NETWORK, NewHead(), ("cat", "dog", "owl"), seed=3)


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tuned")
    for name in (saved.START, saved.TUNED):
        saved.save(start.model, directory / name)
    saved.save_card(directory, start, "float32")
    return directory


@pytest.fixture
def received(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "received")


def edit(directory, **changes):
    card = json.loads((directory / saved.CARD).read_bytes())
    (directory / saved.CARD).write_text(json.dumps(card | changes))


def replace(directory, data: bytes):
    """Other bytes in place of the model, checksum and all."""
    (directory / saved.TUNED).write_bytes(data)
    sha256 = {saved.TUNED: hashlib.sha256(data).hexdigest()}
    edit(directory, sha256=sha256)


def refused(directory):
    with pytest.raises(DataError, match=r"not a usable model .*run `cryobase finetune`") as refusal:
        saved.TunedModel.load(directory)
    assert len(str(refusal.value)) < 700
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_saved_model_answers_as_it_did(start, received):
    loaded = saved.TunedModel.load(received)
    expected = start.model.predict_on_batch(IMAGES)
    # the same weights; a graph may add in another order
    assert_close(loaded.model.predict_on_batch(IMAGES), expected, within=rounding(64))
    assert loaded.classes == ("cat", "dog", "owl")
    assert loaded.pixels == start.pixels
    for found, wanted in zip(loaded.model.get_weights(), start.model.get_weights(), strict=True):
        assert np.array_equal(found, wanted)


@pytest.mark.fault(56)
def test_the_config_in_the_file_is_never_read(start, received, monkeypatch):
    """It can name any class or function of Keras, and sizes that no memory has."""
    monkeypatch.chdir(received)
    with zipfile.ZipFile(received / saved.TUNED) as archive:
        weights = archive.read("model.weights.h5")
    for config in (
        "[" * 1_000_000,
        json.dumps({"module": "os", "class_name": "system", "config": "touch pwned"}),
        json.dumps({"module": "keras.layers", "class_name": "Dense", "config": {"units": 10**12}}),
    ):
        replace(received, keras_archive(weights, config))
        loaded = saved.TunedModel.load(received)
        expected = start.model.predict_on_batch(IMAGES)
        assert_close(loaded.model.predict_on_batch(IMAGES), expected, within=rounding(64))
    assert not (received / "pwned").exists()


@pytest.mark.fault(56)
@pytest.mark.parametrize("name", KERAS)
def test_files_that_keras_does_not_save_are_refused(received, name):
    replace(received, KERAS[name])
    refused(received)


@pytest.mark.fault(56)
def test_weights_of_another_model_are_refused(received):
    replace(received, keras_archive(H5["10^9 chunks"]))
    assert "chunks" not in refused(received)
    other = starts.scratch(
        Network(kind="book-digits", image_size=28), NewHead(units=5), ("a", "b"), 0
    )
    saved.save(other.model, received / "other.keras")
    replace(received, (received / "other.keras").read_bytes())
    refused(received)


@pytest.mark.fault(56)
@pytest.mark.parametrize(
    "changes",
    [
        {"format": 1},
        {"format": 10**20},
        {"format": [[[]]]},
        {"below": {}},
        {"below": []},
        {"below": 5},
        {"below": {"network": "book-digits", "image_size": 10**9}},
        {"below": {"network": "book-digits", "image_size": -1}},
        {"below": {"network": "os.system", "image_size": 28}},
        {"below": {"backbone": "../x", "image_size": 28, "preprocessing": "lite", "output": "avg"}},
        {"precision": "float64"},
        {"precision": {"class_name": "x"}},
        {"pixels": {"image_size": 10**9}},
        {"pixels": {"image_size": 27}},
        {"pixels": {"image_size": "28"}},
        {"pixels": {"side": 28}},
        {"pixels": []},
        {"sha256": {}},
        {"sha256": None},
    ],
    ids=str,
)
def test_cards_that_describe_no_model_are_refused(received, changes):
    edit(received, **changes)
    refused(received)


@pytest.mark.fault(56)
@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, '{"format": 2, "format": 2}'])
def test_texts_that_are_no_card_are_refused(received, text):
    (received / saved.CARD).write_text(text)
    refused(received)


@pytest.mark.fault(56)
@pytest.mark.parametrize("name", [saved.TUNED, saved.CARD, saved.HEAD])
@pytest.mark.parametrize("kind", ["fifo", "device", "missing", "too large"])
def test_only_regular_files_are_read(received, name, kind):
    path = received / name
    if path.is_dir():
        path /= "weights.npz"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "too large":
        with path.open("wb") as file:
            file.truncate(7 << 30)
    refused(received)

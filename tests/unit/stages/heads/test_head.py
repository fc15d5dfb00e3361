import dataclasses
import itertools
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from cryobase.stages.errors import DataError
from cryobase.stages.heads.config import HeadConfig, expand
from cryobase.stages.heads.head import Head, to_probabilities
from cryobase.stages.heads.history import History
from tests.unit.stages.heads.sets import SPEC


def make_head(kind="mlp", classes=("a", "b", "c"), shape=(2, 2, 3), **values):
    random = np.random.default_rng(0)
    (params,) = expand({"h": HeadConfig(kind=kind, **values)}).values()
    width = int(np.prod(shape))
    outputs = 1 if params.output == "sigmoid" else len(classes)
    sizes = (width, *params.units, outputs)
    layers = tuple(
        (random.normal(size=(a, b)).astype("f4") / a**0.5, random.normal(size=b).astype("f4"))
        for a, b in itertools.pairwise(sizes)
    )
    history = History()
    history.append({"loss": 1, "accuracy": 0.5, "val_loss": 0.3, "val_accuracy": 0.1})
    return Head(
        params=params,
        classes=classes,
        specs=(SPEC,),
        shapes=(shape,),
        layers=layers,
        mean=random.normal(size=width).astype("f4"),
        scale=random.uniform(0.5, 2, width).astype("f4"),
        data=("set", "split"),
        history=history,
    )


FEATURES = np.random.default_rng(1).normal(size=(50, 2, 2, 3)).astype(np.float32)


@pytest.mark.parametrize("values", [{}, {"kind": "linear"}, {"activation": "linear"}])
def test_a_saved_head_answers_as_before(tmp_path, values):
    head = make_head(**values)
    head.save(tmp_path / "head")
    loaded = Head.load(tmp_path / "head")
    assert np.array_equal(loaded.logits(FEATURES), head.logits(FEATURES))
    assert (loaded.params, loaded.classes, loaded.spec, loaded.data) == (
        head.params,
        head.classes,
        head.spec,
        head.data,
    )
    assert loaded.history.curves == head.history.curves


def test_equal_heads_are_equal_files(tmp_path):
    make_head().save(tmp_path / "one")
    make_head().save(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_logits_are_the_formula():
    head = make_head(kind="linear")
    x = (FEATURES.reshape(50, 12) - head.mean) / head.scale
    assert head.logits(FEATURES) == pytest.approx(x @ head.layers[0][0] + head.layers[0][1])
    assert head.logits(FEATURES[:0]).shape == (0, 3)


def test_probabilities_of_one_sigmoid_unit_are_two_columns():
    head = make_head(classes=("a", "b"), output="sigmoid")
    found = head.probabilities(FEATURES)
    expected = 1 / (1 + np.exp(-head.logits(FEATURES)[:, 0].astype(np.float64)))
    assert found[:, 1] == pytest.approx(expected)
    assert found.sum(1) == pytest.approx(1)


def test_large_logits_do_not_overflow():
    assert to_probabilities(np.array([[1e30, 0.0]], np.float32)).tolist() == [[1, 0]]


@pytest.mark.fault(57)
def test_features_of_another_width_are_refused():
    with pytest.raises(DataError, match="13 values, expected 12"):
        make_head().logits(np.zeros((4, 13)))


@pytest.mark.fault(57)
@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ("a", "b")},
        {"shapes": ((13,),)},
        {"mean": np.zeros(13, np.float32)},
        {"scale": None},
        {"layers": make_head().layers[1:]},
        {"layers": ((np.full((12, 3), np.nan, np.float32), np.zeros(3, np.float32)),)},
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes):
    with pytest.raises(DataError, match="head: "):
        dataclasses.replace(make_head(), **changes)


@pytest.mark.fault(56)
@pytest.mark.parametrize("name", ["weights.npz", "head.json", "history.csv"])
def test_a_missing_file_is_named(tmp_path, name):
    make_head().save(tmp_path / "head")
    (tmp_path / "head" / name).unlink()
    with pytest.raises(DataError, match=f"{name}.*cryobase train"):
        Head.load(tmp_path / "head")


def forge(directory, write):
    """Replace the weights of a saved head, checksum and all."""
    import hashlib

    path = directory / "weights.npz"
    path.unlink()
    write(path)
    card = json.loads((directory / "head.json").read_text())
    card["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (directory / "head.json").unlink()
    (directory / "head.json").write_text(json.dumps(card))


@pytest.mark.fault(56)
def test_objects_in_the_weights_are_never_unpickled(tmp_path):
    make_head().save(tmp_path / "head")
    forge(
        tmp_path / "head",
        lambda path: np.savez(path, kernel0=np.array([{"a": 1}], object)),
    )
    with pytest.raises(DataError, match="not a usable head"):
        Head.load(tmp_path / "head")


@pytest.mark.fault(56, 28)
def test_compressed_weights_are_refused_unread(tmp_path):
    make_head().save(tmp_path / "head")
    forge(
        tmp_path / "head",
        lambda path: np.savez_compressed(path, kernel0=np.zeros((4000, 4000), np.float32)),
    )
    with pytest.raises(DataError, match="is compressed or encrypted"):
        Head.load(tmp_path / "head")


@pytest.mark.fault(56)
def test_weights_that_were_swapped_are_refused(tmp_path):
    make_head().save(tmp_path / "head")
    path = tmp_path / "head" / "weights.npz"
    path.unlink()
    np.savez(path, kernel0=np.zeros((12, 3), np.float32))
    with pytest.raises(DataError, match="SHA-256"):
        Head.load(tmp_path / "head")


@pytest.mark.fault(56)
def test_any_damaged_byte_is_noticed(tmp_path):
    make_head().save(tmp_path / "head")
    path = tmp_path / "head" / "weights.npz"
    whole = path.read_bytes()
    path.unlink()
    for place in np.random.default_rng(0).integers(len(whole), size=20):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DataError):
            Head.load(tmp_path / "head")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', "[" * 100_000, "null"])
def test_a_card_that_is_none_is_refused(tmp_path, text):
    make_head().save(tmp_path / "head")
    (tmp_path / "head" / "head.json").unlink()
    (tmp_path / "head" / "head.json").write_text(text)
    with pytest.raises(DataError, match="not a usable head"):
        Head.load(tmp_path / "head")


def test_zip_members_are_stored(tmp_path):
    make_head().save(tmp_path / "head")
    with zipfile.ZipFile(tmp_path / "head" / "weights.npz") as archive:
        assert {m.compress_type for m in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.namelist()[-2:] == ["mean.npy", "scale.npy"]


def test_answering_loads_no_framework():
    script = (
        "import sys; import cryobase.stages.train, stages.evaluate, stages.heads.head;"
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras', 'sklearn', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.fault(56)
def test_images_that_no_memory_holds_are_refused(tmp_path):
    make_head().save(tmp_path / "head")
    path = tmp_path / "head" / "head.json"
    card = json.loads(path.read_text())
    card["specs"][0]["image_size"] = 65_536
    path.unlink()
    path.write_text(json.dumps(card))
    with pytest.raises(DataError, match="65536 pixels a side"):
        Head.load(tmp_path / "head")

import csv
import re
import tracemalloc

import numpy as np
import pytest

from cryobase.store import (
    Examples,
    FeatureSet,
    Pool,
    decode_id,
    encode_id,
    export_csv,
    export_npz,
    export_projector,
    export_safetensors,
)
from tests.unit.store.samples import digests, examples, features, fill, spec


def opened(tmp_path, made, dtype="float16", shape=(2, 3)):
    pool = fill(Pool(tmp_path / "pool", spec(dtype=dtype)), range(20), shape)
    pool.publish(tmp_path / "set", made)
    return FeatureSet.open(tmp_path / "set")


def test_npz_needs_numpy_alone(tmp_path):
    feature_set = opened(tmp_path, examples(range(20), quarantined={3}))
    export_npz(feature_set, tmp_path / "out" / "set.npz")
    with np.load(tmp_path / "out" / "set.npz") as archive:
        assert archive["features"].dtype == np.float16
        assert (archive["features"] == feature_set.arrays()[0]).all()
        assert archive["labels"].tolist() == feature_set.labels().tolist()
        assert archive["ids"].tolist() == feature_set.ids.tolist()
        assert archive["classes"].tolist() == ["cat", "dog", "emu"]
    first = (tmp_path / "out" / "set.npz").read_bytes()
    export_npz(feature_set, tmp_path / "out" / "set.npz")
    assert (tmp_path / "out" / "set.npz").read_bytes() == first
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_csv_has_a_line_for_each_example(tmp_path):
    names = ["ä,b.jpg", 'quo"te.jpg', "line\nbreak.jpg", "bad\udcff.jpg"]
    made = Examples.create(
        [encode_id(name) for name in names],
        digests(range(4)),
        [0, 1, 2, 0],
        None,
        ("x", "bad\udcfe", "z"),
    )
    feature_set = opened(tmp_path, made, "float32")
    export_csv(feature_set, tmp_path / "set.csv")
    with (tmp_path / "set.csv").open(newline="", encoding="utf-8") as file:
        header, *lines = list(csv.reader(file))
    assert header == ["id", "class", *(f"feature_{i}" for i in range(6))]
    assert {line[0] for line in lines} == {*names[:3], "bad\\udcff.jpg"}
    by_name = {line[0]: line for line in lines}
    assert by_name["ä,b.jpg"][1] == "x"
    assert by_name['quo"te.jpg'][1] == "bad\\udcfe"
    row = np.array(by_name['quo"te.jpg'][2:], np.float32)
    assert (row == features([1], (2, 3)).ravel()).all()


def test_the_projector_folder_has_a_line_for_each_example(tmp_path):
    names = ["tab\t.jpg", "line\r\nbreak.jpg", "bad\udcff.jpg", "back\\slash.jpg", "ä ö.jpg"]
    classes = ("a\tb", "c\nd", "e\\f")
    made = Examples.create(
        [encode_id(name) for name in names], digests(range(5)), [0, 1, 2, 0, 1], None, classes
    )
    feature_set = opened(tmp_path, made, "float32")
    folder = tmp_path / "logs"
    export_projector(feature_set, folder)
    lines = (folder / "metadata.tsv").read_bytes().decode().split("\n")
    assert lines[0] == "id\tclass"
    assert lines[-1] == ""
    cells = [[decode_id(cell.encode()) for cell in line.split("\t")] for line in lines[1:-1]]
    order = [decode_id(name) for name in feature_set.ids]
    assert cells == [[name, classes[names.index(name) % 3]] for name in order]
    rows = np.loadtxt(folder / "tensors.tsv", np.float32, delimiter="\t")
    assert (rows == feature_set.arrays()[0].reshape(5, 6)).all()
    config = (folder / "projector_config.pbtxt").read_text()
    fields = re.findall(r'^  (\w+): "?([^"\n]*)"?$', config, flags=re.MULTILINE)
    assert fields == [
        ("tensor_name", "vgg16"),
        ("tensor_shape", "5"),
        ("tensor_shape", "6"),
        ("tensor_path", "tensors.tsv"),
        ("metadata_path", "metadata.tsv"),
    ]
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_projector_shows_each_value_whole(tmp_path, dtype):
    pool, values = Pool(tmp_path / "pool", spec(dtype=dtype)), np.random.default_rng(0)
    rows = values.normal(size=(20, 9)).astype(dtype)
    with pool.writer() as writer:
        writer.append(rows, digests(range(20)), np.zeros(20))
    pool.publish(tmp_path / "set", examples(range(20)))
    export_projector(FeatureSet.open(tmp_path / "set"), tmp_path / "logs")
    assert (np.loadtxt(tmp_path / "logs" / "tensors.tsv").astype(dtype) == rows).all()


@pytest.mark.fault(62)
@pytest.mark.parametrize("export", [export_npz, export_safetensors, export_csv, export_projector])
def test_memory_does_not_grow_with_the_set(tmp_path, monkeypatch, export):
    monkeypatch.setattr("cryobase.store.arrays.BATCH_BYTES", 1 << 16)
    numbers = range(1500)
    pool = fill(Pool(tmp_path / "pool", spec()), numbers, (512,))
    pool.publish(tmp_path / "set", examples(numbers))
    feature_set = FeatureSet.open(tmp_path / "set")
    tracemalloc.start()
    export(feature_set, tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1500 * 512 * 4 * 0.7  # a part of it does not grow, and is larger in Python 3.13

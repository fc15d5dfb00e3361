import csv

import numpy as np

from store import Examples, FeatureSet, Pool, encode_id, export_csv, export_npz
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
        [encode_id(name) for name in names], digests(range(4)), [0, 1, 2, 0], None, ("x", "y", "z")
    )
    feature_set = opened(tmp_path, made, "float32")
    export_csv(feature_set, tmp_path / "set.csv")
    with (tmp_path / "set.csv").open(newline="", encoding="utf-8") as file:
        header, *lines = list(csv.reader(file))
    assert header == ["id", "class", *(f"feature_{i}" for i in range(6))]
    assert {line[0] for line in lines} == {*names[:3], "bad\\udcff.jpg"}
    by_name = {line[0]: line for line in lines}
    assert by_name["ä,b.jpg"][1] == "x"
    row = np.array(by_name['quo"te.jpg'][2:], np.float32)
    assert (row == features([1], (2, 3)).ravel()).all()

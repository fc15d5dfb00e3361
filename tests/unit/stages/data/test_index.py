"""The index of data/raw: read column by column, refused where columns contradict each other."""

import hashlib
import json
from dataclasses import replace
from threading import Thread

import numpy as np
import pytest

from cryobase.stages.data import index
from cryobase.stages.data.packs import Pack
from cryobase.stages.data.raw import RawImages
from cryobase.stages.errors import DataError

PACK = Pack("pack-0123456789abcdef.tar", 1024, "0" * 64)


def make(**changes):
    """Three examples of two images."""
    columns = {name: np.zeros(2, dtype) for name, dtype in index.IMAGE_COLUMNS.items()}
    columns["digest"] = np.arange(64, dtype=np.uint8).reshape(2, 32)
    columns |= {
        "ids": np.array([b"a", b"b", b"c"]),
        "labels": np.array([0, 1, 0], "<i4"),
        "parts": np.zeros(3, "<i1"),
        "images": np.array([1, 0, 1], "<i8"),
        "classes": ("one", "two"),
        "packs": (PACK,),
    }
    return index.Index(**columns | changes)


def test_every_column_comes_back(tmp_path):
    written = make()
    index.write(tmp_path, written)
    found = index.read(tmp_path)
    for name in index.COLUMNS:
        assert np.array_equal(getattr(found, name), getattr(written, name)), name
    assert (found.classes, found.packs) == (written.classes, written.packs)
    assert f"index-{found.sha256[:16]}.npz" in {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("ids", np.array([1, 2, 3])),
        ("labels", np.array([0, 2, 0], "<i4")),
        ("labels", np.array([0, 1, 0], "<i8")),
        ("labels", np.array([0, 1], "<i4")),
        ("parts", np.array([0, -1, 0], "<i1")),
        ("images", np.array([1, 2, 1], "<i8")),
        ("images", np.array([[1, 0, 1]], "<i8")),
        ("digest", np.zeros((2, 31), "<u1")),
        ("pack", np.array([0, 1], "<i4")),
        ("pack", np.array([-2, 0], "<i4")),
        ("reason", np.array([0, 1], "<i4")),
        ("offset", np.array(0, "<i8")),
    ],
)
def test_columns_that_contradict_each_other_are_refused_by_name(tmp_path, name, column):
    index.write(tmp_path, make(**{name: column}))
    with pytest.raises(DataError, match=rf"index-.*: .*{name}.*; run `cryobase download`"):
        getattr(index.read(tmp_path), name)


def test_what_is_open_stays_whole_while_a_later_run_replaces_it(tmp_path):
    index.write(tmp_path, make())
    found = RawImages.open(tmp_path)
    index.write(tmp_path, replace(make(), ids=np.array([b"d", b"e", b"f"])))
    assert len(list(tmp_path.glob("index-*.npz"))) == 1
    assert found.examples.ids.tolist() == [b"a", b"b", b"c"]
    assert found.digests(np.array([0, 1])).tolist() == make().digest[[1, 0]].tolist()


def test_threads_may_ask_for_a_column_at_once(tmp_path):
    index.write(tmp_path, make())
    found, columns = index.read(tmp_path), []
    threads = [Thread(target=lambda: columns.append(found.digest)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(column) for column in columns}) == 1 < len(columns)


def test_a_file_that_is_no_table_of_columns_is_refused(tmp_path):
    index.write(tmp_path, make())
    (path,) = tmp_path.glob("index-*.npz")
    path.chmod(0o644)
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"sha256 differs|not a zip file"):
        index.read(tmp_path)
    record = json.loads((tmp_path / index.RECORD).read_bytes())
    record["index_sha256"] = hashlib.sha256(b"no archive").hexdigest()
    (tmp_path / index.RECORD).write_text(json.dumps(record))
    with pytest.raises(DataError, match="not an index of images"):
        index.read(tmp_path)

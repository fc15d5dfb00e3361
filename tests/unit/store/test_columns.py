import os
import sys
import time

import numpy as np
import pytest

from cryobase.store import IntegrityError
from cryobase.store.columns import build, inspect

COLUMNS = {
    "features": np.arange(12, dtype="<f4").reshape(4, 3),
    "digest": np.full((4, 32), 7, "u1"),
    "view": np.arange(4, dtype="<u2"),
}


def opened(path, data):
    path.write_bytes(data)
    return os.open(path, os.O_RDONLY)


def test_equal_columns_give_equal_bytes_whenever_they_are_built():
    first = build(COLUMNS)
    time.sleep(1.1)  # HDF5 stamps objects with whole seconds
    assert build(COLUMNS) == first


def test_a_profiler_that_holds_frames_takes_nothing_from_the_bytes():
    """As Dask's does: an HDF5 file is closed, and written, with its last object."""
    expected, held = build(COLUMNS), []
    sys.setprofile(lambda frame, *_: held.append(frame))
    try:
        built = build(COLUMNS)
    finally:
        sys.setprofile(None)
    assert built == expected
    assert any("dataset" in frame.f_locals for frame in held)


def test_rows_in_an_order_are_those_of_columns_in_that_order():
    order = np.array([2, 0, 3])
    gathered = {name: values[order] for name, values in COLUMNS.items()}
    assert build(COLUMNS, order) == build(gathered)


def test_columns_are_read_at_their_offsets(tmp_path):
    descriptor = opened(tmp_path / "file", build(COLUMNS))
    found = inspect(descriptor, tmp_path / "file", list(COLUMNS))
    for name, values in COLUMNS.items():
        column = found[name]
        assert (column.dtype, column.shape) == (values.dtype, values.shape)
        assert os.pread(descriptor, column.end - column.offset, column.offset) == values.tobytes()
    os.close(descriptor)


def test_large_columns_start_on_a_page(tmp_path):
    descriptor = opened(tmp_path / "file", build({"features": np.zeros((4000, 3), "<f4")}))
    assert inspect(descriptor, tmp_path / "file", ["features"])["features"].offset % 4096 == 0
    os.close(descriptor)


@pytest.mark.parametrize("names", [["features", "digest"], [*COLUMNS, "more"], ["a", "b", "c"]])
def test_other_members_are_refused(tmp_path, names):
    descriptor = opened(tmp_path / "file", build(COLUMNS))
    with pytest.raises(IntegrityError, match=r"members other than|missing"):
        inspect(descriptor, tmp_path / "file", names)
    os.close(descriptor)


@pytest.mark.fault(25)
def test_every_truncation_is_refused(tmp_path):
    data = build(COLUMNS)
    for size in range(0, len(data), 7):
        descriptor = opened(tmp_path / "file", data[:size])
        with pytest.raises(IntegrityError, match=str(tmp_path)):
            inspect(descriptor, tmp_path / "file", list(COLUMNS))
        os.close(descriptor)


def test_columns_of_different_length_are_refused(tmp_path):
    data = build(COLUMNS | {"view": np.arange(5, dtype="<u2")})
    descriptor = opened(tmp_path / "file", data)
    with pytest.raises(IntegrityError, match="differ in length"):
        inspect(descriptor, tmp_path / "file", list(COLUMNS))
    os.close(descriptor)

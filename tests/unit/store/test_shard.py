import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryobase.store import IntegrityError
from cryobase.store.shard import Shard, build_shard, finite_rows, sum_of_rows
from tests.unit.store.samples import digests, features

VIEWS = np.zeros(6, np.uint16)


def write(directory, rows):
    info, data = build_shard(rows, digests(range(len(rows))), VIEWS[: len(rows)])
    (directory / info.name).write_bytes(data)
    return info


def test_round_trip(tmp_path):
    rows = features(range(6), (2, 3)).astype("<f2")
    shard = Shard(tmp_path, write(tmp_path, rows), "float16", (2, 3), full=True)
    shard.verify()
    assert (shard.read(1, 4) == rows[1:4]).all()
    assert (shard.keys()[0] == digests(range(6))).all()


def test_big_endian_arrays_are_stored_little_endian(tmp_path):
    rows = features(range(6))
    assert write(tmp_path, rows.astype(">f4")) == write(tmp_path, rows)


@pytest.mark.fault(36)
def test_verification_finds_values_that_are_not_finite(tmp_path):
    rows = features(range(6))
    rows[3, 1] = np.nan
    shard = Shard(tmp_path, write(tmp_path, rows), "float32", (5,))
    with pytest.raises(IntegrityError, match=digests([3]).tobytes().hex()):
        shard.verify()


def test_a_shard_of_another_dtype_or_shape_is_refused(tmp_path):
    info = write(tmp_path, features(range(6)))
    for dtype, shape in (("float16", (5,)), ("float32", (4,)), ("float32", (5, 1))):
        shard = Shard(tmp_path, info, dtype, shape)
        with pytest.raises(IntegrityError, match="expected"):
            shard.read(0, 1)


@given(st.permutations(range(6)), st.integers(0, 6))
def test_the_sum_of_rows_is_blind_to_order_and_parts(order, cut):
    rows, keys = features(range(6)), digests(range(6))
    parts = order[:cut], order[cut:]
    total = sum(sum_of_rows(rows[part], keys[part], VIEWS[part]) for part in map(list, parts))
    assert total % (1 << 256) == sum_of_rows(rows, keys, VIEWS)


def test_the_sum_of_rows_sees_value_digest_and_view():
    rows, keys = features(range(6)), digests(range(6))
    sums = {
        sum_of_rows(rows, keys, VIEWS),
        sum_of_rows(rows + 1, keys, VIEWS),
        sum_of_rows(rows, keys[::-1], VIEWS),
        sum_of_rows(rows, keys, VIEWS + 1),
    }
    assert len(sums) == 4


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_every_kind_of_not_finite_is_seen(dtype, value):
    rows = np.zeros((3, 2, 2), dtype)
    rows[1, 1, 0] = value
    rows[2] = np.finfo(dtype).max
    assert finite_rows(rows).tolist() == [True, False, True]

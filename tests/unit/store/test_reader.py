import os
import pickle

import numpy as np
import pytest

from cryobase.store import (
    FeatureSet,
    IntegrityError,
    Pool,
    StorageError,
    StoreNotFoundError,
    UnknownExampleError,
    reader,
)
from cryobase.store.rows import widened
from tests.unit.store.samples import examples, features, fill, published, spec


@pytest.fixture
def opened(tmp_path):
    return FeatureSet.open(published(tmp_path, range(60)), full=True)


def test_a_set_says_what_it_holds(opened):
    assert (opened.spec, opened.classes) == (spec(), ("cat", "dog", "emu"))
    assert (len(opened), opened.feature_shape, opened.views) == (60, (5,), 0)
    assert opened.digest == opened.manifest.published.digest
    assert opened.ids.tolist() == [b"%05d.jpg" % number for number in range(60)]


def test_arrays_in_the_order_asked_for(opened):
    found, labels = opened.arrays([b"00007.jpg", b"00002.jpg", b"00007.jpg"])
    assert (found == features([7, 2, 7])).all()
    assert found.dtype == np.float32
    assert labels.tolist() == [1, 2, 1]
    assert labels.dtype == np.int32
    assert (opened.arrays()[0] == features(range(60))).all()
    assert opened.arrays([])[0].shape == (0, 5)


def test_rows_and_labels_alone(opened):
    assert opened.rows([b"00003.jpg"]).tolist() == features([3]).tolist()
    assert opened.labels([b"00004.jpg"]).tolist() == [1]


@pytest.mark.parametrize("size", [1, 7, 60, 100])
@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"shuffle": True, "block": 4}])
def test_batches_give_every_row_once_with_its_label(opened, size, options):
    seen = []
    for found, labels in opened.batches(None, size, **options):
        numbers = found[:, 0].astype(int)
        assert (found == features(numbers)).all()
        assert labels.tolist() == (numbers % 3).tolist()
        seen.append(numbers)
    assert [len(numbers) for numbers in seen[:-1]] == [size] * (len(seen) - 1)
    assert sorted(np.concatenate(seen)) == list(range(60))
    assert (np.concatenate(seen).tolist() == list(range(60))) == (not options)


def order(opened, **options):
    batches = opened.batches(None, 16, shuffle=True, **options)
    return np.concatenate([found[:, 0] for found, _ in batches]).astype(int).tolist()


def test_the_seed_decides_the_order(opened):
    assert order(opened, seed=1) == order(opened, seed=1)
    assert order(opened, seed=1) != order(opened, seed=2)
    assert order(opened, seed=1, block=4) == order(opened, seed=1, block=4)


def test_blocks_are_rows_that_lie_side_by_side(opened):
    on_disk = sorted(range(60), key=lambda number: opened._rows[0, number])
    place = {number: position for position, number in enumerate(on_disk)}
    places = [place[number] for number in order(opened, block=4)]
    blocks = [places[start : start + 4] for start in range(0, 60, 4)]
    assert all(block == list(range(block[0], block[0] + 4)) for block in blocks)
    assert places != sorted(places)


def test_views_are_drawn_for_every_row(tmp_path):
    pool = fill(Pool(tmp_path / "pool", spec()), range(60), views=3)
    pool.publish(tmp_path / "set", examples(range(60)), views=3)
    opened = FeatureSet.open(tmp_path / "set", full=True)
    every = np.stack([features(range(60), view=view) for view in range(4)])
    found = np.concatenate([found for found, _ in opened.batches(None, 16, views=3, seed=5)])
    drawn = (found == every).all(axis=2).argmax(axis=0)
    assert (found == every[drawn, np.arange(60)]).all()
    assert set(drawn) == {0, 1, 2, 3}
    once = [found.tolist() for found, _ in opened.batches(None, 16, views=3, seed=5)]
    assert once == [found.tolist() for found, _ in opened.batches(None, 16, views=3, seed=5)]
    with pytest.raises(UnknownExampleError, match="views 0 to 3"):
        opened.arrays(view=4)
    with pytest.raises(UnknownExampleError, match="views 0 to 3"):
        opened.batches(None, 16, views=4)


def test_unknown_and_quarantined_ids_are_named(tmp_path):
    pool = fill(Pool(tmp_path / "pool", spec()), range(5))
    pool.publish(tmp_path / "set", examples(range(5), quarantined={3}))
    opened = FeatureSet.open(tmp_path / "set")
    with pytest.raises(UnknownExampleError, match="b'x'"):
        opened.arrays([b"x"])
    with pytest.raises(UnknownExampleError, match="quarantine"):
        opened.batches([b"00003.jpg"], 2)
    assert len(opened.arrays()[0]) == 4


def test_every_float16_is_widened_exactly():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    assert np.array_equal(widened(every).view(np.uint32), every.astype(np.float32).view(np.uint32))


def test_what_was_opened_stays_while_others_publish(tmp_path):
    directory = published(tmp_path, range(20))
    opened = FeatureSet.open(directory)
    pool = fill(Pool(tmp_path / "pool", spec()), range(20, 90))
    pool.publish(directory, examples(range(20, 90)))
    assert (opened.arrays()[0] == features(range(20))).all()
    assert (FeatureSet.open(directory).arrays()[0] == features(range(20, 90))).all()


def test_a_set_travels_between_processes_as_its_path(opened):
    copy = pickle.loads(pickle.dumps(opened))
    assert (copy.arrays()[0] == opened.arrays()[0]).all()


def test_reading_after_closing_is_an_error(tmp_path):
    directory = published(tmp_path)
    with FeatureSet.open(directory) as opened:
        batches = opened.batches(None, 4)
        next(batches)
    with pytest.raises(StorageError, match="closed"):
        opened.arrays()
    with pytest.raises(StorageError, match="closed"):
        list(batches)


@pytest.mark.fault(35)
def test_a_file_cut_while_it_is_read_is_an_error(opened):
    shard = opened.table.shards[0]
    shard.path.chmod(0o644)
    os.truncate(shard.path, shard.offset + 3)
    with pytest.raises(IntegrityError, match=shard.path.name):
        opened.arrays()


def test_a_pool_is_no_set_and_a_missing_file_is_named(tmp_path):
    directory = published(tmp_path)
    with pytest.raises(StoreNotFoundError, match="not a feature set"):
        FeatureSet.open(tmp_path / "pool" / spec().fingerprint)
    shard = FeatureSet.open(directory).manifest.shards[1]
    (directory / shard.name).unlink()
    with pytest.raises(StoreNotFoundError, match=shard.name):
        FeatureSet.open(directory)


@pytest.mark.fault(25)
def test_a_changed_value_is_found_by_whoever_opens_the_file(tmp_path):
    directory = published(tmp_path)
    opened = FeatureSet.open(directory)
    shard = opened.table.shards[0]
    path = directory / shard.info.name
    data = bytearray(path.read_bytes())
    data[shard.offset] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    for full in (True, False):
        with pytest.raises(IntegrityError, match=r"SHA-256.*repair"):
            FeatureSet.open(directory, full=full)
    with pytest.raises(IntegrityError, match=shard.info.name):
        opened.verify()


@pytest.mark.parametrize("large", [0, 1 << 40])
def test_positions_are_read_with_a_view_of_each_whatever_the_size_of_a_batch(
    tmp_path, monkeypatch, large
):
    monkeypatch.setattr(reader, "_LARGE", large)
    pool = Pool(tmp_path / "pool", spec(dtype="float16"))
    fill(pool, range(30), views=2)
    pool.publish(tmp_path / "set", examples(range(30)), views=2)
    opened = FeatureSet.open(tmp_path / "set")
    random = np.random.default_rng(0)
    positions, views = random.permutation(30)[:25], random.integers(0, 3, 25)
    batches = list(opened.read(positions, 4, views))
    assert [len(x) for x, _ in batches] == [4] * 6 + [1]
    rows = [opened.arrays([opened.ids[p]], int(v)) for p, v in zip(positions, views, strict=True)]
    assert (np.concatenate([x for x, _ in batches]) == np.concatenate([x for x, _ in rows])).all()
    assert np.concatenate([y for _, y in batches]).tolist() == [int(y[0]) for _, y in rows]


@pytest.mark.parametrize(
    ("positions", "views"), [([-1], None), ([60], None), ([0, 1], [0, -1]), ([0, 1], [0, 1])]
)
def test_no_position_or_view_counts_from_the_end(opened, positions, views):
    views = None if views is None else np.array(views)
    with pytest.raises(UnknownExampleError, match="counted from 0"):
        opened.read(np.array(positions), 4, views)

import pytest

from cryobase.store import FeatureSet, Pool
from tests.unit.store.samples import digests, examples, features, fill, spec


@pytest.fixture
def pool(tmp_path):
    return Pool(tmp_path / "pool", spec())


def damage(pool, number):
    shard = pool.snapshot().rows.shards[number]
    path, data = shard.path, bytearray(shard.path.read_bytes())
    data[shard.offset] ^= 1
    path.unlink()
    path.write_bytes(data)


def test_many_small_shards_become_one(pool, tmp_path):
    for number in range(15):
        fill(pool, [number])
    assert len(pool.manifest().shards) == 15
    pool.publish(tmp_path / "set", examples(range(15)))
    before = FeatureSet.open(tmp_path / "set").digest
    fill(pool, [15])
    (shard,) = pool.manifest().shards
    assert shard.rows == 16
    assert len(pool.missing(digests(range(16)))[0]) == 0
    pool.publish(tmp_path / "other", examples(range(15)))
    assert FeatureSet.open(tmp_path / "other", full=True).digest == before


def test_a_set_that_was_published_before_stays_as_it_is(pool, tmp_path):
    for number in range(15):
        fill(pool, [number])
    manifest = pool.publish(tmp_path / "set", examples(range(15)))
    fill(pool, [15])
    pool.sweep(lease=-1)
    assert pool.publish(tmp_path / "set", examples(range(15))) == manifest
    pool.publish(tmp_path / "set", examples(range(16)))
    opened = FeatureSet.open(tmp_path / "set", full=True)
    assert (opened.arrays()[0] == features(range(16))).all()


@pytest.mark.fault(25)
def test_a_damaged_shard_is_not_merged(pool, caplog):
    for number in range(15):
        fill(pool, [number])
    damage(pool, 3)
    fill(pool, [15])
    assert sorted(shard.rows for shard in pool.manifest().shards) == [1, 15]
    assert "not merged" in caplog.text
    assert len(pool.repair()) == 1
    assert len(pool.missing(digests(range(16)))[0]) == 1


def test_merged_shards_do_not_grow_without_end(pool, monkeypatch):
    monkeypatch.setattr("cryobase.store.writer.SMALL", 2000)
    for number in range(60):
        fill(pool, [number])
    assert max(shard.size for shard in pool.manifest().shards) < 4500
    assert len(pool) == 60
    assert len(pool.missing(digests(range(60)))[0]) == 0

import pytest

from cryobase.store import FeatureSet, Pool, damages
from cryobase.store.manifest import manifest_path, versions
from tests.unit.store.samples import digests, examples, features, fill, spec


@pytest.fixture
def pool(tmp_path):
    made = Pool(tmp_path / "pool", spec())
    for start in (0, 10, 20):
        fill(made, range(start, start + 10))
    made.record_canary(features(range(2)))
    return made


def damage(path, position=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1
    path.unlink()
    path.write_bytes(data)


def test_a_sound_pool_is_left_alone(pool):
    before = versions(pool.directory)
    assert pool.repair() == []
    assert versions(pool.directory) == before


@pytest.mark.fault(25)
@pytest.mark.parametrize("how", ["altered", "missing", "cut"])
def test_exactly_the_rows_of_bad_shards_are_missing_afterwards(pool, tmp_path, how):
    pool.publish(tmp_path / "set", examples(range(30)))
    bad = pool.manifest().shards[1]
    path = pool.directory / bad.name
    if how == "altered":
        damage(path)
    else:
        data = path.read_bytes()
        path.unlink()
        if how == "cut":
            path.write_bytes(data[:-1])
    assert [found.shard for found in damages(pool.directory, pool.manifest())] == [bad]
    (found,) = pool.repair()
    assert (found.shard, bad.name in found.reason) == (bad, True)
    missing, _ = pool.missing(digests(range(30)))
    assert sorted(d.tobytes() for d in missing) == sorted(
        d.tobytes() for d in digests(range(10, 20))
    )
    fill(pool, range(10, 20))
    pool.publish(tmp_path / "set", examples(range(30)))
    assert (FeatureSet.open(tmp_path / "set", full=True).arrays()[0] == features(range(30))).all()


def test_a_damaged_manifest_is_made_again_from_the_shards(pool):
    kept = pool.manifest()
    newest = manifest_path(pool.directory, versions(pool.directory)[-1])
    damage(newest)
    damage(pool.directory / kept.shards[2].name)
    pool.repair()
    assert set(pool.manifest().shards) == set(kept.shards[:2])
    assert len(pool.missing(digests(range(30)))[0]) == 10


def test_a_damaged_canary_is_dropped(pool):
    damage(pool.directory / pool.manifest().canary.name)
    assert pool.repair() == []
    assert pool.canary() is None
    assert len(pool) == 30

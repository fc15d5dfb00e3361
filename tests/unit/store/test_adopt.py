from dataclasses import replace

import numpy as np
import pytest

from cryobase.store import FeatureSet, IntegrityError, Pool, import_set
from cryobase.store.manifest import manifest_path
from cryobase.store.shard import build_shard
from tests.unit.store.samples import bytes_read, digests, examples, features, fill, published, spec


@pytest.fixture
def directory(tmp_path):
    return published(tmp_path, range(20))


@pytest.fixture
def empty(tmp_path):
    return Pool(tmp_path / "empty", spec())


def test_an_empty_pool_takes_over_all_rows_by_link(directory, empty):
    assert empty.adopt(directory) == 20
    assert len(empty.missing(digests(range(25)))[0]) == 5
    for shard in empty.manifest().shards:
        assert (empty.directory / shard.name).samefile(directory / shard.name)


def test_publishing_again_after_adoption_changes_nothing(directory, empty):
    before = {path.name: path.stat().st_ino for path in directory.iterdir()}
    empty.adopt(directory)
    empty.publish(directory, examples(range(20)))
    assert {path.name: path.stat().st_ino for path in directory.iterdir()} == before


def test_only_what_is_missing_is_taken(directory, empty):
    fill(empty, range(5))
    assert empty.adopt(directory) == 15
    assert len(empty) == 20
    empty.publish(directory, examples(range(20)))
    assert (FeatureSet.open(directory, full=True).arrays()[0] == features(range(20))).all()


def test_a_second_adoption_reads_no_features(directory, empty, monkeypatch):
    empty.adopt(directory)
    monkeypatch.setattr(
        "cryobase.store.shard.Shard.verify", lambda *_: pytest.fail("verified again")
    )
    assert empty.adopt(directory) == 0


def test_no_set_and_a_set_of_another_spec_give_nothing(directory, empty, tmp_path):
    assert empty.adopt(tmp_path / "absent") == 0
    assert Pool(tmp_path / "other", spec(output="max")).adopt(directory) == 0
    assert not (tmp_path / "other").exists()


@pytest.mark.fault(25)
def test_a_damaged_set_is_not_adopted(directory, empty):
    shard = FeatureSet.open(directory).table.shards[0]
    data = bytearray(shard.path.read_bytes())
    data[shard.offset] ^= 1
    shard.path.unlink()
    shard.path.write_bytes(data)
    with pytest.raises(IntegrityError, match=shard.path.name):
        empty.adopt(directory)
    assert len(empty) == 0


@pytest.fixture
def wide(tmp_path):
    """A set of 6 MB in three shards."""
    pool = Pool(tmp_path / "pool", spec())
    for start in (0, 500, 1000):
        fill(pool, range(start, start + 500), (1024,))
    pool.publish(tmp_path / "set", examples(range(1500)))
    return tmp_path / "set"


def size(directory):
    return sum(path.stat().st_size for path in directory.iterdir())


def test_adoption_and_verification_read_each_byte_once(wide, empty, tmp_path, monkeypatch):
    monkeypatch.setenv("CRYOBASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("cryobase.store.verified.GRANULARITY", 0)
    assert bytes_read(lambda: FeatureSet.open(wide, full=True)) < 1.2 * size(wide)
    assert bytes_read(lambda: empty.adopt(wide)) < 1.2 * size(wide)
    assert len(empty) == 1500
    empty.snapshot()  # the links were not verified as such
    empty = Pool(empty.root, empty.spec)
    assert bytes_read(lambda: empty.adopt(wide)) < 0.1 * size(wide)


def test_import_reads_the_source_once_and_the_copy_once(wide, tmp_path):
    assert bytes_read(lambda: import_set(wide, tmp_path / "mine")) < 2.2 * size(wide)
    assert FeatureSet.open(tmp_path / "mine").digest == FeatureSet.open(wide).digest


def test_repair_reads_each_byte_once(wide, tmp_path):
    pool = Pool(tmp_path / "pool", spec())
    assert bytes_read(pool.repair) < 1.2 * size(pool.directory)


def test_rows_of_a_pool_that_others_own_are_borrowed_as_far_as_they_are_wanted(tmp_path, empty):
    lender = Pool(tmp_path / "lender", spec())
    for numbers in (range(10), range(10, 20), range(20, 100)):
        fill(lender, numbers)
    lender.record_canary(features(range(2)))
    fill(empty, range(3))
    wanted = digests([*range(25), *range(200, 205)])
    before = {path: path.stat().st_mtime_ns for path in lender.directory.iterdir()}
    assert empty.plan(wanted, lender=lender).existing == 25
    assert empty.borrow(lender, wanted) == 22
    assert len(empty) == 25  # of the third shard only five rows were wanted
    assert len(empty.missing(wanted)[0]) == 5
    assert (empty.canary() == features(range(2))).all()
    linked = [path.name for path in empty.directory.iterdir() if path.stat().st_nlink == 2]
    assert len(linked) == 2  # the second shard and the canary
    assert empty.borrow(lender, wanted) == 0
    assert before == {path: path.stat().st_mtime_ns for path in lender.directory.iterdir()}
    empty.publish(tmp_path / "set", examples(range(25)))
    assert (FeatureSet.open(tmp_path / "set", full=True).arrays()[0] == features(range(25))).all()


def test_a_plan_counts_a_row_once_that_a_lender_and_the_published_set_have(tmp_path, empty):
    directory = published(tmp_path, range(20))
    lender = fill(Pool(tmp_path / "lender", spec()), range(10, 30))
    wanted = digests(range(40))
    assert empty.plan(wanted, published=directory).existing == 20
    assert empty.plan(wanted, lender=lender, published=directory).existing == 30
    other = Pool(tmp_path / "empty", spec(output="max"))
    assert other.plan(wanted, published=directory).existing == 0
    assert empty.plan(wanted, published=tmp_path / "nowhere").existing == 0


@pytest.mark.parametrize("kind", ["nothing", "junk", "other spec", "a row twice"])
def test_a_pool_that_cannot_lend_stops_nothing(tmp_path, empty, caplog, kind):
    lender = Pool(tmp_path / "lender", spec())
    if kind != "nothing":
        fill(lender, range(10))
    (newest,) = [*lender.directory.glob("manifest-*"), None][:1]
    if kind == "junk":
        newest.unlink()
        newest.write_bytes(b"{")
    if kind == "other spec":
        other = fill(Pool(tmp_path / "other", spec(output="max")), range(10))
        newest.unlink()
        newest.write_bytes(manifest_path(other.directory, 1).read_bytes())
    if kind == "a row twice":
        more, data = build_shard(features([3, 4]), digests([3, 4]), np.zeros(2, "u2"))
        (lender.directory / more.name).write_bytes(data)
        doubled = replace(lender.manifest(), shards=(*lender.manifest().shards, more))
        newest.unlink()
        newest.write_bytes(doubled.to_bytes())
    taken = empty.borrow(lender, digests(range(10)))
    assert taken == (10 if kind == "a row twice" else 0)
    assert bool(caplog.records) == (kind != "nothing")
    fill(empty, range(10))
    assert len(empty) == 10

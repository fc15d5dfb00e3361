import os

import pytest

from cryobase.store import Pool
from cryobase.store.manifest import manifest_path, versions
from tests.unit.store.samples import digests, fill, spec

HOUR = 3600


@pytest.fixture
def pool(tmp_path):
    made = Pool(tmp_path, spec())
    for start in (0, 10, 20):
        fill(made, range(start, start + 10))
    return made


def age(path, hours):
    then = path.stat().st_mtime - hours * HOUR
    os.utime(path, (then, then))


def test_nothing_young_is_swept(pool):
    (pool.directory / ".tmp-0").write_bytes(b"another writer's")
    assert pool.sweep() == []
    assert versions(pool.directory) == [1, 2, 3]


def test_leftovers_are_swept_once_they_are_old(pool):
    names = [".tmp-0", f"shard-{'0' * 64}.h5", "notes.txt"]
    for name in names:
        (pool.directory / name).write_bytes(b"left by a crash")
        age(pool.directory / name, 2)
    assert {path.name for path in pool.sweep(dry_run=True)} == set(names[:2])
    assert {path.name for path in pool.sweep()} == set(names[:2])
    assert (pool.directory / "notes.txt").exists()
    assert len(pool.missing(digests(range(30)))[0]) == 0


def test_a_manifest_is_kept_for_a_lease_after_its_successor_came(pool):
    for version in (1, 2, 3):
        age(manifest_path(pool.directory, version), 2)
    age(manifest_path(pool.directory, 3), -2)
    pool.sweep()
    assert versions(pool.directory) == [2, 3]


def test_files_of_a_kept_manifest_are_kept_however_old(pool):
    old = pool.manifest().shards[0]
    age(pool.directory / old.name, 1000)
    pool.repair()
    (pool.directory / pool.manifest().shards[2].name).unlink()
    pool.repair()  # the newest manifest no longer names one
    pool.sweep()
    assert (pool.directory / old.name).exists()
    pool.sweep(lease=-1)
    assert len(versions(pool.directory)) == 1
    assert len(pool) == 20

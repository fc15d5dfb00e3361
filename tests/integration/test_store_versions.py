"""Whatever is called like a manifest: the next version is found, or refused in one line."""

import os

import pytest

from cryobase.store import FeatureSet, Pool, StoreError
from cryobase.store.manifest import versions
from tests.integration.store_forgery import MANIFEST_KINDS, MANIFEST_NAMES, plant_manifest
from tests.unit.store.samples import digests, examples, features, fill, spec

pytestmark = [pytest.mark.timeout(60), pytest.mark.parametrize("kind", MANIFEST_KINDS)]


def refusal(work):
    """What `work` says where it refuses."""
    try:
        work()
    except StoreError as error:
        return str(error)
    return None


@pytest.mark.fault(23)
@pytest.mark.parametrize("name", MANIFEST_NAMES)
def test_in_a_pool_the_next_commit_ends(quick_path, name, kind):
    pool = fill(fill(Pool(quick_path / "pool", spec()), range(5)), range(10))
    (pool.directory / "manifest-1.json").unlink()
    planted = plant_manifest(pool.directory, name, kind)
    said = refusal(lambda: fill(Pool(pool.root, spec()), range(20)))
    if said:
        assert str(planted) in said
        assert "`cryobase store repair`" in said
        assert "\n" not in said
        Pool(pool.root, spec()).repair()
        fill(Pool(pool.root, spec()), range(20))
    mended = Pool(pool.root, spec())
    assert len(mended.missing(digests(range(20)))[0]) == 0
    if refusal(lambda: fill(mended, range(30))):  # it has used the last number
        mended.repair()
        fill(mended, range(30))
    mended.sweep(lease=-1)
    assert len(mended.missing(digests(range(30)))[0]) == 0


@pytest.mark.fault(23)
@pytest.mark.parametrize("name", MANIFEST_NAMES)
def test_in_a_set_publishing_again_mends_it(quick_path, name, kind):
    pool = fill(Pool(quick_path / "pool", spec()), range(10))
    directory = quick_path / "set"
    pool.publish(directory, examples(range(5)))
    planted = plant_manifest(directory, name, kind)
    said = refusal(lambda: FeatureSet.open(directory))
    assert said is None or (str(planted) in said and "\n" not in said)
    for count in (10, 5):
        pool.publish(directory, examples(range(count)))
        assert versions(directory) == [1]
        opened = FeatureSet.open(directory, full=True)
        assert (opened.arrays()[0] == features(range(count))).all()


def test_a_lock_that_is_no_file_is_named(quick_path, kind):
    pool = fill(Pool(quick_path / "pool", spec()), range(10))
    lock = pool.directory / "writers.lock"
    lock.unlink()
    MANIFEST_KINDS[kind](lock, b"precious")
    said = refusal(lambda: fill(pool, range(20)))
    assert said is None or (str(lock) in said and "\n" not in said)
    if kind == "link":
        assert (pool.directory / "elsewhere").read_bytes() == b"precious"
    assert len(os.listdir(pool.root)) == 1

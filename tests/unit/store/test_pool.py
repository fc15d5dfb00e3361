import os
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import cryobase.store.pool_files
from cryobase.store import (
    ConflictError,
    Examples,
    ExamplesError,
    FeaturesError,
    FeatureSet,
    MissingRowsError,
    Pool,
    SpecMismatchError,
    StorageError,
    StoreNotFoundError,
)
from tests.unit.store.samples import digests, examples, features, fill, spec


@pytest.fixture
def pool(tmp_path):
    return Pool(tmp_path / "pool", spec())


def names(directory):
    return {path.name for path in directory.iterdir()}


def test_an_empty_pool_misses_everything_and_makes_no_directory(pool):
    wanted, views = pool.missing(digests([3, 1, 3]), views=1)
    assert len(wanted) == 4
    assert wanted.tobytes() == b"".join(
        digest * 2 for digest in sorted([digests([3]).tobytes(), digests([1]).tobytes()])
    )
    assert views.tolist() == [0, 1, 0, 1]
    assert not pool.root.exists()


def test_rows_are_missing_until_they_are_committed(pool):
    with pool.writer() as writer:
        writer.append(features(range(3)), digests(range(3)), np.zeros(3))
        assert len(pool.missing(digests(range(5)))[0]) == 5
        writer.commit()
        assert len(pool.missing(digests(range(5)))[0]) == 2
    assert len(pool) == 3


def test_an_exception_discards_what_was_not_committed(pool):
    def interrupted():
        with pool.writer() as writer:
            writer.append(features([1]), digests([1]), [0])
            writer.commit()
            writer.append(features([2]), digests([2]), [0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(pool) == 1
    fill(pool, [2])
    assert len(pool) == 2


@pytest.mark.fault(53)
def test_rows_that_exist_are_passed_over(pool):
    fill(pool, range(5))
    before = names(pool.directory)
    with pool.writer() as writer:  # a task that runs twice may come to slightly other values
        writer.append(features(range(1, 6)), digests(range(5)), [0] * 5)
    assert names(pool.directory) == before
    with pool.writer() as writer:
        writer.append(features([9, 9]), digests([9, 9]), [0, 0])
    assert len(pool) == 6


def test_equal_rows_give_equal_files_in_whatever_order_they_come(tmp_path):
    made = []
    for order in (range(20), reversed(range(20))):
        pool = fill(Pool(tmp_path / str(len(made)), spec()), order)
        made.append(names(pool.directory))
    assert made[0] == made[1]


def test_large_appends_roll_over(pool, monkeypatch):
    monkeypatch.setattr("cryobase.store.writer.SHARD_BYTES", 540)  # a row has 54, keys 34
    with pool.writer() as writer:
        for number in range(40):
            writer.append(features([number]), digests([number]), [0])
        assert len(pool) == 40
    assert [shard.rows for shard in pool.manifest().shards] == [10] * 4
    fill(pool, range(100, 200))
    assert max(shard.rows for shard in pool.manifest().shards) <= 15


def test_appends_of_any_size_fit_together(pool):
    with pool.writer() as writer:
        for numbers in (range(2), range(2, 500), range(500, 503), range(503, 2000)):
            writer.append(features(numbers), digests(numbers), np.zeros(len(numbers)))
    pool.publish(pool.root / "set", examples(range(2000)))
    found, _ = FeatureSet.open(pool.root / "set", full=True).arrays()
    assert (found == features(range(2000))).all()


@pytest.mark.fault(62)
def test_a_writer_holds_a_shard_twice_at_most(pool, monkeypatch):
    """The rows as they came, and the file: not a list, a sorted copy and HDF5's image besides."""
    size = 4 << 20
    monkeypatch.setattr("cryobase.store.writer.SHARD_BYTES", size)
    rows = features(range(256), (1024,))
    tracemalloc.start()
    with pool.writer() as writer:
        for start in range(0, 2048, 256):
            writer.append(rows, digests(range(start, start + 256)), np.zeros(256))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(pool.manifest().shards) == 2
    assert peak < 3 * size


def test_rows_of_two_shapes_do_not_mix(pool):
    with pool.writer() as writer:
        writer.append(features([1]), digests([1]), [0])
        with pytest.raises(SpecMismatchError, match=r"rows of \(5,\), not \(6,\)"):
            writer.append(features([2], (6,)), digests([2]), [0])
    assert len(pool) == 1


@pytest.mark.fault(44)
def test_a_reader_whose_shard_goes_while_it_is_opened_reads_the_next_manifest(pool, monkeypatch):
    fill(fill(pool, range(5)), range(9))
    rows, calls = cryobase.store.pool_files.Rows, []

    def late(directory, manifest):
        calls.append(manifest)
        if len(calls) == 1:
            (directory / manifest.shards[0].name).unlink()
            Pool(pool.root, spec()).repair()
        return rows(directory, manifest)

    monkeypatch.setattr("cryobase.store.pool_files.Rows", late)
    assert len(Pool(pool.root, spec()).snapshot().rows) < 9
    assert len(calls) >= 2


def test_a_shard_that_is_gone_for_good_is_named(pool):
    (shard,) = fill(pool, range(5)).manifest().shards
    (pool.directory / shard.name).unlink()
    with pytest.raises(StoreNotFoundError, match=shard.name):
        Pool(pool.root, spec()).snapshot()


def test_a_minute_rolls_over(pool, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("cryobase.store.writer.time.monotonic", lambda: now[0])
    with pool.writer() as writer:
        writer.append(features([1]), digests([1]), [0])
        assert len(pool) == 0
        now[0] = 61.0
        writer.append(features([2]), digests([2]), [0])
        assert len(pool) == 2


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, "float32"), (np.inf, "float16"), (7e4, "float16")]
)
def test_values_that_are_not_finite_are_refused_naming_the_digest(tmp_path, value, dtype):
    pool = Pool(tmp_path, spec(dtype=dtype))
    rows = features(range(4))
    rows[2, 1] = value
    with pytest.raises(FeaturesError, match=digests([2]).tobytes().hex()), pool.writer() as writer:
        writer.append(rows, digests(range(4)), np.zeros(4))
    assert len(pool) == 0


def test_shapes_that_do_not_fit_are_refused(pool):
    with pool.writer() as writer:
        writer.append(features([]).reshape(0, 5), digests([]), [])
        with pytest.raises(FeaturesError, match="2 features"):
            writer.append(features([1, 2]), digests([1]), [0])
    fill(pool, [1])
    with pytest.raises(SpecMismatchError, match=r"\(5,\), not \(6,\)"):
        fill(pool, [2], shape=(6,))


def test_waiting_for_the_lock_is_told(pool, monkeypatch, caplog):
    monkeypatch.setattr("cryobase.store.pool_files.SECONDS_OF_SILENCE", 0.01)
    caplog.set_level("INFO")
    with ThreadPoolExecutor(1) as executor:
        with pool.lock():
            waiting = executor.submit(fill, Pool(pool.root, pool.spec), range(3))
            while "waiting for another process" not in caplog.text:
                time.sleep(0.01)
            assert len(pool) == 0
        waiting.result()
    assert len(pool) == 3


def test_specs_do_not_share_rows(tmp_path):
    fill(Pool(tmp_path, spec()), range(3))
    other = Pool(tmp_path, spec(output="max"))
    assert len(other.missing(digests(range(3)))[0]) == 3
    fill(other, range(2))
    assert {len(pool) for pool in Pool.all(tmp_path)} == {2, 3}


@pytest.mark.fault(41)
def test_a_pool_directory_of_another_spec_is_refused(tmp_path):
    fill(Pool(tmp_path, spec()), range(3))
    (tmp_path / spec().fingerprint).rename(tmp_path / spec(output="max").fingerprint)
    with pytest.raises(SpecMismatchError, match="output"):
        Pool(tmp_path, spec(output="max")).missing(digests([1]))


def test_plan_counts_rows_and_bytes(pool):
    assert pool.plan(digests(range(4)), views=1).row_bytes is None
    fill(pool, range(3))
    plan = pool.plan(digests(range(4)), views=1)
    assert (plan.existing, plan.missing, plan.row_bytes) == (3, 5, 20)


def test_the_canary_is_kept_once(pool, tmp_path):
    assert pool.canary() is None
    rows = features(range(4))
    pool.record_canary(rows)
    pool.record_canary(rows)
    assert (pool.canary() == rows).all()
    with pytest.raises(ConflictError, match="canary"):
        pool.record_canary(rows + 1)
    fill(pool, range(3))
    pool.publish(tmp_path / "set", examples(range(3)))
    other = Pool(tmp_path / "other", spec())
    other.adopt(tmp_path / "set")
    assert (other.canary() == rows).all()


def test_publish_links_the_pools_files(pool, tmp_path):
    fill(pool, range(10))
    manifest = pool.publish(tmp_path / "set", examples(range(10)))
    (shard,) = manifest.shards
    assert (tmp_path / "set" / shard.name).samefile(pool.directory / shard.name)
    assert names(tmp_path / "set") == {info.name for info in manifest.files} | {"manifest-1.json"}


def test_publishing_the_same_content_changes_nothing_but_relinks(pool, tmp_path):
    fill(pool, range(10))
    manifest = pool.publish(tmp_path / "set", examples(range(10)))
    shard = tmp_path / "set" / manifest.shards[0].name
    data = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(data)  # as DVC does when it unprotects an output
    before = (tmp_path / "set" / "manifest-1.json").stat()
    assert pool.publish(tmp_path / "set", examples(range(10))) == manifest
    assert shard.samefile(pool.directory / shard.name)
    assert (tmp_path / "set" / "manifest-1.json").stat().st_ino == before.st_ino


def test_a_publish_names_what_is_missing(pool, tmp_path):
    fill(pool, range(3))
    with pytest.raises(MissingRowsError, match=r"2 of 5 rows.*cryobase extract"):
        pool.publish(tmp_path / "set", examples(range(5)))
    with pytest.raises(MissingRowsError, match="view 1"):
        pool.publish(tmp_path / "set", examples(range(3)), views=1)
    with pytest.raises(MissingRowsError, match="add images"):
        pool.publish(tmp_path / "set", examples(range(3), quarantined=range(3)))
    assert not (tmp_path / "set").exists()


def test_equal_images_in_very_many_views_are_refused_before_anything_is_written(pool, tmp_path):
    fill(pool, [0], views=80)
    same = Examples.create(
        ids=[b"%d.jpg" % number for number in range(400)],
        digests=np.repeat(digests([0]), 400, axis=0),
        labels=[0] * 400,
        quarantined=None,
        classes=["cat"],
    )
    with pytest.raises(ExamplesError, match="400 examples in 81 views, but only 81 rows"):
        pool.publish(tmp_path / "set", same, views=80)
    assert not (tmp_path / "set").exists()


def test_quarantined_examples_need_no_row(pool, tmp_path):
    fill(pool, range(3))
    pool.publish(tmp_path / "set", examples(range(5), quarantined={3, 4}))
    opened = FeatureSet.open(tmp_path / "set", full=True)
    assert (len(opened), len(opened.examples)) == (3, 5)


def test_going_back_gives_the_same_directory(pool, tmp_path):
    fill(pool, range(10))
    fill(pool, range(20))
    directory = tmp_path / "set"

    def state():
        return {path.name: path.read_bytes() for path in directory.iterdir()}

    pool.publish(directory, examples(range(10)))
    first = state()
    pool.publish(directory, examples(range(20)))
    assert len(state()) > len(first)
    pool.publish(directory, examples(range(10)))
    assert state() == first


def test_removing_examples_drops_their_rows(pool, tmp_path):
    fill(pool, range(10))
    fill(pool, range(10, 20))
    pool.publish(tmp_path / "set", examples(range(20)))
    manifest = pool.publish(tmp_path / "set", examples(range(10)))
    assert (manifest.rows, manifest.published.rows) == (10, 10)
    assert len(pool) == 20


def test_shards_that_are_mostly_dead_are_written_anew(pool, tmp_path):
    fill(pool, range(10))
    fill(pool, range(10, 20))
    kept = [*range(10), 12, 15]
    manifest = pool.publish(tmp_path / "set", examples(kept))
    assert sorted(shard.rows for shard in manifest.shards) == [2, 10]
    opened = FeatureSet.open(tmp_path / "set", full=True)
    assert (opened.arrays()[0] == features(kept)).all()


def test_shards_that_are_partly_dead_are_linked_and_their_dead_rows_hidden(pool, tmp_path):
    fill(pool, range(10))
    manifest = pool.publish(tmp_path / "set", examples(range(7)))
    assert [shard.rows for shard in manifest.shards] == [10]
    opened = FeatureSet.open(tmp_path / "set", full=True)
    assert (opened.arrays()[0] == features(range(7))).all()


def test_the_sets_digest_does_not_depend_on_shards(tmp_path):
    parts = {"one": [range(12)], "two": [range(6), range(12)], "more": [range(30)]}
    made = set()
    for name, fills in parts.items():
        pool = Pool(tmp_path / name, spec())
        for numbers in fills:
            fill(pool, numbers)
        made.add(pool.publish(tmp_path / f"{name}-set", examples(range(12))).published.digest)
    assert len(made) == 1
    relabelled = examples(range(12))
    changed = Examples.create(
        relabelled.ids, relabelled.digests, [0] * 12, None, relabelled.classes
    )
    assert pool.publish(tmp_path / "set", changed).published.digest not in made


def test_images_under_two_ids_share_a_row(pool, tmp_path):
    fill(pool, range(2))
    twice = Examples.create(
        [b"a", b"b", b"c"], digests([1, 0, 1]), [0, 1, 2], None, ("x", "y", "z")
    )
    assert pool.publish(tmp_path / "set", twice).published.rows == 2
    found, labels = FeatureSet.open(tmp_path / "set", full=True).arrays()
    assert (found == features([1, 0, 1])).all()
    assert labels.tolist() == [0, 1, 2]


def test_unknown_files_of_a_set_are_left_alone(pool, tmp_path, caplog):
    fill(pool, range(2))
    pool.publish(tmp_path / "set", examples(range(2)))
    (tmp_path / "set" / "notes.txt").write_text("mine")
    (tmp_path / "set" / ".tmp-0123").write_text("left by a crash")
    pool.publish(tmp_path / "set", examples(range(2)))
    assert (tmp_path / "set" / "notes.txt").exists()
    assert not (tmp_path / "set" / ".tmp-0123").exists()
    assert "notes.txt" in caplog.text


def test_a_damaged_set_is_published_anew(pool, tmp_path, caplog):
    fill(pool, range(4))
    manifest = pool.publish(tmp_path / "set", examples(range(2)))
    for damage in ("manifest-1.json", manifest.published.examples.name, manifest.shards[0].name):
        path = tmp_path / "set" / damage
        path.unlink()
        if damage.startswith("manifest"):
            path.write_text("torn")
        assert pool.publish(tmp_path / "set", examples(range(2))) == manifest
        assert FeatureSet.open(tmp_path / "set", full=True).manifest == manifest
    assert "published again" in caplog.text


def test_multi_dimensional_features(tmp_path):
    pool = Pool(tmp_path / "pool", spec(dtype="float16"))
    fill(pool, range(6), shape=(2, 3, 4), views=2)
    pool.publish(tmp_path / "set", examples(range(6)), views=2)
    opened = FeatureSet.open(tmp_path / "set", full=True)
    assert (opened.feature_shape, opened.views) == ((2, 3, 4), 2)
    for view in range(3):
        found, _ = opened.arrays(view=view)
        assert found.dtype == np.float32
        assert (found == features(range(6), (2, 3, 4), view)).all()


def test_publish_reads_only_shards_that_are_live_in_part(pool, tmp_path, monkeypatch):
    fill(pool, range(10))
    fill(pool, range(10, 20))
    monkeypatch.setattr(
        "cryobase.store.rows.sum_of_rows", lambda f, *_: pytest.fail(f"read {len(f)}")
    )
    pool.publish(tmp_path / "set", examples(range(20)))


@pytest.mark.fault(49)
@pytest.mark.parametrize(
    ("root", "first", "reason"),
    [
        ("/proc/pool", "/proc/pool", "no directory can be made there"),
        ("/proc/pool/of/all", "/proc/pool", "no directory can be made there"),
        ("/dev/fd/pool", "/dev/fd/pool", "no directory can be made there"),
        ("{}/file/pool", "{}/file", "not a directory"),
        ("{}/file", "{}/file", "not a directory"),
        ("{}/link", "{}/link", "not a directory"),
    ],
)
def test_a_pool_that_cannot_be_made_is_told_in_plain_words(tmp_path, root, first, reason):
    if root.startswith("/") and not os.path.exists("/proc/self"):
        pytest.skip("needs Linux' /proc")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    pool = Pool(Path(root.format(tmp_path)), spec())
    for use in (pool.make_root, lambda: fill(pool, range(3))):
        with pytest.raises(StorageError) as refusal:
            use()
        expected = f"{first.format(tmp_path)}: {reason}; {cryobase.store.pool_files.ELSEWHERE}"
        assert str(refusal.value) == expected

"""Many processes at once: work is done once, and readers see an old or a new version, no mix."""

import multiprocessing
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from cryobase.store import FeatureSet, Pool, StoreNotFoundError
from cryobase.store.manifest import Manifest, ShardInfo, commit, load
from tests.unit.store.samples import digests, examples, features, fill, spec

PROCESSES = 8
fork = multiprocessing.get_context("fork")


def run(function, arguments) -> None:
    """Run `function` in a process for each of `arguments`; all must succeed."""
    started = [fork.Process(target=function, args=args) for args in arguments]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0] * len(started)


def extract(root: Path, numbers: range, computed: Path) -> None:
    """Compute what is missing, asking under the lock; note down what was computed."""
    pool = Pool(root, spec())
    with pool.writer() as writer:
        missing, _ = pool.missing(digests(numbers))
        wanted = {digest.tobytes() for digest in missing}
        which = [number for number in numbers if digests([number]).tobytes() in wanted]
        with computed.open("a") as file:
            file.writelines(f"{number}\n" for number in which)
        time.sleep(0.02)
        writer.append(features(which), digests(which), np.zeros(len(which)))


@pytest.mark.fault(42)
def test_processes_that_want_the_same_rows_compute_them_once(quick_path):
    computed = quick_path / "computed"
    numbers = [range(start, start + 20) for start in range(0, 5 * PROCESSES, 5)]
    run(extract, [(quick_path / "pool", part, computed) for part in numbers])
    lines = computed.read_text().split()
    assert sorted(map(int, lines)) == list(range(5 * PROCESSES + 15))
    assert len(Pool(quick_path / "pool", spec())) == len(lines)


def append_without_lock(root: Path, start: int) -> None:
    pool = Pool(root, spec())
    pool.lock = nullcontext  # a file system whose locks do nothing
    for step in range(5):
        numbers = range(start + 3 * step, start + 3 * step + 6)
        fill(pool, numbers)


@pytest.mark.fault(42, 43)
def test_writers_whose_lock_does_nothing_lose_no_row(quick_path):
    run(append_without_lock, [(quick_path, 10 * number) for number in range(PROCESSES)])
    pool = Pool(quick_path, spec())
    table = pool.snapshot().rows  # its index refuses doubles
    for shard in table.shards:
        shard.verify()
    assert len(pool) == 10 * (PROCESSES - 1) + 18


def shard(worker: int, step: int) -> ShardInfo:
    return ShardInfo.of_shard(b"%d %d" % (worker, step), rows=1, digest=0)


def add_shards(directory: Path, worker: int) -> None:
    for step in range(10):
        new = shard(worker, step)

        def change(current: Manifest | None, new: ShardInfo = new) -> Manifest:
            shards = current.shards if current else ()
            added = shards if new in shards else (*shards, new)
            return Manifest(spec=spec(), feature_shape=(5,), shards=added)

        commit(directory, change)


@pytest.mark.fault(43)
def test_no_committer_overwrites_another(quick_path):
    run(add_shards, [(quick_path, worker) for worker in range(PROCESSES)])
    _, manifest = load(quick_path)
    expected = {shard(worker, step) for worker in range(PROCESSES) for step in range(10)}
    assert set(manifest.shards) == expected


CONTENTS = [range(30), range(20, 60), range(50, 55), range(100, 140)]


def publish(root: Path, number: int) -> None:
    pool = Pool(root / "pool", spec())
    for step in range(6):
        pool.publish(root / "set", examples(CONTENTS[(number + step) % len(CONTENTS)]))


def read(root: Path, stop: Path) -> None:
    lengths = {len(numbers): numbers for numbers in CONTENTS}
    seen = 0
    while not stop.exists() or not seen:
        try:
            opened = FeatureSet.open(root / "set", full=seen % 5 == 0)
        except StoreNotFoundError:
            if (root / "set").exists() and seen:
                raise
            continue
        numbers = range(int(opened.ids[0][:5]), int(opened.ids[-1][:5]) + 1)
        assert numbers in CONTENTS, numbers
        assert (opened.arrays()[0] == features(numbers)).all()
        opened.close()
        seen += 1
    assert lengths


@pytest.mark.fault(44)
def test_readers_see_one_version_or_another(quick_path):
    pool = Pool(quick_path / "pool", spec())
    for numbers in CONTENTS:
        fill(pool, numbers)
    stop = quick_path / "stop"
    readers = [fork.Process(target=read, args=(quick_path, stop)) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        run(publish, [(quick_path, number) for number in range(PROCESSES)])
    finally:
        stop.touch()
    for reader in readers:
        reader.join(60)
    assert [reader.exitcode for reader in readers] == [0] * len(readers)


def read_pool(root: Path, stop: Path) -> None:
    pool = Pool(root, spec())
    before = 0
    while not stop.exists():
        now = pool.snapshot()
        assert len(now.rows) >= before
        before = len(now.rows)


@pytest.mark.fault(44)
def test_readers_of_the_pool_need_no_lock(quick_path):
    stop = quick_path / "stop"
    readers = [fork.Process(target=read_pool, args=(quick_path, stop)) for _ in range(3)]
    for reader in readers:
        reader.start()
    pool = Pool(quick_path, spec())
    for start in range(0, 200, 5):
        fill(pool, range(start, start + 5))
        pool.sweep(lease=3600)
    stop.touch()
    for reader in readers:
        reader.join(60)
    assert [reader.exitcode for reader in readers] == [0] * len(readers)


def read_in_fork(opened: FeatureSet, seed: int) -> None:
    for _ in range(20):
        for found, _labels in opened.batches(None, 8, shuffle=True, seed=seed):
            assert (found == features(found[:, 0].astype(int))).all()


def test_forked_processes_share_an_opened_set(quick_path):
    pool = fill(Pool(quick_path / "pool", spec()), range(200))
    pool.publish(quick_path / "set", examples(range(200)))
    opened = FeatureSet.open(quick_path / "set")
    run(read_in_fork, [(opened, seed) for seed in range(4)])

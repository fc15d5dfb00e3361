"""Killing a writing process anywhere: no acknowledged row is lost, and the next run resumes."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryobase.store import FeatureSet, Pool, StoreNotFoundError
from cryobase.store.manifest import Manifest, load
from tests.integration.store_faults import Calls, die
from tests.scale import rounds
from tests.unit.store.samples import digests, examples, features, fill, spec

NUMBERS = range(24)


def in_child(work: Callable[[int], None], wait: Callable[[int], None] = lambda pid: None) -> bytes:
    """Run `work` in a forked process with a pipe to write to; return what it wrote."""
    source, target = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(source)
            work(target)
        finally:
            os._exit(0)
    os.close(target)
    wait(pid)
    with open(source, "rb") as file:
        told = file.read()
    os.waitpid(pid, 0)
    return told


def extract(root: Path, told: int, step: int = 4) -> None:
    """What the extract stage does: compute what is missing, commit, acknowledge, publish."""
    pool = Pool(root / "pool", spec())
    with pool.writer() as writer:
        for start in range(0, len(NUMBERS), step):
            numbers = NUMBERS[start : start + step]
            missing, _ = pool.missing(digests(numbers))
            which = [n for n in numbers if digests([n]).tobytes() in missing.tobytes()]
            writer.append(features(which), digests(which), np.zeros(len(which)))
            writer.commit()
            os.write(told, b"".join(b"%d " % number for number in numbers))
    pool.publish(root / "set", examples(NUMBERS))
    os.write(told, b"published")


def assert_sound(root: Path, told: bytes) -> None:
    """Acknowledged rows are there, right, and everything that is visible is whole."""
    acknowledged = [int(word) for word in told.replace(b"published", b"").split()]
    pool = Pool(root / "pool", spec())
    assert len(pool.missing(digests(acknowledged))[0]) == 0
    table = pool.snapshot().rows
    for shard in table.shards:
        shard.verify()
    try:
        opened = FeatureSet.open(root / "set", full=True)
    except StoreNotFoundError:
        assert b"published" not in told
    else:
        assert (opened.arrays()[0] == features(NUMBERS)).all()


def assert_resumes(root: Path) -> None:
    pool = root / "pool" / spec().fingerprint
    before = set(pool.glob("shard-*"))
    missing = len(Pool(root / "pool", spec()).missing(digests(NUMBERS))[0])
    told = in_child(lambda target: extract(root, target))
    assert told.endswith(b"published")
    assert_sound(root, told)
    shards = Pool(root / "pool", spec()).manifest().shards
    assert sum(shard.rows for shard in shards) == len(NUMBERS)
    assert sum(shard.rows for shard in shards if pool / shard.name not in before) == missing
    Pool(root / "pool", spec()).sweep(lease=-1)
    for directory in (root / "pool" / spec().fingerprint, root / "set"):
        version, manifest = load(directory)
        names = {info.name for info in manifest.files} | {f"manifest-{version}.json"}
        assert {path.name for path in directory.iterdir()} - {"writers.lock"} == names


@pytest.mark.fault(45)
@pytest.mark.timeout(3600)
def test_kills_at_random_moments(quick_path):
    random.seed(45)
    durations = []
    for number in range(5):
        started, whole = time.monotonic(), quick_path / f"whole-{number}"
        in_child(lambda target, root=whole: extract(root, target))
        durations.append(time.monotonic() - started)
    unfinished = acknowledged = 0
    for number in range(rounds(1000)):
        root = quick_path / str(number)

        def wait(pid):
            time.sleep(random.uniform(0, min(durations)))
            os.kill(pid, signal.SIGKILL)

        told = in_child(lambda target, root=root: extract(root, target), wait)
        unfinished += not told.endswith(b"published")
        acknowledged += len(told.replace(b"published", b"").split())
        assert_sound(root, told)
        if number % 10 == 0:
            assert_resumes(root)
    assert unfinished > rounds(1000) // 10  # else nobody was killed
    print(f"{rounds(1000)} kills, {unfinished} runs cut short, {acknowledged} rows found again")


@pytest.mark.fault(45, 48)
@pytest.mark.timeout(3600)
def test_kills_at_every_system_call(quick_path, monkeypatch):
    for number in range(10_000):
        root = quick_path / str(number)
        monkeypatch.setattr("cryobase.store.publish.os", Calls(number, die))
        told = in_child(lambda target, root=root: extract(root, target, step=12))
        monkeypatch.setattr("cryobase.store.publish.os", os)
        assert_sound(root, told)
        assert_resumes(root)
        if told.endswith(b"published"):
            break
    assert number > 50
    print(f"{number} kills")


@pytest.mark.fault(45)
def test_kills_while_a_set_is_replaced(quick_path, monkeypatch):
    root = quick_path / "root"
    pool = fill(Pool(root / "pool", spec()), NUMBERS)
    fill(pool, range(100, 140))
    states = {len(numbers): numbers for numbers in (NUMBERS, range(100, 140))}
    number, finished = 0, False
    while not finished:
        pool.publish(root / "set", examples(NUMBERS))
        monkeypatch.setattr("cryobase.store.publish.os", Calls(number, die))

        def replace(target):
            pool.publish(root / "set", examples(range(100, 140)))
            os.write(target, b"done")

        finished = in_child(replace) == b"done"
        monkeypatch.setattr("cryobase.store.publish.os", os)
        opened = FeatureSet.open(root / "set", full=True)
        assert (opened.arrays()[0] == features(states[len(opened)])).all()
        number += 1
    assert number > 20
    print(f"{number - 1} kills")


@pytest.mark.fault(46)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_committed_rows(quick_path, signum):
    asleep = quick_path / "asleep"

    def work(target):
        signal.signal(signum, signal.default_int_handler)
        pool = Pool(quick_path, spec())
        try:
            with pool.writer() as writer:
                writer.append(features([1]), digests([1]), [0])
                writer.commit()
                writer.append(features([2]), digests([2]), [0])
                asleep.touch()
                time.sleep(60)
        except KeyboardInterrupt:
            os.write(target, b"interrupted")

    def wait(pid):
        while not asleep.exists():
            time.sleep(0.001)
        os.kill(pid, signum)

    assert in_child(work, wait) == b"interrupted"
    assert not list(quick_path.rglob(".tmp-*"))
    pool = Pool(quick_path, spec())
    assert len(pool.missing(digests([1, 2]))[0]) == 1
    fill(pool, [2])  # the lock is free
    assert pool.manifest() != Manifest(spec=spec())

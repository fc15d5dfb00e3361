"""Altered bytes anywhere: full verification never passes them, and nothing crashes or hangs."""

import os
import random
import resource
import signal
import sys

import numpy as np
import pytest

from cryobase.store import FeatureSet, IntegrityError, StoreError, StoreNotFoundError
from cryobase.store.manifest import load
from tests.integration.store_forgery import replace_examples, replace_shard
from tests.scale import rounds
from tests.unit.store.samples import features, published

MEBIBYTES = resource.RUSAGE_SELF, 1 << (20 if sys.platform == "darwin" else 10)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """One of: a bit flipped, bytes overwritten, cut, swapped, repeated."""
    changed = bytearray(data)
    where = chance.randrange(len(data))
    length = chance.choice([1, 2, 4, 8, 64, 512])
    kind = chance.randrange(6)
    if kind == 0:
        changed[where] ^= 1 << chance.randrange(8)
    elif kind == 1:
        changed[where : where + length] = chance.randbytes(length)
    elif kind == 2:
        changed[where : where + length] = chance.choice([b"\0", b"\xff"]) * length
    elif kind == 3:
        del changed[where:]
    elif kind == 4:
        other = chance.randrange(len(data))
        changed[where : where + length] = data[other : other + length]
    else:
        changed[where:where] = chance.randbytes(length)
    return bytes(changed)


def guarded(work):
    """Run `work` in a child; it may neither die, nor take 10 s for a step, nor 256 MiB more."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            before = resource.getrusage(MEBIBYTES[0]).ru_maxrss
            work()
            grown = (resource.getrusage(MEBIBYTES[0]).ru_maxrss - before) / MEBIBYTES[1]
            code = 0 if grown < 256 else 2
        except BaseException as error:  # the parent has the report
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "see stderr; -11 is a crash, -14 a hang"


def within_ten_seconds(function, *args, **kwargs):
    signal.alarm(10)
    try:
        return function(*args, **kwargs)
    finally:
        signal.alarm(0)


@pytest.mark.fault(25, 34, 37, 39)
@pytest.mark.timeout(3600)
def test_full_verification_never_passes_altered_bytes(quick_path):
    directory = published(quick_path)
    files = sorted(directory.iterdir())
    originals = {path: path.read_bytes() for path in files}
    for path in files:
        path.unlink()
        path.write_bytes(originals[path])

    def work():
        chance = random.Random(25)
        passed = []
        for number in range(rounds(100_000)):
            path = chance.choice(files)
            data = mutate(originals[path], chance)
            if data == originals[path]:
                continue
            path.write_bytes(data)
            try:
                within_ten_seconds(FeatureSet.open, directory, full=True)
                passed.append((number, path.name))
            except (IntegrityError, StoreNotFoundError):
                pass
            path.write_bytes(originals[path])
        assert passed == []
        FeatureSet.open(directory, full=True)

    guarded(work)
    print(f"{rounds(100_000)} mutants")


@pytest.mark.fault(25, 29, 34, 40)
@pytest.mark.timeout(3600)
def test_altered_metadata_under_a_forged_manifest_is_safe(quick_path):
    """The manifest agrees with the altered shard, so that HDF5 sees it."""
    directory = published(quick_path)
    shard = FeatureSet.open(directory).table.shards[0]
    original = shard.path.read_bytes()
    manifest = (directory / "manifest-1.json").read_bytes()

    def work():
        chance = random.Random(34)
        for _ in range(rounds(100_000)):
            data = mutate(original, chance)
            path = replace_shard(directory, data)
            try:
                opened = within_ten_seconds(FeatureSet.open, directory, full=True)
                # Only the rows' own bytes could differ, and their digest says that they do not.
                found, _ = opened.arrays()
                assert (found == features(range(20))).all()
                opened.close()
            except StoreError:
                pass
            path.unlink()
            shard.path.write_bytes(original)
            (directory / "manifest-1.json").unlink()
            (directory / "manifest-1.json").write_bytes(manifest)

    shard.path.unlink()
    shard.path.write_bytes(original)
    guarded(work)
    print(f"{rounds(100_000)} mutants")


@pytest.mark.fault(37, 39)
@pytest.mark.timeout(3600)
def test_altered_examples_under_a_forged_manifest_are_safe(quick_path):
    """Either they are refused, or they are what the manifest's digest of the set says."""
    directory = published(quick_path)
    expected = FeatureSet.open(directory, full=True)
    ids, labels, path = expected.ids.tolist(), expected.labels().tolist(), expected._file.path
    expected.close()
    original, manifest = path.read_bytes(), (directory / "manifest-1.json").read_bytes()

    def work():
        chance = random.Random(37)
        refused = 0
        for _ in range(rounds(100_000)):
            new = replace_examples(directory, mutate(original, chance))
            try:
                opened = within_ten_seconds(FeatureSet.open, directory, full=True)
                assert opened.ids.tolist() == ids
                assert opened.labels().tolist() == labels
                opened.close()
            except StoreError:
                refused += 1
            new.unlink()
            path.write_bytes(original)
            (directory / "manifest-1.json").unlink()
            (directory / "manifest-1.json").write_bytes(manifest)
        assert refused > rounds(100_000) // 2

    path.unlink()
    path.write_bytes(original)
    guarded(work)


@pytest.mark.fault(25)
def test_the_quick_check_finds_every_change_outside_of_the_values(quick_path):
    """Sizes, names and HDF5's own checksums are enough for all but the columns themselves."""
    directory = published(quick_path)
    _, manifest = load(directory)
    shard = FeatureSet.open(directory).table.shards[0]
    path, original = shard.path, shard.path.read_bytes()
    path.unlink()
    ends = shard.offset, shard.offset + 20 * shard.info.rows
    missed = []
    for position in range(0, len(original), 20 // rounds(20)):
        data = bytearray(original)
        data[position] ^= 0x10
        path.write_bytes(data)
        try:
            found = FeatureSet.open(directory).arrays()[0]
        except StoreError:
            continue
        if not ends[0] <= position < ends[1] and not np.array_equal(found, features(range(20))):
            missed.append(position)
    assert missed == []
    assert manifest.rows == 20


def test_the_harness_notices_a_crash_and_growth():
    with pytest.raises(AssertionError, match="crash"):
        guarded(lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(AssertionError):
        guarded(lambda: bytearray(os.urandom(1)) * (400 << 20))

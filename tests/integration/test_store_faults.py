"""I/O errors at every call: a clean error, nothing left behind, and a retry that gives the same."""

import errno
import multiprocessing
import os
import resource
import subprocess

import pytest

from cryobase.store import FeatureSet, Pool, StorageError, import_set
from cryobase.store.publish import publish_bytes
from tests.integration.store_faults import FAULTS, Calls
from tests.scale import RUN_ALL
from tests.unit.store.samples import digests, examples, features, fill, spec


def run(root):
    pool = Pool(root / "pool", spec())
    fill(pool, range(6))
    fill(pool, range(12))
    pool.record_canary(features(range(2)))
    pool.publish(root / "set", examples(range(12)))
    pool.publish(root / "set", examples(range(6)))
    Pool(root / "other", spec()).adopt(root / "set")


def content(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "writers.lock" and not path.name.startswith(".publish-")
    }


def attempt(root):
    try:
        run(root)
    except StorageError as error:
        return error
    return None


@pytest.mark.fault(47)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_call_fails_once(quick_path, monkeypatch, fault):
    run(quick_path / "good")
    expected = content(quick_path / "good")
    # In CI each call meets one of the four faults, in the whole run all of them.
    stride = 1 if RUN_ALL else len(FAULTS)
    failed = 0
    for number in range(list(FAULTS).index(fault) % stride, 10_000, stride):
        root = quick_path / str(number)
        calls = Calls(number, FAULTS[fault])
        monkeypatch.setattr("cryobase.store.publish.os", calls)
        error = attempt(root)
        monkeypatch.setattr("cryobase.store.publish.os", os)
        if error:
            failed += 1
            assert error.errno == getattr(errno, fault)
            assert str(root) in str(error)
        assert not list(root.rglob(".tmp-*")), calls.name
        run(root)
        assert content(root) == expected
        if calls.count <= number:
            break
    assert number > 80
    assert failed > number / stride / 2 or fault == "short"
    print(f"{fault}: {number} calls, {failed} clean errors")


@pytest.mark.fault(47)
def test_a_writer_keeps_its_rows_for_another_try(quick_path, monkeypatch):
    pool = Pool(quick_path, spec())
    with pool.writer() as writer:
        writer.append(features(range(3)), digests(range(3)), [0] * 3)
        monkeypatch.setattr("cryobase.store.publish.os", Calls(0, FAULTS["ENOSPC"]))
        with pytest.raises(StorageError, match="no space left"):
            writer.commit()
        monkeypatch.setattr("cryobase.store.publish.os", os)
    assert len(pool) == 3


@pytest.fixture
def small_disk(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "cryobase", str(tmp_path)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.fault(47)
def test_a_full_disk(small_disk):
    pool = Pool(small_disk / "pool", spec())
    fill(pool, range(20))
    pool.publish(small_disk / "set", examples(range(20)))
    ballast = publish_bytes(small_disk, "ballast", bytes(200 << 10))
    with pytest.raises(StorageError, match="no space left"):
        fill(pool, range(20, 3000))
    assert not list(small_disk.rglob(".tmp-*"))
    assert len(FeatureSet.open(small_disk / "set", full=True)) == 20
    ballast.unlink()
    fill(pool, range(20, 1000))
    assert len(pool) == 1000


@pytest.mark.fault(62)
@pytest.mark.parametrize("enough", [True, False])
def test_a_set_of_more_files_than_may_be_open(quick_path, enough):
    pool = Pool(quick_path / "pool", spec())
    for start in range(0, 30, 3):
        fill(pool, range(start, start + 3))
    pool.publish(quick_path / "set", examples(range(30)))

    def work():
        highest = max(map(int, os.listdir("/dev/fd")))
        while os.open("/dev/null", os.O_RDONLY) < highest:  # so that there is no gap below
            pass
        used = highest + 1
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1] if enough else used + 5
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 5, hard))
        if enough:
            assert (FeatureSet.open(quick_path / "set").arrays()[0] == features(range(30))).all()
            return
        with pytest.raises(StorageError, match=r"shard-\w+\.h5: too many open files"):
            FeatureSet.open(quick_path / "set")
        with pytest.raises(StorageError, match="too many open files"):
            Pool(quick_path / "pool", spec()).missing(digests(range(3)))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == 0


class Journal:
    """Stands in for `os` in `cryobase.store.publish` and notes down what a power cut could undo."""

    def __init__(self):
        self.unsynced_files, self.unsynced_names, self.paths = set(), set(), {}

    def __getattr__(self, name):
        return getattr(os, name)

    def open(self, path, flags, *mode):
        descriptor = os.open(path, flags, *mode)
        self.paths[descriptor] = str(path)
        return descriptor

    def write(self, descriptor, data):
        self.unsynced_files.add(self.paths[descriptor])
        return os.write(descriptor, data)

    def fsync(self, descriptor):
        path = self.paths[descriptor]
        self.unsynced_files.discard(path)
        self.unsynced_names -= {name for name in self.unsynced_names if name[0] == path}

    def link(self, source, target):
        os.link(source, target)
        self._named(source, target)

    def replace(self, source, target):
        os.replace(source, target)
        self._named(source, target)

    def _named(self, source, target):
        directory, name = os.path.split(target)
        assert str(source) not in self.unsynced_files, f"{name} could be empty after a power cut"
        if name.startswith("manifest-"):
            others = [other for other in self.unsynced_names if other[0] == directory]
            assert not others, f"{name} could come without {others}"
        if not name.startswith(".tmp-"):
            self.unsynced_names.add((directory, name))


@pytest.mark.fault(48)
def test_every_file_is_durable_before_the_manifest_that_names_it(quick_path, monkeypatch):
    journal = Journal()
    monkeypatch.setattr("cryobase.store.publish.os", journal)
    run(quick_path)
    import_set(quick_path / "set", quick_path / "mine")  # copies, where the others link
    assert not journal.unsynced_files
    assert not journal.unsynced_names

"""What was checked once is not read again, and nothing else is taken for checked."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

import pytest

from cryobase.store import IntegrityError, verified
from cryobase.store.files import open_regular
from tests.unit.store.samples import bytes_read

SIZE = 1 << 20
DATA = os.urandom(SIZE)
RIGHT = sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    """An own memory, and a clock that ticks at once."""
    monkeypatch.setenv("CRYOBASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(verified, "GRANULARITY", 0)
    return tmp_path / "cache" / f"verified-{os.geteuid()}"


@pytest.fixture
def path(tmp_path):
    (tmp_path / "file").write_bytes(DATA)
    return tmp_path / "file"


@contextmanager
def opened(path):
    descriptor = open_regular(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def check(path, expected=RIGHT, **keywords):
    with opened(path) as descriptor:
        verified.check([(descriptor, path, expected)], **keywords)


def is_read(path):
    return bytes_read(lambda: check(path)) >= SIZE


def test_the_second_check_reads_nothing(path):
    assert is_read(path)
    assert not is_read(path)
    assert bytes_read(lambda: check(path, anew=True)) >= SIZE


def in_place(path):
    path.write_bytes(bytes([DATA[0] ^ 1]) + DATA[1:])


def moved_over(path):
    other = path.with_name("other")
    in_place(other)
    os.replace(other, path)


def through_a_link(path):
    other = path.with_name("link")
    os.link(path, other)
    in_place(other)


def mapped(path):
    import mmap

    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[0] ^= 1


@pytest.mark.fault(25)
@pytest.mark.parametrize("alter", [in_place, moved_over, through_a_link, mapped])
def test_a_file_altered_with_its_times_set_back_is_noticed(path, alter):
    check(path)
    before = path.stat()
    alter(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    for _ in range(2):
        with pytest.raises(IntegrityError, match="its SHA-256"):
            check(path)


def test_what_changed_a_moment_ago_is_read_again(path, monkeypatch):
    """Within one tick of the clock, another change would leave no trace."""
    monkeypatch.setattr(verified, "GRANULARITY", 3600 * 10**9)
    assert is_read(path)
    assert is_read(path)


def test_what_changes_while_it_is_read_is_not_remembered(path, memory, monkeypatch):
    digest_of = verified.digest_of

    def slow(descriptor, algorithm):
        found = digest_of(descriptor, algorithm)
        path.chmod(0o600)  # moves the time of change
        return found

    monkeypatch.setattr(verified, "digest_of", slow)
    check(path)
    assert not memory.exists()


def test_algorithms_are_not_mixed_up(path):
    with opened(path) as descriptor:
        first = [verified.digest(descriptor, name) for name in ("sha256", "md5")]
        assert first == [verified.digest(descriptor, name) for name in ("sha256", "md5")]
    assert [len(digest) for digest in first] == [64, 32]


def test_only_the_user_may_read_or_write_the_memory(path, memory):
    check(path)
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    assert stat.S_IMODE(memory.parent.stat().st_mode) == 0o700


def lie(path):
    """A line that takes an altered file for the right one."""
    in_place(path)
    key = verified._key(path.stat(), "sha256")
    return verified._line(key, RIGHT)


def writable_by_others(memory, line):
    memory.write_bytes(line)
    memory.chmod(0o666)


def of_another_user(memory, line):
    memory.write_bytes(line)
    memory.chmod(0o600)
    os.chown(memory, 12345, 12345)


def linked(memory, line):
    elsewhere = memory.with_name("elsewhere")
    elsewhere.write_bytes(line)
    memory.symlink_to(elsewhere)


def torn(memory, line):
    memory.write_bytes(line[:-3])


def with_another_digest(memory, line):
    memory.write_bytes(line.replace(RIGHT[:8].encode(), b"00000000"))


def endless(memory, line):
    with memory.open("wb") as file:
        file.write(line)
        file.truncate(verified.LIMIT + 1)


def fifo(memory, line):
    os.mkfifo(memory)


def directory(memory, line):
    memory.mkdir()


MEMORIES = (writable_by_others, of_another_user, linked, torn, with_another_digest, endless, fifo)


@pytest.mark.parametrize("put", [*MEMORIES, directory])
def test_a_memory_that_others_could_have_written_lets_nothing_pass(path, memory, put):
    if put is of_another_user and os.geteuid():
        pytest.skip("needs root to give a file away")
    line = lie(path)
    memory.parent.mkdir()
    put(memory, line)
    with pytest.raises(IntegrityError, match="its SHA-256"):
        check(path)
    path.write_bytes(DATA)
    check(path)
    assert is_read(path) == (put is directory)  # elsewhere it began anew


def test_junk_in_the_memory_costs_a_reading_and_no_more(path, memory):
    check(path)
    memory.write_bytes(os.urandom(1000) + b"\n" + memory.read_bytes() + b"\xff" * 100)
    assert not is_read(path)


def test_the_memory_stays_small_and_keeps_the_newest(path, memory, monkeypatch):
    monkeypatch.setattr(verified, "LIMIT", 2000)
    for _ in range(40):
        path.chmod(0o600)
        check(path)
        assert memory.stat().st_size <= 2000
    assert not is_read(path)


def test_a_large_memory_is_read_once_and_then_what_others_add(tmp_path, path, memory):
    key = "sha256 1 2 3 4"
    lines = [verified._line(f"{key} {n:x}".encode(), RIGHT) for n in range(20_000)]
    memory.parent.mkdir()
    memory.touch(0o600)
    memory.write_bytes(b"".join(lines))
    assert bytes_read(lambda: check(path)) > SIZE + memory.stat().st_size // 2
    assert bytes_read(lambda: check(path)) < 10_000
    other = tmp_path / "other"
    other.write_bytes(DATA)
    added = verified._line(verified._key(other.stat(), "sha256"), RIGHT)
    for part in (added[:50], added[50:]):  # half a line is no line
        assert bytes_read(lambda: check(path)) < 10_000
        with memory.open("ab") as file:
            file.write(part)
    assert not is_read(other)
    memory.write_bytes(added)  # shorter: another one
    assert is_read(path)
    memory.unlink()
    assert is_read(other)


@pytest.mark.parametrize("cache", ["/proc/nowhere", "~nobody-of-this-name/x"])
def test_without_a_place_to_remember_files_are_read_each_time(path, monkeypatch, cache):
    monkeypatch.setenv("CRYOBASE_CACHE", cache)
    assert is_read(path)
    assert is_read(path)


def _check_many(paths):
    for path in paths:
        check(path)


def test_processes_and_threads_remember_side_by_side(tmp_path, path, memory):
    paths = [tmp_path / str(number) for number in range(40)]
    for one in paths:
        one.write_bytes(DATA)
    context = get_context("fork")
    children = [context.Process(target=_check_many, args=(paths[i::4],)) for i in range(4)]
    for child in children:
        child.start()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(check, paths))
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert not any(map(is_read, paths))
    assert {len(line.split()) for line in Path(memory).read_bytes().splitlines()} == {7}


def test_the_first_of_several_wrong_files_is_named(tmp_path, path):
    others = [tmp_path / name for name in ("a", "b")]
    for other in others:
        in_place(other)
    with opened(path) as one, opened(others[0]) as two, opened(others[1]) as three:
        files = zip((one, two, three), (path, *others), [RIGHT] * 3, strict=True)
        with pytest.raises(IntegrityError, match=f"{others[0]}: its SHA-256"):
            verified.check(files)
    assert not is_read(path)  # what was right is remembered all the same

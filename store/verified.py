"""Which files' bytes were checked on this machine already, so that a check reads each of them once.

A file is known by its device, inode, size, and the times of its last modification and change, in
nanoseconds. Whoever alters it in place and sets the first time back still moves the second, which
only the system sets. What is known is kept in one small file that is the user's alone; to lose it,
or a line of it, costs a reading. A process reads that file once, and later what was added to it.
"""

import logging
import os
import re
import secrets
import stat
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from cryobase.store.errors import IntegrityError, StoreError
from cryobase.store.files import digest_of, open_regular
from cryobase.store.parallel import ordered_map

Algorithm = Literal["sha256", "md5"]

LIMIT = 1 << 24  # bytes of the memory, 90,000 files: a manifest can name a third of them
GRANULARITY = 2_000_000_000  # nanoseconds: the coarsest clock of a file system, FAT's
_READERS = 8
_DIGEST = re.compile(rb"([0-9a-f]{32}(?:[0-9a-f]{32})?):([0-9a-f]{8})")

log = logging.getLogger(__name__)


def check(files: Iterable[tuple[int, Path, str]], *, anew: bool = False) -> None:
    """Check that open files have the SHA-256 they should have; those that are known are not read.

    Args:
        files: Of each, its descriptor, its path for messages, and its SHA-256 in hexadecimal.
        anew: Whether to read them all the same.

    Raises:
        IntegrityError: one has another; the message names it.
    """
    files = list(files)
    found = digests([descriptor for descriptor, _, _ in files], anew=anew)
    for (_, path, expected), digest in zip(files, found, strict=True):
        if digest != expected:
            raise IntegrityError(f"{path}: its SHA-256 is not the manifest's")


def is_sound(path: Path, size: int, sha256: str) -> bool:
    """Whether a regular file is there, of that size and SHA-256."""
    try:
        descriptor = open_regular(path)
    except StoreError:
        return False
    try:
        return os.fstat(descriptor).st_size == size and digest(descriptor) == sha256
    finally:
        os.close(descriptor)


def digest(descriptor: int, algorithm: Algorithm = "sha256") -> str:
    """The digest of an open file's bytes, in hexadecimal; it is not read if it is known."""
    return digests([descriptor], algorithm)[0]


def digests(
    descriptors: Sequence[int], algorithm: Algorithm = "sha256", *, anew: bool = False
) -> list[str]:
    """The digests of open files' bytes, computed side by side for those that are not known."""
    memory = _path()
    known = {} if anew else _recall(memory)
    found = [_value(known, _key(os.fstat(one), algorithm)) for one in descriptors]
    new = [position for position, value in enumerate(found) if value is None]
    read = partial(_read, algorithm=algorithm)
    lines = []
    try:
        parts = ordered_map(read, [descriptors[i] for i in new], workers=_READERS)
        for position, (value, key) in zip(new, parts, strict=True):
            found[position] = value
            if key:
                lines.append(_line(key, value))
    finally:
        _keep(memory, lines)
    return [value for value in found if value is not None]


def remember(descriptor: int, before: os.stat_result, started: int, sha256: str) -> None:
    """Keep the SHA-256 of an open file that the caller has read.

    Args:
        descriptor: The file.
        before: What `fstat` said before it was read.
        started: `time.time_ns()` at that moment.
        sha256: Of what was read, in hexadecimal.
    """
    if key := _settled(before, os.fstat(descriptor), started, "sha256"):
        _keep(_path(), [_line(key, sha256)])


def cache_directory() -> Path:
    """Where files that can be made again are kept: `$CRYOBASE_CACHE`, else the user's cache.

    Raises:
        RuntimeError: the user has no home.
    """
    own = os.environ.get("CRYOBASE_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cryobase"


def _read(descriptor: int, *, algorithm: Algorithm) -> tuple[str, bytes | None]:
    """A file's digest, and under what it may be remembered."""
    before, started = os.fstat(descriptor), time.time_ns()
    value = digest_of(descriptor, algorithm)
    return value, _settled(before, os.fstat(descriptor), started, algorithm)


def _settled(
    before: os.stat_result, after: os.stat_result, started: int, algorithm: Algorithm
) -> bytes | None:
    """The key of a file that nobody changed while it was read, nor shortly before.

    A change within the same tick of the clock would leave no trace (Git's "racy" entries).
    """
    key = _key(before, algorithm)
    young = max(before.st_mtime_ns, before.st_ctime_ns) > started - GRANULARITY
    return None if young or key != _key(after, algorithm) else key


def _key(facts: os.stat_result, algorithm: Algorithm) -> bytes:
    numbers = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    return " ".join([algorithm, *(f"{number:x}" for number in numbers)]).encode()


def _line(key: bytes, digest: str) -> bytes:
    return b"%s %s:%08x\n" % (key, digest.encode(), zlib.crc32(key + digest.encode()))


def _value(known: dict[bytes, bytes], key: bytes) -> str | None:
    """The digest under a key, if its line is whole."""
    found = _DIGEST.fullmatch(known.get(key, b""))
    if found and int(found[2], 16) == zlib.crc32(key + found[1]):
        return found[1].decode()
    return None


def _path() -> Path | None:
    """Where the memory lies, in a cache that several users may share; None without a home."""
    try:
        return cache_directory() / f"verified-{os.geteuid()}"
    except RuntimeError:
        return None


@dataclass(frozen=True)
class _Recalled:
    """What this process has read of a memory: of which file, up to where, and its lines by key."""

    file: tuple[int, int] | None = None
    end: int = 0
    known: dict[bytes, bytes] = field(default_factory=dict)


_recalled: dict[Path, _Recalled] = {}  # two threads that read the same lines keep the same


def _recall(path: Path | None) -> dict[bytes, bytes]:
    """The lines of the memory by key; none if it is not the user's alone, or not there."""
    if not path:
        return {}
    with _opened(path) as descriptor:
        if descriptor is None:
            return {}
        facts, last = os.fstat(descriptor), _recalled.get(path, _Recalled())
        file = (facts.st_dev, facts.st_ino)
        if last.file != file or last.end > facts.st_size:
            last = _Recalled(file)
        data = os.pread(descriptor, facts.st_size - last.end, last.end)
    whole = data[: data.rfind(b"\n") + 1]
    lines = (line.rpartition(b" ") for line in whole.split(b"\n"))
    last.known.update((key, value) for key, _, value in lines)
    _recalled[path] = replace(last, end=last.end + len(whole))
    return last.known


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """The memory's descriptor; None where it has to begin anew."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        facts = os.fstat(descriptor)
        usable = _is_own(facts) and facts.st_size <= LIMIT
        if not usable:
            log.warning("%s: not this user's alone, or too large; it begins anew", path)
        yield descriptor if usable else None
    finally:
        os.close(descriptor)


def _is_own(facts: os.stat_result) -> bool:
    others = stat.S_IWGRP | stat.S_IWOTH
    own = facts.st_uid == os.geteuid() and not facts.st_mode & others
    return own and stat.S_ISREG(facts.st_mode)


def _keep(path: Path | None, lines: Sequence[bytes]) -> None:
    """Add lines to the memory; where that cannot be, files are read again, and nothing else."""
    if not path or not lines:
        return
    new = b"".join(lines)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(path) as descriptor:
            size = LIMIT if descriptor is None else os.fstat(descriptor).st_size
            if size + len(new) <= LIMIT:
                _append(path, new)
                return
            half, start = b"", max(0, size - LIMIT // 2)
            if descriptor is not None:
                half = os.pread(descriptor, LIMIT // 2, start).partition(b"\n")[2]
        _replace(path, half + new)
    except OSError as error:
        log.info("%s: %s; files will be checked again", path, error.strerror)


def _append(path: Path, data: bytes) -> None:
    """One write at the end: lines of two processes do not mix, and a torn one does not count."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if _is_own(os.fstat(descriptor)):
            os.write(descriptor, data)
    finally:
        os.close(descriptor)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)

"""Remembering the digests of files on this machine, so that each file is read once to check it.

A file is identified by its device, inode, size, and its times of modification and of change, in
nanoseconds. Somebody who alters a file can set back its modification time, but only the system sets
the time of change. The digests are kept in one small file, the memory, which only the user can
write. If it or one of its lines is lost, files are read again. A process reads the memory once, and
later only lines that were added.
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

LIMIT = 1 << 24  # bytes of the memory: 90,000 files, three times as many as a manifest can name
GRANULARITY = 2_000_000_000  # nanoseconds: FAT has the coarsest clock of all file systems
_READERS = 8
_DIGEST = re.compile(rb"([0-9a-f]{32}(?:[0-9a-f]{32})?):([0-9a-f]{8})")

log = logging.getLogger(__name__)


def check(files: Iterable[tuple[int, Path, str]], *, anew: bool = False) -> None:
    """Check the SHA-256 of open files. A file whose digest is remembered is not read.

    Args:
        files: For each file, its descriptor, its path for messages, and its expected SHA-256 in
            hexadecimal.
        anew: Whether to read all files, also remembered ones.

    Raises:
        IntegrityError: a file has another SHA-256; the message names the file.
    """
    files = list(files)
    actual = digests([descriptor for descriptor, _, _ in files], anew=anew)
    for (_, path, expected), digest in zip(files, actual, strict=True):
        if digest != expected:
            raise IntegrityError(f"{path}: its SHA-256 is not the manifest's")


def is_sound(path: Path, size: int, sha256: str) -> bool:
    """Whether a regular file exists and has this size and SHA-256."""
    try:
        descriptor = open_regular(path)
    except StoreError:
        return False
    try:
        return os.fstat(descriptor).st_size == size and digest(descriptor) == sha256
    finally:
        os.close(descriptor)


def digest(descriptor: int, algorithm: Algorithm = "sha256") -> str:
    """The digest of an open file, in hexadecimal. A remembered file is not read."""
    return digests([descriptor], algorithm)[0]


def digests(
    descriptors: Sequence[int], algorithm: Algorithm = "sha256", *, anew: bool = False
) -> list[str]:
    """The digests of open files. Files that are not remembered are read in parallel.

    Args:
        descriptors: The open files.
        algorithm: The digest's algorithm.
        anew: Whether to read all files, also remembered ones.

    Returns:
        The digests in hexadecimal, in the order of `descriptors`.
    """
    memory = _path()
    known = {} if anew else _recall(memory)
    values = [_value(known, _key(os.fstat(file), algorithm)) for file in descriptors]
    new = [position for position, value in enumerate(values) if value is None]
    read = partial(_read, algorithm=algorithm)
    lines = []
    try:
        parts = ordered_map(read, [descriptors[i] for i in new], workers=_READERS)
        for position, (value, key) in zip(new, parts, strict=True):
            values[position] = value
            if key:
                lines.append(_line(key, value))
    finally:
        _keep(memory, lines)
    return [value for value in values if value is not None]


def remember(descriptor: int, before: os.stat_result, started: int, sha256: str) -> None:
    """Remember the SHA-256 of an open file that the caller has read.

    Args:
        descriptor: The file.
        before: The result of `fstat` before the file was read.
        started: `time.time_ns()` at that moment.
        sha256: The SHA-256 of the bytes that were read, in hexadecimal.
    """
    if key := _settled(before, os.fstat(descriptor), started, "sha256"):
        _keep(_path(), [_line(key, sha256)])


def cache_directory() -> Path:
    """The directory of files that can be made again: `$CRYOBASE_CACHE`, else the user's cache.

    Raises:
        RuntimeError: the user has no home directory.
    """
    own = os.environ.get("CRYOBASE_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cryobase"


def _read(descriptor: int, *, algorithm: Algorithm) -> tuple[str, bytes | None]:
    """A file's digest, and its key in the memory; None if it must not be remembered."""
    before, started = os.fstat(descriptor), time.time_ns()
    value = digest_of(descriptor, algorithm)
    return value, _settled(before, os.fstat(descriptor), started, algorithm)


def _settled(
    before: os.stat_result, after: os.stat_result, started: int, algorithm: Algorithm
) -> bytes | None:
    """The key of a file; None if it changed while it was read, or shortly before.

    A second change within one tick of the clock would not change the times, so it would not be
    noticed (compare Git's "racy" entries).
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
    """The digest under a key, if its line's checksum is right."""
    match = _DIGEST.fullmatch(known.get(key, b""))
    if match and int(match[2], 16) == zlib.crc32(key + match[1]):
        return match[1].decode()
    return None


def _path() -> Path | None:
    """The memory's path; None without a home directory. Users may share the cache directory."""
    try:
        return cache_directory() / f"verified-{os.geteuid()}"
    except RuntimeError:
        return None


@dataclass(frozen=True)
class _Recalled:
    """The part of a memory that this process has read.

    Attributes:
        file: Device and inode of the memory.
        end: Bytes read so far.
        known: The lines read so far, by key.
    """

    file: tuple[int, int] | None = None
    end: int = 0
    known: dict[bytes, bytes] = field(default_factory=dict)


_recalled: dict[Path, _Recalled] = {}  # needs no lock: two threads would store equal lines


def _recall(path: Path | None) -> dict[bytes, bytes]:
    """The lines of the memory by key; empty if it is missing or not usable."""
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
    """Yield the memory's descriptor; None if a new memory has to be made."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        facts = os.fstat(descriptor)
        usable = _is_own(facts) and facts.st_size <= LIMIT
        if not usable:
            log.warning("%s: others can write it, or it is too large; it is replaced", path)
        yield descriptor if usable else None
    finally:
        os.close(descriptor)


def _is_own(facts: os.stat_result) -> bool:
    others = stat.S_IWGRP | stat.S_IWOTH
    own = facts.st_uid == os.geteuid() and not facts.st_mode & others
    return own and stat.S_ISREG(facts.st_mode)


def _keep(path: Path | None, lines: Sequence[bytes]) -> None:
    """Add lines to the memory. If that fails, files will be read again; nothing else happens."""
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
    """Append with a single write, so that lines of two processes do not mix.

    An incomplete line is ignored later, because its checksum is wrong.
    """
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

"""Unpacking archives that may be hostile: regular files only, and all checks before any write.

The standard library's extractors follow links, overwrite files, and read headers of any size into
memory, and their filters could be bypassed (CVE-2025-4517). Here a first pass over all members
checks the archive; a second pass writes files.
"""

import gzip
import hashlib
import os
import re
import shlex
import shutil
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from cryobase.stages.errors import DataError
from cryobase.stages.received import open_data
from cryobase.stages.sources import left_out, tar, zip
from cryobase.stages.sources.formats import UnsupportedArchiveError, describe
from cryobase.stages.sources.left_out import Tally
from cryobase.store.examples import encode_id

MAX_MEMBERS = 3_000_000
MAX_UNPACKED = 1 << 40
MAX_RATIO = 200  # unpacked bytes per packed byte, beyond SLACK
SLACK = 16 << 20
MAX_NAME = 1024
MAX_DEPTH = 32
BLOCK = 1 << 20
DRIVE = re.compile(r"\A[A-Za-z]:")


class HostileArchiveError(DataError):
    """An archive with members that datasets do not need. No file was written."""


@dataclass(frozen=True)
class Member:
    """A regular file in an archive."""

    name: str
    size: int
    content: IO[bytes]


def unpack(archive: Path, directory: Path, leaves: Tally) -> int:
    """Unpack a .tar, .tar.gz or .zip into an empty directory. Returns the number of files.

    Files that are not images are not written; `leaves` records them.

    Raises:
        HostileArchiveError: a name leads out of the directory, a member is not a regular file, two
            names collide, or a limit is exceeded. No file was written.
        DataError: the archive is damaged or of another kind, or the disk has too little space.
    """
    check = _Checker(archive, archive.stat().st_size)
    with _members(archive) as members:
        for member in members:
            check.add(member.name, member.size)
    if check.unpacked > (free := shutil.disk_usage(directory.parent).free):
        raise DataError(
            f"{directory}: {free:,} bytes free, {check.unpacked:,} to unpack; make room"
        )
    count = 0
    with _members(archive) as members:
        for member in members:
            parts, start = split_name(archive, member.name), _Start(member)
            if where := _left_out(parts, start):
                leaves.add_once(*where)
            else:
                _write(member, start.read(), directory.joinpath(*parts))
                count += 1
    return count


def check_kind(archive: Path) -> None:
    """Open an archive and read no member.

    Raises:
        UnsupportedArchiveError: it is of another kind.
        DataError: it is damaged.
    """
    with _members(archive):
        pass


class _Start:
    """The first bytes of a member, kept because a stream can be read only once."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._bytes: bytes | None = None

    def read(self) -> bytes:
        if self._bytes is None:
            self._bytes = self._member.content.read(min(left_out.BEGINNING, self._member.size))
        return self._bytes


def _left_out(parts: list[str], start: _Start) -> tuple[str, str] | None:
    """(path of a left-out folder or file, reason); None if the member may be an image."""
    for depth, folder in enumerate(parts[:-1], 1):
        if reason := left_out.of_folder(folder):
            return encode_id("/".join(parts[:depth])).decode() + "/", reason
    if reason := left_out.of_file(parts[-1], start.read):
        return encode_id("/".join(parts)).decode(), reason
    return None


def split_name(archive: Path, name: str) -> list[str]:
    """The parts of a member's name, after checking that it is safe.

    Raises:
        HostileArchiveError: the name is absolute, leads upwards, has a drive, a backslash or a
            control character, or is too long.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    unprintable = any(ord(character) < 0x20 or ord(character) == 0x7F for character in name)
    if name.startswith("/") or ".." in parts or DRIVE.match(name) or "\\" in name or unprintable:
        raise HostileArchiveError(
            f"{archive}: member {name[:100]!r} leads out; get another archive"
        )
    encoded = [len(os.fsencode(part)) for part in parts]
    if not parts or max(encoded) > 255 or sum(encoded) > MAX_NAME or len(parts) > MAX_DEPTH:
        raise HostileArchiveError(
            f"{archive}: member {name[:100]!r} has an unusable name; get another archive"
        )
    return parts


class _Checker:
    """The first pass: counts sizes and compares names."""

    def __init__(self, archive: Path, packed: int) -> None:
        self.unpacked = 0
        self._archive = archive
        self._limit = min(MAX_UNPACKED, MAX_RATIO * packed + SLACK)
        self._files: set[bytes] = set()
        self._folders: dict[bytes, bytes] = {}

    def add(self, name: str, size: int) -> None:
        self.unpacked += size
        if self.unpacked > self._limit:
            raise HostileArchiveError(
                f"{self._archive}: unpacks to more than {self._limit:,} bytes, which images do not;"
                " get another archive"
            )
        parts = split_name(self._archive, name)
        folded, exact = (_key(form) for form in (_fold("/".join(parts)), "/".join(parts)))
        if len(self._files) >= MAX_MEMBERS:
            raise HostileArchiveError(
                f"{self._archive}: more than {MAX_MEMBERS:,} files; unpack it by hand and use"
                " download.source: folder"
            )
        if folded in self._files or folded in self._folders:
            self._collide(name)
        self._files.add(folded)
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            folded, exact = _key(_fold(folder)), _key(folder)
            if folded in self._files or self._folders.setdefault(folded, exact) != exact:
                self._collide(name)

    def _collide(self, name: str) -> None:
        raise HostileArchiveError(
            f"{self._archive}: member {name[:100]!r} collides with another one that differs at most"
            " in case or accents; get another archive"
        )


def _fold(name: str) -> str:
    """The form in which names are equal that some file systems treat as equal.

    Such file systems ignore case, and Unicode composition.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _key(name: str) -> bytes:
    """16 bytes instead of a name: an archive may have millions."""
    return hashlib.blake2b(os.fsencode(name), digest_size=16).digest()


def _write(member: Member, start: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
        file.write(start)
        left = member.size - len(start)
        if not start and left:
            raise EOFError(f"{member.name} ends early")
        while left:
            block = member.content.read(min(BLOCK, left))
            if not block:
                raise EOFError(f"{member.name} ends early")
            file.write(block)
            left -= len(block)
        if member.content.read(1):
            raise ValueError(f"{member.name} is longer than declared")


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[Member]]:
    """Yield the regular files of an archive. Read each before you take the next one.

    Raises:
        DataError: the archive is damaged, cannot be read, or is of a kind that is not read.
    """
    try:
        with os.fdopen(open_data(archive), "rb") as file, _open(archive, file) as members:
            yield members
    except UnsupportedArchiveError as error:
        raise UnsupportedArchiveError(f"{archive}: {error}") from None
    except DataError:
        raise
    except OSError as error:
        if error.errno is None:  # gzip raises this for a damaged file
            raise _damaged(archive, error) from None
        raise DataError(
            f"{archive}: cannot be unpacked ({os.strerror(error.errno)}); make room, or check"
            " permissions"
        ) from None
    except Exception as error:  # noqa: BLE001 - decompressors raise anything on hostile bytes
        raise _damaged(archive, error) from None


def _damaged(archive: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return DataError(f"{archive}: damaged archive ({reason}); fetch it again")


def _open(archive: Path, file: IO[bytes]) -> AbstractContextManager[Iterator[Member]]:
    start = file.read(512)
    file.seek(0)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _open_zip(archive, file)
    if start.startswith(b"\x1f\x8b"):
        inner = cast("IO[bytes]", gzip.GzipFile(fileobj=file))
        first = inner.read(tar.BLOCK)
        if not tar.is_header(first) and (any(first) or len(first) < tar.BLOCK):
            content = archive.with_name(f"{archive.name}.content")
            raise UnsupportedArchiveError(
                f"gzip, and in it what is {describe(first, content)}, after `gunzip -c"
                f" {shlex.quote(str(archive))} > {shlex.quote(str(content))}`"
            )
        inner.seek(0)
        return _open_tar(archive, inner)
    if start[257:262] == b"ustar" or tar.is_header(start):
        return _open_tar(archive, file)
    try:
        zip.ZipReader(file, archive)
    except UnsupportedArchiveError:  # the last part of a split zip begins with anything
        raise
    except ValueError:
        pass
    raise UnsupportedArchiveError(describe(start, archive))


@contextmanager
def _open_tar(archive: Path, stream: IO[bytes]) -> Iterator[Iterator[Member]]:
    def members() -> Iterator[Member]:
        for entry in tar.read(stream):
            if entry.kind not in tar.REGULAR:
                raise _no_file(archive, entry.name)
            yield Member(entry.name, entry.size, entry.content)

    yield members()


@contextmanager
def _open_zip(archive: Path, file: IO[bytes]) -> Iterator[Iterator[Member]]:
    opened = zip.ZipReader(file, archive)

    def members() -> Iterator[Member]:
        for entry in opened.entries():
            if stat.S_IFMT(entry.mode) not in (0, stat.S_IFREG):
                raise _no_file(archive, entry.name)
            yield Member(entry.name, entry.size, opened.open(entry))

    yield members()


def _no_file(archive: Path, name: str) -> HostileArchiveError:
    return HostileArchiveError(
        f"{archive}: member {name[:100]!r} is a link or device, not a file; get another archive"
    )

"""Reading tar streams (POSIX ustar and pax, GNU long names) with bounded memory.

The standard library's `tarfile` reads a header of any size into memory, and could loop forever on a
header of negative size (CVE-2025-8194).
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, cast

from cryobase.stages.sources.formats import UnsupportedArchiveError, refuse_folders

BLOCK = 512
MAX_EXTENSION = 1 << 16  # bytes of a long name or a pax header
MAX_EXTENSIONS = 8  # in a row
REGULAR = (b"0", b"\0", b"7")
FOLDER = b"5"
LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL = EXTENSIONS = b"L", b"K", b"x", b"g"
SPARSE, LABEL = b"S", b"V"
UNSUPPORTED = {
    SPARSE: "is a sparse file; pack it without --sparse, and pin the new sha256",
    LABEL: "is a volume's label with content; pack the files without it",
    b"M": "begins in another volume; join the volumes to one archive",
    b"D": "is a folder of an incremental backup; pack it as a full one, and pin the new sha256",
    b"X": "has an extended header of Solaris; pack it with GNU tar, and pin the new sha256",
    b"A": "is an access list of Solaris; pack it with GNU tar, and pin the new sha256",
}
COPY = 1 << 20
MAX_HEADERS = 10_000_000
MAX_PADDING = 16 << 20


@dataclass(frozen=True)
class Entry:
    """A member. Read its `content` before you take the next member."""

    name: str
    kind: bytes
    size: int
    content: IO[bytes]


def is_header(block: bytes) -> bool:
    """Whether a block is a tar header with a valid checksum."""
    if len(block) < BLOCK or not any(block):
        return False
    unsigned = sum(block[:148]) + 8 * 0x20 + sum(block[156:BLOCK])
    try:
        return _number(block[148:156]) == unsigned
    except ValueError:
        return False


def read(stream: IO[bytes]) -> Iterator[Entry]:
    """All members except folders.

    Raises:
        ValueError: the stream is not a tar, or is damaged.
        UnsupportedArchiveError: a member is of a kind that is not read.
        EOFError: the stream ends too early.
    """
    extensions, headers, folders = _Extensions(), 0, 0
    while any(block := _exactly(stream, BLOCK)):
        headers += 1
        if not is_header(block) or headers > MAX_HEADERS:
            raise ValueError("a header's checksum is wrong, or there are too many")
        kind, size = block[156:157], _number(block[124:136])
        if kind in EXTENSIONS:
            data = _exactly(stream, size + -size % BLOCK, MAX_EXTENSION)[:size]
            extensions.take(kind, data)
            continue
        name = extensions.name or _name(block)
        size = size if extensions.size is None else extensions.size
        extensions = _Extensions()
        if kind == FOLDER or name.endswith("/"):
            if size:
                raise ValueError("a folder has content")
            folders += 1
            refuse_folders(folders, headers - folders)
            continue
        if kind == LABEL and not size:
            continue
        if kind in UNSUPPORTED:
            raise UnsupportedArchiveError(f"member {name[:100]!r} {UNSUPPORTED[kind]}")
        content = _Content(stream, size)
        yield Entry(name, kind, size, cast("IO[bytes]", content))
        content.skip()
    _to_the_end(stream)


class _Extensions:
    """Name and size of a member from the extended headers before its own header."""

    def __init__(self) -> None:
        self.name = ""
        self.size: int | None = None
        self._taken = 0

    def take(self, kind: bytes, data: bytes) -> None:
        self._taken += 1
        if self._taken > MAX_EXTENSIONS:
            raise ValueError("too many extended headers in a row")
        if kind == LONG_NAME:
            self.name = _text(data.split(b"\0", 1)[0])
        elif kind in (PAX, PAX_GLOBAL):
            records = dict(_records(data))
            if any(key.startswith(b"GNU.sparse") for key in records):
                raise UnsupportedArchiveError(f"a member {UNSUPPORTED[SPARSE]}")
            if kind == PAX_GLOBAL:  # comments; one name or size for all members makes no sense
                return
            self.name = _text(records.get(b"path", b"")) or self.name
            if (size := records.get(b"size")) is not None:
                if not re.fullmatch(rb"[0-9]{1,19}", size):
                    raise ValueError("a size is no number")
                self.size = int(size)


class _Content(io.RawIOBase):
    """The bytes of one member within the stream."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._left = size
        self._padding = -size % BLOCK

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        wanted = min(self._left if size < 0 else size, self._left, COPY)
        data = _exactly(self._stream, wanted)
        self._left -= len(data)
        return data

    def skip(self) -> None:
        while self._left:
            self.read(min(COPY, self._left))
        _exactly(self._stream, self._padding)


def _exactly(stream: IO[bytes], size: int, limit: int = COPY) -> bytes:
    if size > limit:
        raise ValueError(f"a header of {size:,} bytes")
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("the archive is cut off")
    return data


def _to_the_end(stream: IO[bytes]) -> None:
    """Read the bytes after the tar's end, so that the decompressor checks its checksum."""
    padding = 0
    while data := stream.read(COPY):
        padding += len(data)
        if padding > MAX_PADDING:
            raise ValueError(f"more than {MAX_PADDING:,} bytes after the end")


def _number(field: bytes) -> int:
    """An octal field, or GNU's base 256; never negative."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise ValueError("a negative number in a header")
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise ValueError("a number in a header is not a number")
    return int(digits or b"0", 8)


def _name(block: bytes) -> str:
    """The name of a ustar header, with its prefix."""
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The `length key=value` records of a pax header."""
    position = 0
    while position < len(data):
        match = re.compile(rb"([0-9]{1,5}) ([^=]{1,255})=").match(data, position)
        if not match or not match.end() < position + int(match[1]) <= len(data):
            raise ValueError("a pax header is damaged")
        end = position + int(match[1])
        yield match[2], data[match.end() : end - 1]
        position = end


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")

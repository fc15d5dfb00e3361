"""Reading zip files (PKWARE's APPNOTE 6.3.10) entry by entry, with bounded memory.

The standard library's `zipfile` is not used for three reasons. It makes an object of each entry, so
a directory of 256 MB takes 3 GB. It reports archives that it cannot read as damaged. It gives an
LZMA member as much memory as the member requests.
"""

import bz2
import io
import lzma
import os
import shlex
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from cryobase.stages.sources.formats import UnsupportedArchiveError, joined, refuse_folders
from cryobase.stages.stored_zip import END, ENTRY, LOCAL

MAX_DIRECTORY = 256 << 20  # bytes
MAX_DICTIONARY = 64 << 20  # bytes that LZMA looks back
PIECE = 1 << 16
LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
NEEDS_64_BITS = 0xFFFFFFFF
ENCRYPTED, PATCHED, STRONGLY, UTF8, MASKED = 1, 1 << 5, 1 << 6, 1 << 11, 1 << 13
UNIX, MACOS = 3, 19
SIZES, UNICODE_PATH, AES = 0x0001, 0x7075, 0x9901  # extra fields
STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14
METHODS = {
    1: "Shrink", 2: "Reduce", 3: "Reduce", 4: "Reduce", 5: "Reduce", 6: "Implode", 9: "Deflate64",
    10: "PKWARE's Implode", 16: "CMPSC", 18: "TERSE", 19: "LZ77", 20: "Zstandard",
    93: "Zstandard", 94: "MP3", 95: "XZ", 96: "JPEG", 97: "WavPack", 98: "PPMd", 99: "AES",
}  # fmt: skip


class Entry(NamedTuple):
    """A file in the archive, with the fields of its directory entry."""

    name: str
    size: int
    mode: int  # Unix mode; 0 if the archive does not have it
    raw_name: bytes
    packed: int
    method: int
    crc: int
    offset: int


class ZipReader:
    """An open zip file."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        """Find the directory; `path` is for messages.

        Raises:
            ValueError: the directory is missing, or not at the stated place.
            UnsupportedArchiveError: the directory is too large, or the archive is split.
        """
        self._path = path
        self._descriptor = file.fileno()
        self._size = os.fstat(self._descriptor).st_size
        self._start, self._end, self._shift = self._find()

    def entries(self) -> Iterator[Entry]:
        """All files, in the directory's order.

        Raises:
            ValueError: the directory is damaged.
            UnsupportedArchiveError: a file is encrypted, or compressed in a way that is not read.
        """
        directory = _Window(self._descriptor, self._start, self._end)
        folders = files = total = 0
        while directory.left:
            fields = ENTRY.unpack(directory.take(ENTRY.size))
            if fields[0] != b"PK\1\2":
                raise ValueError("an entry of the directory is damaged")
            raw, extra, _ = (directory.take(length) for length in fields[10:13])
            if raw.endswith(b"/"):
                folders += 1
            else:
                files += 1
                entry = _entry(fields, raw, extra, self._path)
                total += LOCAL.size + len(raw) + entry.packed
                if total > self._size:
                    raise ValueError("members overlap")
                yield entry
            refuse_folders(folders, files)

    def open(self, entry: Entry) -> IO[bytes]:
        """The bytes of a file, as a stream that checks their CRC-32.

        Raises:
            ValueError: the file is not where the directory says.
        """
        offset = entry.offset + self._shift
        local = LOCAL.unpack(_exactly(self._descriptor, offset, LOCAL.size, self._start))
        name = _exactly(self._descriptor, offset + LOCAL.size, local[9], self._start)
        if local[0] != b"PK\3\4" or name != entry.raw_name:
            raise ValueError(f"{entry.name[:80]!r} is not where the directory says")
        start = offset + LOCAL.size + local[9] + local[10]
        window = _Window(self._descriptor, start, start + entry.packed)
        if start + entry.packed > self._start:
            raise ValueError(f"{entry.name[:80]!r} reaches into the directory")
        return cast("IO[bytes]", _Content(entry, window))

    def _find(self) -> tuple[int, int, int]:
        """(begin of the directory, end of the directory, number to add to all offsets)."""
        beginning = max(0, self._size - END.size - 0xFFFF)
        tail = os.pread(self._descriptor, self._size - beginning, beginning)
        at = tail.rfind(b"PK\5\6")
        if at < 0 or at + END.size > len(tail):
            raise ValueError("the end of the directory is missing")
        _, disk, first, _, _, size, offset, _ = END.unpack_from(tail, at)
        end = beginning + at
        if at >= LOCATOR.size and tail[at - LOCATOR.size : at].startswith(b"PK\6\7"):
            _, _, place, disks = LOCATOR.unpack_from(tail, at - LOCATOR.size)
            if disks > 1:
                raise UnsupportedArchiveError(f"a part of a split zip; {joined(self._path)}")
            end -= LOCATOR.size
            record = os.pread(self._descriptor, END64.size, min(place, self._size))
            if len(record) == END64.size and record.startswith(b"PK\6\6"):
                end = place
            else:  # there are bytes before the archive, so offsets are shifted
                end -= END64.size
                record = _exactly(self._descriptor, max(0, end), END64.size, self._size)
            signature, *_, disk, first, _, _, size, offset = END64.unpack(record)
            if signature != b"PK\6\6":
                raise ValueError("the end of the directory is damaged")
        if {disk, first} - {0, 0xFFFF, NEEDS_64_BITS}:
            raise UnsupportedArchiveError(f"a part of a split zip; {joined(self._path)}")
        if size > MAX_DIRECTORY:
            raise UnsupportedArchiveError(
                f"a central directory of {size:,} bytes, at most {MAX_DIRECTORY:,} are read; unpack"
                " it by hand and use download.source: folder"
            )
        shift = end - size - offset
        if shift < 0 or end < size:
            raise ValueError("the directory is not where it says")
        return end - size, end, shift


def _entry(fields: tuple[Any, ...], raw: bytes, extra: bytes, archive: Path) -> Entry:
    made, flags, method, crc, packed, size = (fields[place] for place in (1, 3, 4, 7, 8, 9))
    offset, extras = fields[16], dict(_extra_fields(extra))
    wide = _Wide(extras.get(SIZES, b""))
    size, packed, offset = wide(size), wide(packed), wide(offset)
    name = _name(raw, flags, made >> 8, extras.get(UNICODE_PATH, b""))
    mode = fields[15] >> 16
    shown = f"member {name[:100]!r}"
    if flags & (ENCRYPTED | STRONGLY | MASKED) or AES in extras:
        raise UnsupportedArchiveError(
            f"{shown} is encrypted; decrypt the archive, and pin the new sha256"
        )
    if flags & PATCHED:
        raise UnsupportedArchiveError(f"{shown} is a patch to another file; get the whole archive")
    if method not in (STORED, DEFLATED, BZIP2, LZMA):
        by = METHODS.get(method, f"method {method}")
        raise UnsupportedArchiveError(
            f"{shown} is compressed by {by}, which is not read here; unpack the archive with `7z x"
            f" {shlex.quote(str(archive))}` and use download.source: folder"
        )
    return Entry(name, size, mode, raw, packed, method, crc, offset)


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 4 <= len(extra):  # some writers leave a few bytes at the end
        kind, length = struct.unpack_from("<HH", extra, position)
        if position + 4 + length > len(extra):
            raise ValueError("an extra field is damaged")
        yield kind, extra[position + 4 : position + 4 + length]
        position += 4 + length


class _Wide:
    """Replaces a 32-bit number whose bits are all set by the 64 bits in the extra field (4.5.3)."""

    def __init__(self, field: bytes) -> None:
        self._field = field

    def __call__(self, number: int) -> int:
        if number != NEEDS_64_BITS:
            return number
        if len(self._field) < 8:
            raise ValueError("the 64 bits of a size are missing")
        (wide,) = struct.unpack_from("<Q", self._field)
        self._field = self._field[8:]
        return int(wide)


def _name(raw: bytes, flags: int, system: int, unicode_path: bytes) -> str:
    """A name, decoded as UTF-8 if the archive says so (4.4.4, 4.6.9), else by DOS' code page 437.

    Programs on Unix and macOS write UTF-8 without saying so, so it is tried for them too.
    """
    if len(unicode_path) > 5 and unicode_path[0] == 1:
        (crc,) = struct.unpack_from("<L", unicode_path, 1)
        if crc == zlib.crc32(raw):  # otherwise the file was renamed later
            return unicode_path[5:].decode("utf-8", "surrogateescape")
    if flags & UTF8:
        return raw.decode("utf-8", "surrogateescape")
    if system in (UNIX, MACOS):
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            pass
    return raw.decode("cp437")


class _Window:
    """The bytes of a file from `start` to `end`, read in pieces."""

    def __init__(self, descriptor: int, start: int, end: int) -> None:
        self._descriptor = descriptor
        self._at, self._end = start, end
        self._buffer, self._used = b"", 0

    @property
    def left(self) -> int:
        return self._end - self._at + len(self._buffer) - self._used

    def take(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            EOFError: there are fewer.
        """
        if self._used + size > len(self._buffer):
            rest = self._buffer[self._used :]
            more = min(max(PIECE, size), self._end - self._at)
            read = os.pread(self._descriptor, more, self._at)
            self._at += len(read)
            self._buffer, self._used = rest + read, 0
            if size > len(self._buffer):
                raise EOFError("the archive is cut off")
        self._used += size
        return self._buffer[self._used - size : self._used]


class _Content(io.RawIOBase):
    """The bytes of one file, decompressed on demand."""

    def __init__(self, entry: Entry, packed: _Window) -> None:
        self._entry = entry
        self._packed = packed
        self._unpack = _unpacker(entry, packed)
        self._crc = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; `size` is required. At the end b"", after a check of the CRC-32.

        Raises:
            ValueError: the CRC-32 is wrong.
        """
        if size == 0:
            return b""
        data = self._next(size)
        self._crc = zlib.crc32(data, self._crc)
        if not data and self._crc != self._entry.crc:
            raise ValueError(f"{self._entry.name[:80]!r} does not have its checksum")
        return data

    def _next(self, size: int) -> bytes:
        if self._unpack is None:
            return self._packed.take(min(size, self._packed.left))
        unpacker = self._unpack
        while not unpacker.eof:
            rest = getattr(unpacker, "unconsumed_tail", b"")
            hungry = not rest and getattr(unpacker, "needs_input", True)
            more = self._packed.take(min(PIECE, self._packed.left)) if hungry else b""
            data: bytes = unpacker.decompress(rest + more, size)
            if data:
                return data
            if hungry and not more:
                if self._entry.method == LZMA:  # the end mark of LZMA is optional
                    return b""
                raise EOFError(f"{self._entry.name[:80]!r} ends early")
        return b""


def _unpacker(entry: Entry, packed: _Window) -> Any:
    """An object with `decompress` and `eof`; None for a file that is not compressed."""
    if entry.method == STORED:
        return None
    if entry.method == DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS)
    if entry.method == BZIP2:
        return bz2.BZ2Decompressor()
    _, length = struct.unpack("<HH", packed.take(4))  # 5.8.8
    properties = packed.take(length)
    if length != 5 or properties[0] >= 9 * 5 * 5:
        raise ValueError(f"{entry.name[:80]!r} has no properties of LZMA")
    (dictionary,) = struct.unpack_from("<L", properties, 1)
    if dictionary > MAX_DICTIONARY:
        raise UnsupportedArchiveError(
            f"member {entry.name[:100]!r} needs {dictionary:,} bytes of memory, at most"
            f" {MAX_DICTIONARY:,} are given; unpack it by hand and use download.source: folder"
        )
    lc, lp, pb = properties[0] % 9, properties[0] // 9 % 5, properties[0] // 45
    chain = [{"id": lzma.FILTER_LZMA1, "dict_size": dictionary, "lc": lc, "lp": lp, "pb": pb}]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=chain)


def _exactly(descriptor: int, offset: int, size: int, end: int) -> bytes:
    """`size` bytes from `offset` on, which must be before `end`."""
    if not 0 <= offset <= end - size:
        raise ValueError("a record reaches beyond its place")
    data = os.pread(descriptor, size, offset)
    if len(data) != size:
        raise EOFError("the archive is cut off")
    return data

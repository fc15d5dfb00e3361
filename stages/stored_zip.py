"""Reading zip files as numpy, Keras and PyTorch write them, and the arrays in numpy's files.

Members must be stored without compression and must not overlap, so no member is larger than the
file. The general readers (`zipfile`, `numpy.load`) are too trusting for files from others: they
believe sizes, decompress, and evaluate a header as Python. Here both formats are a fixed grammar.
"""

import math
import os
import re
import struct
import zlib
from collections.abc import Collection, Mapping
from io import BufferedIOBase
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.errors import DataError

# https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16
LOCAL = struct.Struct("<4s5H3L2H")
ENTRY = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
END64_SIZE = 76  # bytes of two zip64 records; PyTorch writes them although no file needs them
ENCRYPTED = 1
STORED = 0
BLOCK = 1 << 20
MAX_DIRECTORY = 1 << 22  # bytes; a member takes about 60

# https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, version 1.0
NPY = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '([<|](?:[a-z]\d|[SU][1-9]\d{0,2}))', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}, ?){0,31}(?:\d{1,18})?)\), \} *\n",
    re.DOTALL,
)
NPY_PREFIX = 10  # bytes before the header's text
MAX_NPY_HEADER = 1 << 10


class StoredMember(NamedTuple):
    """The position of a member's bytes in the zip file, and their CRC-32."""

    offset: int
    size: int
    crc: int


def members(file: BufferedIOBase) -> dict[str, StoredMember]:
    """The members of a zip file by name.

    Raises:
        DataError: it is not a zip file, or members are compressed, encrypted, overlapping, outside
            the file, or have the same name.
    """
    size = file.seek(0, os.SEEK_END)
    end = max(0, size - END.size)
    signature, _, _, _, count, length, start, comment = END.unpack(_at(file, end, END.size))
    if signature != b"PK\5\6" or comment:
        raise DataError("not a zip file, or a truncated one")
    if length > MAX_DIRECTORY or start + length not in (end, end - END64_SIZE):
        raise DataError(f"a zip directory of {length:,} bytes at {start:,} of {size:,}")
    found = _entries(_at(file, start, length), count)
    if len(found) != count:
        raise DataError("two members have the same name")
    return _placed(file, found, start)


def _entries(directory: bytes, count: int) -> dict[str, tuple[int, int, int]]:
    """For each member in the zip directory: where it begins, its size, its CRC-32."""
    found, position = {}, 0
    for _ in range(count):
        if position + ENTRY.size > len(directory):
            raise DataError(f"a zip directory of fewer than {count} members")
        fields = ENTRY.unpack_from(directory, position)
        signature, _, _, flags, method, _, _, crc, packed, size = fields[:10]
        *lengths, _, _, _, start = fields[10:]
        position += ENTRY.size
        name = directory[position : position + lengths[0]].decode("utf-8", "backslashreplace")
        if signature != b"PK\1\2":
            raise DataError(f"a zip directory of other than {count} members")
        if method != STORED or flags & ENCRYPTED or packed != size:
            raise DataError(f"{name!r:.80} is compressed or encrypted, expected stored members")
        found[name] = start, size, crc
        position += sum(lengths)
    if position != len(directory):
        raise DataError(f"a zip directory of other than {count} members")
    return found


def _placed(
    file: BufferedIOBase, entries: Mapping[str, tuple[int, int, int]], end: int
) -> dict[str, StoredMember]:
    found, free = {}, 0
    for name, (start, size, crc) in sorted(entries.items(), key=lambda item: item[1]):
        signature, _, flags, method, *_, name_length, extra = LOCAL.unpack(
            _at(file, start, LOCAL.size)
        )
        offset = start + LOCAL.size + name_length + extra
        named = _at(file, start + LOCAL.size, name_length)
        if signature != b"PK\3\4" or method != STORED or flags & ENCRYPTED:
            raise DataError(f"{name!r:.80} does not begin at byte {start:,}")
        if named.decode("utf-8", "backslashreplace") != name:
            raise DataError(f"{name!r:.80} has another name at byte {start:,}")
        if start < free or offset + size > end:
            raise DataError(f"{name!r:.80} overlaps another member or the end")
        found[name] = StoredMember(offset, size, crc)
        free = offset + size
    return {name: found[name] for name in entries}


def read_member(file: BufferedIOBase, name: str, member: StoredMember) -> bytearray:
    """The bytes of a member.

    Raises:
        DataError: the bytes do not have the member's checksum.
    """
    data = bytearray(member.size)
    file.seek(member.offset)
    if file.readinto(data) != member.size or zlib.crc32(data) != member.crc:
        raise DataError(f"{name!r:.80} does not have its checksum")
    return data


def copy_member(file: BufferedIOBase, name: str, member: StoredMember, target: BinaryIO) -> None:
    """Write the bytes of a member to a file.

    Raises:
        DataError: the bytes do not have the member's checksum.
    """
    file.seek(member.offset)
    left, crc = member.size, 0
    while left and (block := file.read(min(left, BLOCK))):
        target.write(block)
        left, crc = left - len(block), zlib.crc32(block, crc)
    if left or crc != member.crc:
        raise DataError(f"{name!r:.80} does not have its checksum")


def read_npz(file: BufferedIOBase, dtypes: Collection[str]) -> dict[str, NDArray[Any]]:
    """The arrays that `numpy.savez` wrote, by name.

    Args:
        file: the archive.
        dtypes: the dtypes that arrays may have, as numpy spells them in a file, such as `<f4`;
            `|S` and `<U` mean bytes and text of any width up to 999.

    Raises:
        DataError: it is not such an archive, or contains anything else.
    """
    arrays = {}
    for name, member in members(file).items():
        key, dot, suffix = name.rpartition(".")
        if dot + suffix != ".npy":
            raise DataError(f"{name!r:.80} is not an array")
        arrays[key] = _array(name, read_member(file, name, member), dtypes)
    return arrays


def _array(name: str, data: bytearray, dtypes: Collection[str]) -> NDArray[Any]:
    header = npy_header(name, bytes(data[:MAX_NPY_HEADER]), len(data), dtypes)
    flat = np.frombuffer(data, header.dtype, offset=header.offset)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


class ArrayHeader(NamedTuple):
    """The header of an array in a member; `offset` is where its values begin in the member."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int


def npy_header(name: str, beginning: bytes, size: int, dtypes: Collection[str]) -> ArrayHeader:
    """The header of an array, checked against the `size` of its member.

    Raises:
        DataError: the member is not an array, has another dtype, or its size does not fit its
            shape.
    """
    header = NPY.match(beginning)
    if header is None or header.end() != NPY_PREFIX + int.from_bytes(header[1], "little"):
        raise DataError(f"{name!r:.80} is not an array")
    spelled, fortran, numbers = (group.decode("ascii") for group in header.group(2, 3, 4))
    if spelled not in dtypes and not (spelled[1] in "SU" and spelled[:2] in dtypes):
        raise DataError(f"{name!r:.80} has the type {spelled}, expected {', '.join(dtypes)}")
    dtype, shape = np.dtype(spelled), tuple(map(int, numbers.replace(",", " ").split()))
    if math.prod(shape) * dtype.itemsize != size - header.end() or max(shape, default=0) > size:
        raise DataError(f"{name!r:.80} has other than the bytes of {shape} values")
    return ArrayHeader(dtype, shape, fortran == "True", header.end())


def _at(file: BufferedIOBase, offset: int, size: int) -> bytes:
    """Bytes of the file, filled with zeros after its end."""
    file.seek(offset)
    return file.read(size).ljust(size, b"\0")

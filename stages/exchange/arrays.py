"""Reading named arrays from a received `.npz` or `.safetensors` file, which may be hostile.

Both formats have a small header and plain bytes. The header is compared with the file's size before
memory is allocated, and arrays are read block by block. Nothing is ever unpickled.
`cryobase.stages.exchange.taken` interprets the arrays.
"""

import math
import os
import zlib
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.errors import DataError
from cryobase.stages.received import open_data
from cryobase.stages.stored_zip import MAX_NPY_HEADER, members, npy_header
from cryobase.store.arrays import DESCRIPTION, SAFETENSORS
from cryobase.store.files import bytes_of, read_into
from cryobase.store.text import parse_json, visible

MAX_HEADER = 1 << 20  # bytes of the header of a safetensors file
MAX_ARRAYS = 4096
MAX_NPZ = (1 << 32) - 1  # larger zip files need the 64-bit form
TEXTS = ("|S", "<U")
NUMBERS = tuple(SAFETENSORS)
OBJECTS = b"'descr': '|O'"
SHAPES = 32  # dimensions that an array may have

_DTYPES = {name: spelled for spelled, name in SAFETENSORS.items()}
_BLOCK = 1 << 20


class Place(NamedTuple):
    """Type, shape and place of an array; `offset` is the byte of its first value."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


class Arrays:
    """The arrays of an open file. They are read on demand.

    Attributes:
        path: The name of the file in messages.
        places: The place of each array, by name.
        description: The JSON text in a file that Cryobase wrote, else None.
    """

    def __init__(
        self, path: Path, descriptor: int, places: Mapping[str, Place], description: bytes | None
    ) -> None:
        self.path, self.places, self.description = path, places, description
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path, shown: Path | None = None) -> Self:
        """Open a file and check its structure.

        Args:
            path: The file.
            shown: The name of the file in messages; None for its path.

        Raises:
            DataError: the file is missing, not a regular file, or of neither format, or its header
                does not match its size.
        """
        descriptor, shown = open_data(path, follow=True), shown or path
        try:
            with open(descriptor, "rb", closefd=False) as file:
                read = _npz if file.read(4) == b"PK\3\4" else _safetensors
                places, description = read(file)
        except DataError as error:
            os.close(descriptor)
            raise DataError(f"{shown}: {error}") from None
        except BaseException:
            os.close(descriptor)
            raise
        return cls(shown, descriptor, places, description)

    def wrong(self, fact: str) -> DataError:
        """An error about this file, for the caller to raise."""
        return DataError(f"{self.path}: {fact}")

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows start to stop of an array along its first axis; by default all.

        Raises:
            IntegrityError: the file became shorter.
        """
        dtype, shape, offset = self.places[name]
        stop = shape[0] if stop is None else min(stop, shape[0])
        values = np.empty((max(0, stop - start), *shape[1:]), dtype)
        row = math.prod(shape[1:]) * dtype.itemsize
        if values.nbytes:
            read_into(self._descriptor, bytes_of(values), offset + start * row, self.path)
        return values

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _npz(file: BufferedReader) -> tuple[dict[str, Place], bytes | None]:
    """The arrays of a file that `numpy.savez` wrote, after a check of their checksums."""
    if (size := file.seek(0, os.SEEK_END)) > MAX_NPZ:
        raise DataError(
            f"{size:,} bytes, at most {MAX_NPZ:,} of an .npz file are read; use safetensors or"
            " Parquet"
        )
    places = {}
    entries = members(file)
    if len(entries) > MAX_ARRAYS:
        raise DataError(f"{len(entries):,} arrays, at most {MAX_ARRAYS:,}")
    for name, member in entries.items():
        key, dot, suffix = name.rpartition(".")
        if dot + suffix != ".npy":
            raise DataError(f"{visible(name)[:80]!r} is no array")
        file.seek(member.offset)
        beginning = file.read(min(member.size, MAX_NPY_HEADER))
        if OBJECTS in beginning:
            raise DataError(
                f"{visible(key)[:80]!r} holds Python objects, which are not read; write texts as"
                " numpy.array(texts, 'U')"
            )
        header = npy_header(name, beginning, member.size, (*NUMBERS, *TEXTS))
        if header.fortran:
            raise DataError(
                f"{visible(key)[:80]!r} lies column by column; write it through"
                " numpy.ascontiguousarray"
            )
        places[key] = Place(header.dtype, header.shape, member.offset + header.offset)
        _check_sum(file, name, member.offset, member.size, member.crc)
    return places, _described(file, places)


def _check_sum(file: BufferedReader, name: str, offset: int, size: int, expected: int) -> None:
    file.seek(offset)
    crc = 0
    while size and (block := file.read(min(size, _BLOCK))):
        crc, size = zlib.crc32(block, crc), size - len(block)
    if size or crc != expected:
        raise DataError(f"{visible(name)[:80]!r} does not have its checksum")


def _described(file: BufferedReader, places: dict[str, Place]) -> bytes | None:
    """The description, which an .npz file stores as an array of bytes."""
    place = places.pop(DESCRIPTION, None)
    if place is None:
        return None
    if place.dtype != np.uint8 or len(place.shape) != 1 or place.shape[0] > MAX_HEADER:
        raise DataError(f"{DESCRIPTION} is no text of at most {MAX_HEADER:,} bytes")
    file.seek(place.offset)
    return file.read(place.shape[0])


def _safetensors(file: BufferedReader) -> tuple[dict[str, Place], bytes | None]:
    """The arrays of https://github.com/huggingface/safetensors#format, without gaps or overlaps."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise DataError("neither an .npz nor a safetensors file")
    try:
        header = parse_json(file.read(length))
    except ValueError as error:
        raise DataError(f"neither an .npz nor a safetensors file: {error}") from None
    if not isinstance(header, dict) or len(header) > MAX_ARRAYS:
        raise DataError(f"no safetensors header of at most {MAX_ARRAYS:,} arrays")
    texts = header.pop("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise DataError("metadata other than texts")
    places, free = {}, 0
    for name, entry in sorted(header.items(), key=_extent):
        dtype, shape, begin, end = _entry(name, entry)
        if begin != free or end - begin != math.prod(shape) * dtype.itemsize:
            raise DataError(f"{visible(name)[:80]!r} has other than the bytes of its shape")
        places[name] = Place(dtype, shape, 8 + length + begin)
        free = end
    if 8 + length + free != size:
        raise DataError(f"{size:,} bytes, where the header says {8 + length + free:,}")
    text = texts.get(DESCRIPTION)
    return places, None if text is None else text.encode("utf-8", "surrogatepass")


def _extent(item: tuple[str, Any]) -> tuple[int, int]:
    *_, begin, end = _entry(*item)
    return begin, end


def _entry(name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """Type, shape, and first and last byte of an array, from its header entry."""
    if isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}:
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in _DTYPES:
            known = ", ".join(_DTYPES)
            fact = f"{visible(name)[:80]!r} has the type {visible(str(kind))[:20]!r}"
            raise DataError(f"{fact}, which is none of {known}")
        counts = [shape, offsets] if isinstance(offsets, list) and len(offsets) == 2 else []
        if counts and all(_are_counts(values) for values in counts):
            return np.dtype(_DTYPES[kind]), tuple(shape), *offsets
    raise DataError(f"{visible(name)[:80]!r}: no dtype, shape and data_offsets")


def _are_counts(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= SHAPES
        and all(type(value) is int and value >= 0 for value in values)
    )

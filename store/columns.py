"""Columns of equal length in one HDF5 file: building the file, and locating columns in it.

This is the only module of the store that imports h5py. `build` works in memory, with fixed
little-endian types, contiguous and without filters. So equal columns give equal bytes, and any
program can read a row at a byte offset. `inspect` trusts nothing in a received file: it refuses
whatever `build` would not have written.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

# Set before h5py is imported: otherwise a hostile file could name a filter plug-in, and HDF5 would
# load it as a shared library.
os.environ["HDF5_PLUGIN_PRELOAD"] = "::"

import h5py
import numpy as np
from numpy.typing import NDArray

from cryobase.store.errors import IntegrityError

_SIGNATURE = b"\x89HDF\r\n\x1a\n\x03"  # superblock version 3, which has checksums of its metadata
_NUMERIC = tuple(np.dtype(code) for code in ("<f2", "<f4", "<u1", "<u2", "<i4"))
MAX_STRING = 512
PAGE = 4096


@dataclass(frozen=True)
class Column:
    """Type, shape and byte offset of a column in its file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @property
    def row_bytes(self) -> int:
        return prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def end(self) -> int:
        return self.offset + prod(self.shape) * self.dtype.itemsize


def build(columns: Mapping[str, NDArray[Any]], order: NDArray[np.intp] | None = None) -> bytes:
    """The bytes of a file of `columns`, in their given order.

    Args:
        columns: The values of each column; all have the same length.
        order: The rows to write, in this order; if None, all rows.
    """
    # The core driver is not used: its `get_file_image` leaves a wrong checksum in a superblock of
    # version 3.
    memory = BytesIO()
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, memory)
    access.set_alignment(PAGE, PAGE)  # features then start on a page, for readers that map them
    # A profiler such as Dask's keeps frames alive, and so datasets: the file would stay open.
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    file = h5py.h5f.create(b"columns", h5py.h5f.ACC_TRUNC, creation, access)
    places = {}
    try:
        for name, values in columns.items():
            rows = len(values) if order is None else len(order)
            places[name] = _reserve(file, name, values.dtype, (rows, *values.shape[1:]))
    finally:
        file.close()
    end = max(place.end for place in places.values())
    if memory.seek(0, os.SEEK_END) < end:
        memory.seek(end - 1)
        memory.write(b"\0")
    # Values are not written through HDF5: it would copy them in memory once more.
    for name, values in columns.items():
        _fill(memory, places[name], values, order)
    return memory.getvalue()


def _reserve(file: Any, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Column:
    """Allocate a dataset in the file, without values."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_obj_track_times(False)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind = h5py.h5t.py_create(dtype)
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.h5d.create(file, name.encode(), kind, space, creation)
    return Column(dtype, shape, dataset.get_offset() or 0)


def _fill(
    memory: BytesIO, place: Column, values: NDArray[Any], order: NDArray[np.intp] | None
) -> None:
    if place.end == place.offset:
        return
    rows = np.frombuffer(memory.getbuffer()[place.offset : place.end], place.dtype)
    rows = rows.reshape(place.shape)
    if order is None:
        rows[:] = values
    else:
        # Mode "raise" would allocate a buffer.
        np.take(values, order, axis=0, out=rows, mode="clip")


def inspect(descriptor: int, path: Path, names: Sequence[str]) -> dict[str, Column]:
    """Locate the columns of a file that must have exactly the columns `names`.

    Args:
        descriptor: The open file. HDF5 reads through it, not through the path, which may change.
        path: The file's path, only for messages.
        names: The names of the columns.

    Raises:
        IntegrityError: the file contains anything that `build` would not write.
    """
    if os.pread(descriptor, len(_SIGNATURE), 0) != _SIGNATURE:
        raise IntegrityError(f"{path}: no HDF5 file with superblock version 3")
    try:
        # /dev/fd/N would not do: HDF5 resolves that link, and fails if the file was unlinked.
        with (
            open(descriptor, "rb", buffering=0, closefd=False) as raw,
            h5py.File(raw, "r", locking=False) as file,
        ):
            columns = _columns(file.id, names)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError) as error:
        fact = str(error).partition("\n")[0]
        raise IntegrityError(f"{path}: {fact}") from None
    _refuse_overlaps(columns, path, os.fstat(descriptor).st_size)
    return columns


def _columns(group: Any, names: Sequence[str]) -> dict[str, Column]:
    if group.get_num_objs() != len(names) or h5py.h5a.get_num_attrs(group):
        raise ValueError(f"members other than {', '.join(names)}, or attributes")
    return {name: _column(group, name) for name in names}


def _column(group: Any, name: str) -> Column:
    key = name.encode()
    if not group.links.exists(key) or group.links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{name} is missing, or a link to elsewhere")
    if h5py.h5o.get_info(group, key).type != h5py.h5o.TYPE_DATASET:
        raise ValueError(f"{name} is no dataset")
    dataset = h5py.h5d.open(group, key)
    plan = dataset.get_create_plist()
    if plan.get_layout() != h5py.h5d.CONTIGUOUS or plan.get_external_count():
        raise ValueError(f"{name} is not stored contiguously in this file")
    if plan.get_nfilters() or h5py.h5a.get_num_attrs(dataset):
        raise ValueError(f"{name} has filters or attributes")
    dtype, shape = _dtype(dataset.get_type(), name), tuple(map(int, dataset.shape))
    size, offset = prod(shape) * dtype.itemsize, dataset.get_offset()
    if offset is None or dataset.get_storage_size() != size:
        raise ValueError(f"{name} declares {size} bytes, has {dataset.get_storage_size()}")
    return Column(dtype, shape, int(offset))


def _dtype(kind: Any, name: str) -> np.dtype[Any]:
    if kind.get_class() == h5py.h5t.STRING and not kind.is_variable_str():
        candidates = [np.dtype(f"S{kind.get_size()}")] if kind.get_size() <= MAX_STRING else []
    else:
        candidates = [dtype for dtype in _NUMERIC if kind.get_size() == dtype.itemsize]
    for dtype in candidates:
        if kind.equal(h5py.h5t.py_create(dtype)) and not kind.committed():
            return dtype
    raise ValueError(f"{name} has a type that the format does not know")


def _refuse_overlaps(columns: Mapping[str, Column], path: Path, size: int) -> None:
    ordered = sorted(columns.items(), key=lambda item: item[1].offset)
    free = len(_SIGNATURE)
    for name, column in ordered:
        if column.offset < free or column.end > size:
            raise IntegrityError(f"{path}: {name} overlaps another column or the end")
        free = column.end
    if len({column.shape[:1] for column in columns.values()}) != 1:
        raise IntegrityError(f"{path}: the columns differ in length")

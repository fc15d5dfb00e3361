"""Reading the columns of data/raw and data/splits from an npz file that may be hostile.

Before memory is taken for a column, the structure is compared with the file's size and the ids are
checked piece by piece. Other columns must not have more rows than there are ids.
"""

import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.errors import DataError
from cryobase.stages.received import open_data
from cryobase.stages.stored_zip import (
    MAX_NPY_HEADER,
    StoredMember,
    members,
    npy_header,
    read_member,
)
from cryobase.store.errors import ExamplesError
from cryobase.store.examples import check_text

MAX_BYTES = (1 << 32) - 1  # where zip needs its 64-bit form
MAX_ID_BYTES = 512
IDS = "ids"
TEXT = "|S"
PIECE = 1 << 20  # bytes of ids that are looked at together


class Columns:
    """An open file of columns. Each is read on demand. Threads may share an object."""

    def __init__(self, path: Path, dtypes: Mapping[str, str], mend: str) -> None:
        """Check the file's structure and its ids.

        Args:
            path: the file.
            dtypes: the names of the columns, with `ids` among them, and their types as numpy
                writes them in a file.
            mend: what the user can do about a damaged file, for messages.

        Raises:
            DataError: it is missing, not a regular file, too large, or has other columns.
        """
        self._path, self._dtypes, self._mend = path, dtypes, mend
        self._lock = Lock()
        self._file = os.fdopen(open_data(path, mend=mend), "rb")
        try:
            self._places = self._find()
            self.rows = self._check_ids()
        except (DataError, ExamplesError) as error:
            self._file.close()
            raise DataError(f"{path}: {error}; {mend}") from None

    def close(self) -> None:
        self._file.close()

    def sha256(self) -> str:
        """The SHA-256 of the whole file, as 64 hex digits."""
        with self._lock:
            self._file.seek(0)
            return hashlib.file_digest(self._file, "sha256").hexdigest()

    def read(self, name: str) -> NDArray[Any]:
        """The values of a column.

        Raises:
            DataError: the column has a wrong checksum or type, or more rows than there are ids.
        """
        try:
            with self._lock:
                return self._read(name)
        except DataError as error:
            raise DataError(f"{self._path}: column {name}: {error}; {self._mend}") from None

    def _find(self) -> dict[str, StoredMember]:
        if (size := self._file.seek(0, os.SEEK_END)) > MAX_BYTES:
            raise DataError(f"{size:,} bytes, at most {MAX_BYTES:,} are read")
        entries = members(self._file)
        if entries.keys() != {f"{name}.npy" for name in self._dtypes}:
            raise DataError(f"columns other than {', '.join(self._dtypes)}")
        return {name: entries[f"{name}.npy"] for name in self._dtypes}

    def _header(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
        """(type, shape, offset of the values in the file) of a column."""
        place = self._places[name]
        self._file.seek(place.offset)
        beginning = self._file.read(min(place.size, MAX_NPY_HEADER))
        header = npy_header(name, beginning, place.size, (self._dtypes[name],))
        if len(header.shape) not in (1, 2) or header.fortran:
            raise DataError(f"{name} has the shape {header.shape}, not one value a row")
        return header.dtype, header.shape, place.offset + header.offset

    def _check_ids(self) -> int:
        """Check that ids are ascending, unique and not empty, and return their number.

        A small sparse file can have terabytes of zeros; this stops at the first of them.
        """
        dtype, shape, offset = self._header(IDS)
        if len(shape) != 1 or dtype.itemsize > MAX_ID_BYTES:
            raise DataError(f"ids are {dtype}{shape}")
        self._file.seek(offset)
        last, left, most = np.zeros(1, dtype), shape[0], max(1, PIECE // dtype.itemsize)
        while left:
            piece = np.frombuffer(self._file.read(min(left, most) * dtype.itemsize), dtype)
            if not len(piece) or not np.all(piece > np.concatenate([last, piece[:-1]])):
                raise DataError("ids are empty, not sorted or not unique")
            check_text(piece)
            last, left = piece[-1:], left - len(piece)
        return shape[0]

    def _read(self, name: str) -> NDArray[Any]:
        dtype, shape, _ = self._header(name)
        if shape[0] > self.rows:
            raise DataError(f"{shape[0]:,} rows, but {self.rows:,} ids")
        data = read_member(self._file, name, self._places[name])
        values = np.frombuffer(data, dtype, offset=len(data) - dtype.itemsize * _product(shape))
        return values.reshape(shape)


def _product(shape: Collection[int]) -> int:
    return int(np.prod(tuple(shape), dtype=np.int64))

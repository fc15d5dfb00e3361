"""Reading data/raw: the examples, and the encoded bytes of each example."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data import headers
from cryobase.stages.data import index as indices
from cryobase.stages.data.packs import anew, read_at
from cryobase.stages.errors import DataError
from cryobase.stages.received import open_data
from cryobase.store.examples import Examples, decode_id


@dataclass(frozen=True, eq=False)
class RawImages:
    """The examples of a data/raw directory, in the order of their ids. Threads may share it."""

    directory: Path
    index: indices.Index

    @classmethod
    def open(cls, directory: Path) -> "RawImages":
        """Open a directory that `download` wrote.

        Raises:
            DataError: the index is missing or damaged.
        """
        return cls(directory, indices.read(directory))

    def __len__(self) -> int:
        return len(self.index.images)

    @cached_property
    def examples(self) -> Examples:
        """All examples. This takes memory; planning and reading do not need it."""
        index = self.index
        return Examples(
            ids=index.ids,
            digests=index.digest[index.images],
            labels=index.labels,
            quarantined=index.quarantined,
            classes=index.classes,
        )

    def name(self, position: int) -> str:
        """The id of the example at a position, as text."""
        return bytes(self.index.ids[position]).decode()

    def digests(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(m, 32) the digests of the examples at positions."""
        return self.index.digest[self.index.images[positions]]

    @property
    def parts(self) -> NDArray[np.bytes_]:
        """(n,) "train", "validation" or "test" if the source has its own split, else ""."""
        return np.array(indices.PARTS, dtype="S10")[self.index.parts]

    @property
    def reasons(self) -> NDArray[np.object_]:
        """(n,) why an example is quarantined, as str; "" if it is not."""
        table: NDArray[Any] = np.array(self.index.reasons, dtype=object)
        return table[self.index.reason[self.index.images]]

    def read(self, position: int) -> bytes:
        """The encoded bytes of the example at a position, checked against its digest.

        Raises:
            DataError: the example is quarantined, its file is missing, or its bytes have changed.
        """
        index, row = self.index, int(self.index.images[position])
        if reason := index.reasons[index.reason[row]]:
            raise DataError(
                f"{self.name(position)}: quarantined ({reason}), so it has no pixels; skip it"
            )
        if index.in_place is None:
            path = self.directory / index.packs[index.pack[row]].name
            data = read_at(path, int(index.offset[row]), int(index.length[row]))
        else:
            path = self._in_place(index.in_place, position)
            data = _read_in_place(path, int(index.length[row]))
        if hashlib.sha256(data).digest() != index.digest[row].tobytes():
            mend = indices.MEND if index.in_place else anew(path)
            raise DataError(f"{path}: {self.name(position)} has changed; {mend}")
        return data

    def _in_place(self, folder: str, position: int) -> Path:
        """The path of an image that was not copied. An id cannot lead out of the folder.

        Raises:
            DataError: the id is not a path below the folder.
        """
        try:
            name = decode_id(bytes(self.index.ids[position]))
        except ValueError:  # an invalid escape
            name = ""
        parts = name.split("/")
        if "\0" in name or not all(parts) or {".", ".."} & set(parts):
            raise DataError(
                f"{self.directory}: {self.name(position)!r} is no file's id; {indices.MEND}"
            )
        return Path(folder, *parts)


def _read_in_place(path: Path, length: int) -> bytes:
    """The bytes of a file; empty if its length has changed, so that its digest is wrong."""
    with os.fdopen(open_data(path, follow=True, mend=indices.MEND), "rb") as file:
        whole = os.fstat(file.fileno()).st_size == length <= headers.MAX_BYTES
        return file.read(length) if whole else b""

"""data/splits: the part of each example (train, validation or test), read and written."""

import hashlib
import io
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data.columns import Columns
from cryobase.stages.errors import DataError
from cryobase.stages.outputs import replace, write_table
from cryobase.store import Examples

FILE = "splits.npz"
COLUMNS = {"ids": "|S", "part": "|i1"}
COUNTS = "counts.csv"
PARTS = ("train", "validation", "test")
UNUSED = -1
MEND = "run `cryobase split`"


@dataclass(frozen=True, eq=False)
class Splits:
    """An assignment of examples to parts, in the order of the ids."""

    all_ids: NDArray[np.bytes_]  # (n,) sorted, unique
    part: NDArray[np.int8]  # (n,) into PARTS

    @classmethod
    def open(cls, directory: Path) -> "Splits":
        """Read the file that `write` wrote.

        Raises:
            DataError: the file is missing or damaged.
        """
        path = directory / FILE
        if not path.exists():
            raise DataError(f"{path}: no such file; run `cryobase split`")
        columns = Columns(path, COLUMNS, MEND)
        with closing(columns):
            splits = cls(columns.read("ids"), columns.read("part"))
        splits._check(path)
        return splits

    def ids(self, part: str) -> NDArray[np.bytes_]:
        """The sorted ids of "train", "validation" or "test"; empty if the part has no example."""
        chosen: NDArray[np.bytes_] = self.all_ids[self.part == PARTS.index(part)]
        return chosen

    def along(self, examples: Examples) -> NDArray[np.int8]:
        """(n,) the part of each of `examples`; -1 for an example that has no part."""
        wide = np.dtype(f"S{max(examples.ids.itemsize, self.all_ids.itemsize)}")
        _, there, here = np.intersect1d(
            examples.ids.astype(wide),
            self.all_ids.astype(wide),
            assume_unique=True,
            return_indices=True,
        )
        parts = np.full(len(examples), UNUSED, np.int8)
        parts[there] = self.part[here]
        return parts

    @property
    def digest(self) -> str:
        """SHA-256 of the assignment, 64 hex digits."""
        hashed = hashlib.sha256()
        for part in PARTS:
            hashed.update(f"{part}\0".encode())
            for identifier in self.ids(part):
                hashed.update(bytes(identifier) + b"\0")
        return hashed.hexdigest()

    def write(self, directory: Path, counts: list[dict[str, str | int]]) -> None:
        """Write the assignment, and a readable table of the counts of each class."""
        buffer = io.BytesIO()
        np.savez(buffer, ids=self.all_ids, part=self.part)
        write_table(directory / COUNTS, list(counts[0]), (row.values() for row in counts))
        replace(directory / FILE, buffer.getvalue())

    def _check(self, path: Path) -> None:
        ids, part = self.all_ids, self.part
        if ids.shape != part.shape:
            raise DataError(f"{path}: {len(ids):,} ids, parts of shape {part.shape}; {MEND}")
        if len(part) and (part.min() < 0 or part.max() >= len(PARTS)):
            raise DataError(f"{path}: parts beyond {', '.join(PARTS)}; {MEND}")

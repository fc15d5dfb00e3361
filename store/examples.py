"""The examples of a dataset (id, digest, label, quarantined) and the file that stores them."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryobase.store import verified
from cryobase.store.columns import MAX_STRING, build, inspect
from cryobase.store.errors import ExamplesError, IntegrityError, StoreError, UnknownExampleError
from cryobase.store.files import bytes_of, open_regular, read_into
from cryobase.store.keys import BLOCK, KeyIndex, Positions, words_of_strings
from cryobase.store.manifest import FileInfo
from cryobase.store.spec import canonical_json

COLUMNS = ("id", "digest", "label", "quarantined")
_PART = 1 << 20  # bytes of examples that are checked at once


def encode_id(name: str) -> bytes:
    r"""A file name as an id in UTF-8: other bytes become `\xff`, a backslash becomes two."""
    raw = name.replace("\\", "\\\\").encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "backslashreplace").encode("utf-8")


def decode_id(example_id: bytes) -> str:
    """The file name of an id; the reverse of `encode_id`."""
    parts = example_id.decode("utf-8").split("\\\\")
    unescaped = [part.split("\\x") for part in parts]
    raw = [
        first.encode() + b"".join(bytes.fromhex(r[:2]) + r[2:].encode() for r in rest)
        for first, *rest in unescaped
    ]
    return b"\\".join(raw).decode("utf-8", "surrogateescape")


def check_text(ids: NDArray[np.bytes_]) -> None:
    """Raise ExamplesError if an id is not UTF-8 text.

    All ids are checked at once: a loop over a million ids would take seconds.
    """
    raw = np.ascontiguousarray(ids).view(np.uint8).reshape(len(ids), ids.itemsize)
    if np.any(raw[:, 0] & 0xC0 == 0x80) or not raw[:, 0].all():
        raise ExamplesError("an id is empty or starts within a character")
    if np.any((raw[:, :-1] == 0) & (raw[:, 1:] != 0)):
        raise ExamplesError("an id has a NUL byte")
    try:
        raw.tobytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ExamplesError("an id is not UTF-8; see store.encode_id") from None


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples in the order of their ids. `create` sorts; the constructor checks.

    Attributes:
        ids: (n,) UTF-8 of at most 512 bytes, ascending, unique.
        digests: (n, 32) SHA-256 of the encoded bytes; equal images have equal digests.
        labels: (n,) positions in `classes`.
        quarantined: (n,) true if the image cannot be used; such an example has no row.
        classes: The names of the classes, in order.

    Raises:
        ExamplesError: the columns are not consistent; the message names the example.
    """

    ids: NDArray[np.bytes_]
    digests: NDArray[np.uint8]
    labels: NDArray[np.int32]
    quarantined: NDArray[np.bool_]
    classes: tuple[str, ...]

    @classmethod
    def create(
        cls,
        ids: Sequence[bytes],
        digests: ArrayLike,
        labels: ArrayLike,
        quarantined: ArrayLike | None,
        classes: Sequence[str],
    ) -> "Examples":
        """Examples from columns in any order; `quarantined=None` means no quarantined example."""
        if long := [i for i in ids if len(i) > MAX_STRING]:
            raise ExamplesError(f"id {long[0][:60]!r}…: {len(long[0])} bytes, at most {MAX_STRING}")
        keys: NDArray[np.bytes_] = np.array(ids, np.bytes_)
        if keys.ndim == 1 and any(len(k) != len(i) for k, i in zip(keys, ids, strict=True)):
            raise ExamplesError("an id ends in a NUL byte")
        wide = np.asarray(labels)
        if wide.size and wide.dtype.kind not in "iu":
            raise ExamplesError(f"labels are {wide.dtype}, not integers")
        if wide.size and (wide.max() >= len(classes) or wide.min() < 0):
            wide = np.clip(wide, -1, len(classes))  # an int32 would wrap around
        hidden = np.zeros(len(keys), np.bool_) if quarantined is None else quarantined
        columns: list[NDArray[Any]] = [
            np.asarray(digests, np.uint8).reshape(-1, 32),
            wide.astype(np.int32),
            np.asarray(hidden, np.bool_),
        ]
        if keys.ndim != 1 or any(len(column) != len(keys) for column in columns):
            raise ExamplesError("ids, digests, labels and quarantined differ in length")
        order = np.argsort(keys, kind="stable")
        key, digest, label, hide = (column[order] for column in (keys, *columns))
        return cls(key, digest, label, hide, tuple(classes))

    def __post_init__(self) -> None:
        for start in range(0, len(self.ids), BLOCK):
            check_text(self.ids[start : start + BLOCK])
        if np.any(wrong := self.ids[1:] <= self.ids[:-1]):
            where = int(np.argmax(wrong))
            raise ExamplesError(f"id {bytes(self.ids[where + 1])!r}: twice, or not in order")
        if np.any(wrong := (self.labels < 0) | (self.labels >= len(self.classes))):
            where = int(np.argmax(wrong))
            raise ExamplesError(
                f"id {bytes(self.ids[where])!r}: label outside of the {len(self.classes)} classes"
            )
        if len(set(self.classes)) != len(self.classes):
            raise ExamplesError("a class name comes twice")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the columns and the classes, as 64 hex digits (docs/format.md, Digests)."""
        digest = hashlib.sha256(canonical_json(list(self.classes)) + b"\n")
        digest.update(b"\0".join(self.ids.tolist()) + b"\n")
        digest.update(np.ascontiguousarray(self.digests).tobytes())
        digest.update(self.labels.astype("<i4").tobytes())
        digest.update(self.quarantined.astype(np.uint8).tobytes())
        return digest.hexdigest()

    def positions(self, ids: ArrayLike) -> Positions:
        """(m,) the positions of `ids`, which are bytes or str.

        Raises:
            UnknownExampleError: an id is unknown; the message names it.
        """
        wanted = np.asarray(ids)
        if wanted.dtype.kind == "U":
            wanted = np.char.encode(wanted, "utf-8")
        if wanted.size == 0:
            return np.empty(0, np.int64)
        width = -(-max(wanted.itemsize, self.ids.itemsize) // 8) * 8
        positions = self._index(width).find(words_of_strings(wanted, width))
        if (unknown := positions < 0).any():
            first = wanted[np.argmax(unknown)]
            raise UnknownExampleError(f"id {bytes(first)!r}: not among the {len(self)} examples")
        return positions

    def _index(self, width: int) -> KeyIndex:
        if width not in self._indices:
            self._indices[width] = KeyIndex(words_of_strings(self.ids, width))
        return self._indices[width]

    @cached_property
    def _indices(self) -> dict[int, KeyIndex]:
        return {}

    def to_bytes(self) -> bytes:
        """The bytes of the file of these examples. The classes are stored in the manifest."""
        columns: dict[str, NDArray[Any]] = {
            "id": self.ids,
            "digest": self.digests,
            "label": self.labels.astype("<i4", copy=False),
            "quarantined": self.quarantined.astype(np.uint8),
        }
        return build(columns)


class ExamplesFile:
    """A file of examples, opened for reading. Later changes at its path have no effect.

    Args:
        directory: The directory of the file.
        info: The file's entry in the manifest.
        classes: The names of the classes, from the manifest.
        full: Whether to check the SHA-256 even if this machine checked it before.

    Raises:
        StoreNotFoundError: the file is missing.
        IntegrityError: the file does not match the manifest.
    """

    def __init__(
        self, directory: Path, info: FileInfo, classes: tuple[str, ...], *, full: bool = False
    ) -> None:
        self.path, self.classes = directory / info.name, classes
        self._descriptor = open_regular(self.path)
        if os.fstat(self._descriptor).st_size != info.size:
            raise IntegrityError(f"{self.path}: not the size that the manifest says")
        verified.check([(self._descriptor, self.path, info.sha256)], anew=full)
        self._columns = columns = inspect(self._descriptor, self.path, COLUMNS)
        kinds = [columns[name].dtype.kind + str(columns[name].shape[1:]) for name in COLUMNS]
        if kinds != ["S()", "u(32,)", "i()", "u()"]:
            raise IntegrityError(f"{self.path}: columns of types {kinds}")

    def __len__(self) -> int:
        return self._columns["id"].shape[0]

    def slices(self) -> Iterator[slice]:
        """Slices of about 1 MiB each, which cover all examples."""
        step = max(1, _PART // sum(column.row_bytes for column in self._columns.values()))
        for start in range(0, len(self), step):
            yield slice(start, min(start + step, len(self)))

    def column(self, name: str, where: slice) -> NDArray[Any]:
        """Values of a column, in the stored dtype."""
        column = self._columns[name]
        values = np.empty((where.stop - where.start, *column.shape[1:]), column.dtype)
        offset = column.offset + where.start * column.row_bytes
        read_into(self._descriptor, bytes_of(values), offset, self.path)
        return values

    def read(self, where: slice | None = None) -> Examples:
        """Examples, all of them by default.

        Raises:
            IntegrityError: the columns are not consistent, or the file became shorter.
        """
        where = slice(0, len(self)) if where is None else where
        ids, digests, labels, quarantined = (self.column(name, where) for name in COLUMNS)
        try:
            return Examples(ids, digests, labels, quarantined.astype(np.bool_), self.classes)
        except StoreError as error:
            raise IntegrityError(f"{self.path}: {error}") from None

    def labels(self) -> tuple[NDArray[np.unsignedinteger], int]:
        """(n,) labels in the smallest dtype, and the number of quarantined examples.

        Checks all columns.

        Raises:
            IntegrityError: see `read`.
        """
        labels = np.empty(len(self), np.min_scalar_type(max(0, len(self.classes) - 1)))
        hidden = 0
        for where in self.slices():
            # With the last id of the part before: checks the order.
            and_before = slice(max(0, where.start - 1), where.stop)
            part = self.read(and_before)
            labels[and_before] = part.labels
            hidden += int(part.quarantined[where.start - and_before.start :].sum())
        return labels, hidden

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

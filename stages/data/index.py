"""The index of data/raw: numpy columns, one row per example and one per distinct image.

`dataset.json` is the commit record, replaced last; the columns lie in an npz file named by its
content, so a crash leaves the old index as it was.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any, BinaryIO
from weakref import finalize
from zipfile import BadZipFile

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from stages.data.packs import PACK_NAME, Pack, open_regular
from stages.errors import DataError
from stages.outputs import replace
from store.publish import publish_bytes

SCHEMA = 1
RECORD = "dataset.json"
INDEX_NAME = re.compile(r"\Aindex-[0-9a-f]{16}\.npz\Z")
PARTS = ("", "train", "validation", "test")
NO_PACK = -1
MEND = "delete the directory and run `cryobase download`"

EXAMPLE_COLUMNS = {"ids": "S1", "labels": "<i4", "parts": "<i1", "images": "<i8"}
IMAGE_COLUMNS = {
    "digest": "<u1",
    "pack": "<i4",
    "offset": "<i8",
    "length": "<i8",
    "height": "<i4",
    "width": "<i4",
    "reason": "<i4",
}
COLUMNS = EXAMPLE_COLUMNS | IMAGE_COLUMNS


@dataclass(frozen=True, eq=False, kw_only=True)
class Index:
    """What data/raw holds. Columns of equal length; `images` points into the image columns."""

    ids: NDArray[np.bytes_]  # (n,) sorted, unique
    labels: NDArray[np.int32]  # (n,) into classes
    parts: NDArray[np.int8]  # (n,) into PARTS
    images: NDArray[np.int64]  # (n,) into the columns below
    digest: NDArray[np.uint8]  # (m, 32) SHA-256 of the encoded bytes
    pack: NDArray[np.int32]  # (m,) into packs, or NO_PACK
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    height: NDArray[np.int32]  # upright, in pixels
    width: NDArray[np.int32]
    reason: NDArray[np.int32]  # (m,) into reasons; 0 = good
    classes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ("",)
    packs: tuple[Pack, ...] = ()
    in_place: str | None = None  # the folder where the images lie, if they were left there
    source: Mapping[str, Any] = field(default_factory=dict)  # what the source wants to remember
    sha256: str = ""  # of the columns' file, where they were read from one

    @classmethod
    def empty(cls) -> "Index":
        columns: dict[str, Any] = {name: np.zeros(0, dtype) for name, dtype in COLUMNS.items()}
        return cls(**columns | {"digest": np.zeros((0, 32), np.uint8)})

    @property
    def quarantined(self) -> NDArray[np.bool_]:
        return (self.reason > 0)[self.images]


def read(directory: Path) -> Index:
    """Check the index of a data/raw directory; a column is read when it is first asked for.

    Raises:
        DataError: there is none, or it is damaged; the message names the file.
    """
    path = directory / RECORD
    if not path.exists():
        raise DataError(f"{directory}: no {RECORD}; run `cryobase download` first")
    try:
        record = json.loads(path.read_bytes())
        if record["schema"] != SCHEMA:
            raise DataError(
                f"{path}: schema {record['schema']}, this Cryobase reads {SCHEMA}; {MEND}"
            )
        packs = tuple(Pack(**pack) for pack in record["packs"])
        if not all(PACK_NAME.match(pack.name) for pack in packs):
            raise DataError(f"{path}: a pack's name is not one; {MEND}")
        described = {
            "classes": tuple(record["classes"]),
            "reasons": tuple(record["reasons"]),
            "packs": packs,
            "in_place": record["in_place"],
            "source": record["source"],
            "sha256": record["index_sha256"],
        }
        file = _open(directory, record["index"], record["index_sha256"])
        return _Stored(directory / record["index"], file, described)
    except (KeyError, TypeError, ValueError, OSError, BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not an index of images ({error}); {MEND}") from None


def write(directory: Path, index: Index) -> None:
    """Replace the index: columns first, then the record, then remove what it no longer names."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: getattr(index, name) for name in COLUMNS})
    columns = buffer.getvalue()
    sha256 = hashlib.sha256(columns).hexdigest()
    name = f"index-{sha256[:16]}.npz"
    publish_bytes(directory, name, columns)
    record = {
        "schema": SCHEMA,
        "index": name,
        "index_sha256": sha256,
        "classes": list(index.classes),
        "reasons": list(index.reasons),
        "packs": [asdict(pack) for pack in index.packs],
        "in_place": index.in_place,
        "source": dict(index.source),
    }
    replace(directory / RECORD, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
    sweep(directory, {name, *(pack.name for pack in index.packs)})


def sweep(directory: Path, named: set[str]) -> None:
    """Remove packs and indices that nothing names, and what an interrupted run left behind."""
    for path in directory.iterdir():
        ours = PACK_NAME.match(path.name) or INDEX_NAME.match(path.name)
        if (ours and path.name not in named) or path.name.startswith(".tmp-"):
            path.unlink()


class _Stored(Index):
    """An index whose columns are read, and checked, when they are first asked for.

    Of ten million images they are a gigabyte, and nobody needs them all.
    """

    def __init__(self, path: Path, file: BinaryIO, described: Mapping[str, Any]) -> None:
        finalize(self, file.close)  # open until then, as `download` may replace the index
        vars(self).update(described, _path=path, _file=NpzFile(file), _lock=RLock())

    def __getattr__(self, name: str) -> Any:
        if name not in COLUMNS:
            raise AttributeError(name)
        with self._lock:
            if name not in vars(self):
                try:
                    column = self._file[name]
                except (KeyError, ValueError, OSError, BadZipFile) as error:
                    raise DataError(f"{self._path}: column {name}: {error}; {MEND}") from None
                self._check(name, column)
                vars(self)[name] = column
        return vars(self)[name]

    def _check(self, name: str, column: NDArray[Any]) -> None:
        """Refuse columns that contradict each other, so that readers need not look again."""
        one = "images" if name in EXAMPLE_COLUMNS else "reason"  # whose length is the others' too
        length = column.size if name == one else len(getattr(self, one))
        shape = (length, 32) if name == "digest" else (length,)
        kind = column.dtype.kind == "S" if name == "ids" else column.dtype == COLUMNS[name]
        if column.shape != shape or not kind:
            raise DataError(f"{self._path}: column {name} is {column.dtype}{column.shape}; {MEND}")
        limits = {
            "labels": len(self.classes),
            "parts": len(PARTS),
            "images": len(self.reason) if name == "images" else 0,
            "reason": len(self.reasons),
            "pack": len(self.packs),
        }
        lowest, limit = NO_PACK if name == "pack" else 0, limits.get(name)
        if limit is not None and length and not lowest <= column.min() <= column.max() < limit:
            raise DataError(
                f"{self._path}: column {name} points beyond its table of {limit}; {MEND}"
            )


def _open(directory: Path, name: str, sha256: str) -> BinaryIO:
    if not INDEX_NAME.match(name):
        raise DataError(f"{directory}: {name!r} is not the name of an index; {MEND}")
    file = os.fdopen(open_regular(directory / name), "rb")
    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
        file.close()
        raise DataError(f"{directory / name}: sha256 differs from {RECORD}; {MEND}")
    return file

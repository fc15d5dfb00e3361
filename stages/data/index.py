"""The index of data/raw: numpy columns with one row per example, and one row per distinct image.

The columns are in an npz file whose name is made from its content. `dataset.json` is replaced last
and names that file, so a crash leaves the old index valid.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data.columns import MAX_BYTES, TEXT, Columns
from cryobase.stages.data.packs import MAX_PACK, PACK_NAME, Pack
from cryobase.stages.errors import DataError
from cryobase.stages.outputs import replace
from cryobase.stages.received import opened
from cryobase.store.publish import publish_bytes, remove
from cryobase.store.text import parse_json

SCHEMA = 1
RECORD = "dataset.json"
INDEX_NAME = re.compile(r"\Aindex-[0-9a-f]{16}\.npz\Z")
PARTS = ("", "train", "validation", "test")
NO_PACK = -1
MEND = "run `cryobase download`"

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
SPELLED = {name: np.dtype(dtype).str for name, dtype in COLUMNS.items()} | {"ids": TEXT}
KEYS = {"schema", "index", "index_sha256", "classes", "reasons", "packs", "in_place", "source"}
MAX_RECORD = 1 << 26  # bytes; the entry of a pack, which has 64 MiB, takes 150
MAX_VALUES = 4_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class Index:
    """The content of data/raw: columns of n examples, and of m distinct images.

    `images` has positions in the columns of images.
    """

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
    in_place: str | None = None  # the folder of the images, if they were not copied
    source: Mapping[str, Any] = field(default_factory=dict)  # data of the source for its next run
    sha256: str = ""  # of the columns' file; "" for an index in memory

    @classmethod
    def empty(cls) -> "Index":
        columns: dict[str, Any] = {name: np.zeros(0, dtype) for name, dtype in COLUMNS.items()}
        return cls(**columns | {"digest": np.zeros((0, 32), np.uint8)})

    @property
    def quarantined(self) -> NDArray[np.bool_]:
        return (self.reason > 0)[self.images]


def read(directory: Path) -> Index:
    """Check and open the index of a data/raw directory. Columns are read at the first use.

    Raises:
        DataError: the index is missing or damaged; the message names the file.
    """
    path = directory / RECORD
    try:
        with opened(path, MAX_RECORD) as file:
            record = parse_json(file.read(), floats=False, values=MAX_VALUES)
    except FileNotFoundError:
        raise DataError(f"{directory}: no {RECORD}; run `cryobase download`") from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({os.strerror(error.errno or 0)}); check its permissions"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: not an index of images ({error}); {MEND}") from None
    if isinstance(record, dict) and record.get("schema", SCHEMA) != SCHEMA:
        raise DataError(f"{path}: schema {record['schema']}, this Cryobase reads {SCHEMA}; {MEND}")
    if reason := next(_faults(record), ""):
        raise DataError(f"{path}: not an index of images ({reason}); {MEND}")
    columns = Columns(directory / record["index"], SPELLED, MEND)
    if columns.sha256() != record["index_sha256"]:
        columns.close()
        raise DataError(f"{directory / record['index']}: sha256 differs from {RECORD}; {MEND}")
    described = {
        "classes": tuple(record["classes"]),
        "reasons": tuple(record["reasons"]),
        "packs": tuple(Pack(**pack) for pack in record["packs"]),
        "in_place": record["in_place"],
        "source": record["source"],
        "sha256": record["index_sha256"],
    }
    return _Stored(directory / record["index"], columns, described)


def _faults(record: Any) -> Iterator[str]:
    """The reasons why `write` cannot have written a record.

    Use only the first: later checks assume that earlier ones passed.
    """
    if not isinstance(record, dict) or record.keys() - {"record_sha256"} != KEYS:
        yield f"keys other than {', '.join(sorted(KEYS))}"
    if record.get("record_sha256", _checksum(record)) != _checksum(record):
        yield "another checksum"
    for key in ("classes", "reasons"):
        texts = record[key]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            yield f"{key} are no list of texts"
        if len(set(texts)) != len(texts):
            yield f"two equal {key}"
    if not record["reasons"] or record["reasons"][0]:
        yield "the first reason is not empty"
    if not isinstance(record["packs"], list) or not all(map(_is_pack, record["packs"])):
        yield "a pack of other keys or types"
    if not isinstance(record["in_place"], str | None) or not isinstance(record["source"], dict):
        yield "in_place or source of another type"
    names = record["index"], record["index_sha256"]
    if not all(isinstance(name, str) for name in names) or not INDEX_NAME.match(names[0]):
        yield f"{names[0]!r:.80} is not the name of an index"


def _is_pack(pack: Any) -> bool:
    return (
        isinstance(pack, dict)
        and pack.keys() == {"name", "bytes", "sha256"}
        and isinstance(pack["name"], str)
        and bool(PACK_NAME.match(pack["name"]))
        and isinstance(pack["sha256"], str)
        and type(pack["bytes"]) is int
        and 0 < pack["bytes"] <= MAX_PACK
    )


def _checksum(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record without its checksum."""
    rest = {key: value for key, value in record.items() if key != "record_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write(directory: Path, index: Index) -> None:
    """Replace the index: write columns, then the record, then remove files that it does not name.

    Raises:
        DataError: the index is too large to be read again.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **{name: getattr(index, name) for name in COLUMNS})
    columns = buffer.getvalue()
    if len(columns) > MAX_BYTES:
        raise DataError(
            f"{directory}: an index of {len(columns):,} bytes, at most {MAX_BYTES:,} are read; take"
            " shorter paths or fewer images"
        )
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
    record["record_sha256"] = _checksum(record)
    replace(directory / RECORD, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
    sweep(directory, {name, *(pack.name for pack in index.packs)})


def sweep(directory: Path, named: set[str]) -> None:
    """Remove packs and indices that are not in `named`, and files of interrupted runs."""
    for path in directory.iterdir():
        ours = PACK_NAME.match(path.name) or INDEX_NAME.match(path.name)
        if (ours and path.name not in named) or path.name.startswith(".tmp-"):
            remove(path)


class _Stored(Index):
    """An index whose columns are read and checked at their first use.

    For ten million images all columns take a gigabyte, and most callers need only some of them.
    """

    def __init__(self, path: Path, columns: Columns, described: Mapping[str, Any]) -> None:
        finalize(self, columns.close)  # kept open: `download` may replace the index
        vars(self).update(described, _path=path, _columns=columns, _lock=RLock())

    def __getattr__(self, name: str) -> Any:
        if name not in COLUMNS:
            raise AttributeError(name)
        with self._lock:
            if name not in vars(self):
                column = self._columns.read(name)
                self._check(name, column)
                vars(self)[name] = column
        return vars(self)[name]

    def _check(self, name: str, column: NDArray[Any]) -> None:
        """Refuse a column that contradicts others, so that its users need no checks."""
        first = "images" if name in EXAMPLE_COLUMNS else "reason"  # its length counts for all
        length = column.size if name == first else len(getattr(self, first))
        shape = (length, 32) if name == "digest" else (length,)
        if column.shape != shape:
            raise DataError(f"{self._path}: column {name} is {column.dtype}{column.shape}; {MEND}")
        limits = {
            "labels": len(self.classes),
            "parts": len(PARTS),
            "images": len(self.reason) if name == "images" else 0,
            "reason": len(self.reasons),
            "pack": len(self.packs),
            "offset": MAX_PACK,
            "length": 1 << 62,
            "height": 1 << 31,
            "width": 1 << 31,
        }
        lowest, limit = NO_PACK if name == "pack" else 0, limits.get(name)
        if limit is not None and length and not lowest <= column.min() <= column.max() < limit:
            raise DataError(
                f"{self._path}: column {name} points beyond its table of {limit}; {MEND}"
            )

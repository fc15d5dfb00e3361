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
from typing import Any

import numpy as np
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

EXAMPLE_COLUMNS = {"ids": None, "labels": "<i4", "parts": "<i1", "images": "<i8"}
IMAGE_COLUMNS = {
    "digest": "<u1",
    "pack": "<i4",
    "offset": "<i8",
    "length": "<i8",
    "height": "<i4",
    "width": "<i4",
    "reason": "<i4",
}


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

    @classmethod
    def empty(cls) -> "Index":
        columns: dict[str, Any] = {
            name: np.zeros(0, dtype or "S1") for name, dtype in EXAMPLE_COLUMNS.items()
        }
        columns |= {name: np.zeros(0, dtype) for name, dtype in IMAGE_COLUMNS.items()}
        return cls(**columns | {"digest": np.zeros((0, 32), np.uint8)})

    @property
    def quarantined(self) -> NDArray[np.bool_]:
        return self.reason[self.images] > 0


def read(directory: Path) -> Index:
    """Read and check the index of a data/raw directory.

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
        index = Index(
            **_read_columns(directory, record["index"], record["index_sha256"]),
            classes=tuple(record["classes"]),
            reasons=tuple(record["reasons"]),
            packs=packs,
            in_place=record["in_place"],
            source=record["source"],
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not an index of images ({error}); {MEND}") from None
    _check(path, index)
    return index


def write(directory: Path, index: Index) -> None:
    """Replace the index: columns first, then the record, then remove what it no longer names."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: getattr(index, name) for name in (*EXAMPLE_COLUMNS, *IMAGE_COLUMNS)})
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


def _read_columns(directory: Path, name: str, sha256: str) -> dict[str, NDArray[Any]]:
    if not INDEX_NAME.match(name):
        raise DataError(f"{directory}: {name!r} is not the name of an index; {MEND}")
    with os.fdopen(open_regular(directory / name), "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise DataError(f"{directory / name}: sha256 differs from {RECORD}; {MEND}")
        file.seek(0)
        with np.load(file) as columns:
            return {column: columns[column] for column in (*EXAMPLE_COLUMNS, *IMAGE_COLUMNS)}


def _check(path: Path, index: Index) -> None:
    """Refuse columns that contradict each other, so that readers need not look again."""
    examples, images = len(index.ids), len(index.digest)
    for name, dtype in (EXAMPLE_COLUMNS | IMAGE_COLUMNS).items():
        column = getattr(index, name)
        length = examples if name in EXAMPLE_COLUMNS else images
        shape = (length, 32) if name == "digest" else (length,)
        kind = column.dtype.kind == "S" if dtype is None else column.dtype == np.dtype(dtype)
        if column.shape != shape or not kind:
            raise DataError(f"{path}: column {name} is {column.dtype}{column.shape}; {MEND}")
    for name, limit in (
        ("labels", len(index.classes)),
        ("parts", len(PARTS)),
        ("images", images),
        ("reason", len(index.reasons)),
    ):
        column = getattr(index, name)
        if len(column) and (column.min() < 0 or column.max() >= limit):
            raise DataError(f"{path}: column {name} points beyond its table of {limit}; {MEND}")
    if images and (index.pack.min() < NO_PACK or index.pack.max() >= len(index.packs)):
        raise DataError(f"{path}: column pack points beyond {len(index.packs)} packs; {MEND}")

"""Writing a feature set as named arrays: `.npz` and safetensors files.

Arrays of the n examples that have features, in the order of their ids:

- `features` (n, …) of the plain images, in the stored dtype; `features_1` … of the other views;
- `ids` and `labels` (n,), `digests` (n, 32), and further columns that the caller passes.

Arrays of the examples without features: `quarantined_ids`, `quarantined_labels`,
`quarantined_digests`.

With the `Description` in the file, `cryobase store import` makes the same set again. This module
only writes. It must not read such files, because a received file may be hostile.
"""

import json
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cryobase.store.errors import ExamplesError
from cryobase.store.publish import replacing
from cryobase.store.reader import FeatureSet

FORMAT = "cryobase-arrays"
DESCRIPTION = "cryobase"  # the name of the description in both kinds of file
HIDDEN = "quarantined_"  # prefix of the columns of examples without features
BATCH_BYTES = 1 << 22
SAFETENSORS = {  # https://github.com/huggingface/safetensors#format
    "<f2": "F16",
    "<f4": "F32",
    "<f8": "F64",
    "|i1": "I8",
    "<i2": "I16",
    "<i4": "I32",
    "<i8": "I64",
    "|u1": "U8",
    "<u2": "U16",
    "<u4": "U32",
    "<u8": "U64",
}
_ALIGNED = 8


@dataclass(frozen=True, kw_only=True)
class Description:
    """Metadata of the feature set from which a file of arrays was written.

    Attributes:
        format: `FORMAT`.
        schema: 1.
        spec: The feature spec, see `FeatureSpec.to_json`.
        classes: The names of the classes, in the order of the labels.
        feature_shape: The shape of one row.
        views: The highest view.
        digest: The digest of the set. A set that is imported from the file must have it too.
    """

    format: str
    schema: int
    spec: Mapping[str, Any]
    classes: tuple[str, ...]
    feature_shape: tuple[int, ...]
    views: int
    digest: str

    @classmethod
    def of(cls, feature_set: FeatureSet) -> "Description":
        """The description of a set."""
        return cls(
            format=FORMAT,
            schema=1,
            spec=feature_set.spec.to_json(),
            classes=feature_set.classes,
            feature_shape=tuple(feature_set.feature_shape),
            views=feature_set.views,
            digest=feature_set.digest,
        )

    def to_text(self) -> str:
        """Canonical JSON, ASCII."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, eq=False)
class Column:
    """An array that is written block by block, so that it need not fit in memory."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    blocks: Iterable[NDArray[Any]]

    @property
    def size(self) -> int:
        """The bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, name: str, values: NDArray[Any]) -> "Column":
        """A column of values in memory."""
        plain = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        return cls(name, plain.dtype, plain.shape, [plain])


def columns_of(
    feature_set: FeatureSet, more: Mapping[str, NDArray[Any]] | None = None
) -> Iterator[Column]:
    """The arrays of a set.

    Args:
        feature_set: The set.
        more: Further columns (n,) of the n examples that have features.

    Raises:
        ExamplesError: a further column has another length.
    """
    shape = (len(feature_set), *feature_set.feature_shape)
    for view in range(feature_set.views + 1):
        name, rows = feature_name(view), rows_of(feature_set, view)
        yield Column(name, feature_set.table.dtype, shape, rows)
    examples = feature_set.examples
    hidden = examples.quarantined
    for prefix, chosen in (("", ~hidden), (HIDDEN, hidden)):
        if chosen.any():
            yield Column.of(f"{prefix}ids", examples.ids[chosen])
            yield Column.of(f"{prefix}labels", examples.labels[chosen])
            yield Column.of(f"{prefix}digests", examples.digests[chosen])
    for name, values in (more or {}).items():
        if len(values) != len(feature_set):
            raise ExamplesError(f"{name}: {len(values)} values for {len(feature_set)} examples")
        yield Column.of(name, values)


def feature_name(view: int) -> str:
    """The name of the array of a view's features."""
    return f"features_{view}" if view else "features"


def rows_of(feature_set: FeatureSet, view: int) -> Iterator[NDArray[Any]]:
    """The rows of all examples that have features, in the stored dtype, in blocks of 4 MiB."""
    ids, step = feature_set.ids, rows_at_once(feature_set)
    for start in range(0, len(ids), step):
        yield feature_set.rows(ids[start : start + step], view)


def rows_at_once(feature_set: FeatureSet) -> int:
    """How many rows are written together."""
    return max(1, BATCH_BYTES // max(1, feature_set.table.row_bytes))


def export_npz(
    feature_set: FeatureSet, path: Path, more: Mapping[str, NDArray[Any]] | None = None
) -> None:
    """Write the arrays of a set, its classes and its description as an uncompressed `.npz`.

    `numpy.load` reads it. The features are written in batches, so that memory does not grow with
    the set.

    Args:
        feature_set: The set.
        path: The file.
        more: Further columns (len,) of the examples that have features.
    """
    text = np.frombuffer(Description.of(feature_set).to_text().encode(), np.uint8)
    columns = [
        *columns_of(feature_set, more),
        Column.of("classes", np.array(feature_set.classes)),
        Column.of(DESCRIPTION, text),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for column in columns:
            descr = np.lib.format.dtype_to_descr(column.dtype)
            header = {"descr": descr, "fortran_order": False, "shape": column.shape}
            with _member(archive, column.name) as file:
                np.lib.format.write_array_header_1_0(file, header)
                for block in column.blocks:
                    file.write(block.tobytes())


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    info = zipfile.ZipInfo(f"{name}.npy")  # its date is 1980: equal sets give equal files
    with archive.open(info, "w", force_zip64=True) as file:
        yield file


def export_safetensors(
    feature_set: FeatureSet, path: Path, more: Mapping[str, NDArray[Any]] | None = None
) -> None:
    """Write the arrays of a set as a safetensors file.

    The format has no text, so ids become rows of bytes that are padded with zeros. The format's own
    library is not used, because it needs all values in memory.

    Args:
        feature_set: The set.
        path: The file.
        more: Further columns (len,) of the examples that have features.
    """
    description = Description.of(feature_set).to_text()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("xb") as file:
        write_safetensors(file, columns_of(feature_set, more), {DESCRIPTION: description})


def write_safetensors(
    file: IO[bytes], columns: Iterable[Column], metadata: Mapping[str, str]
) -> None:
    """Write columns and metadata as a safetensors file.

    Columns of the widest type come first, so that every column is aligned.
    """
    ordered = sorted(
        map(_as_numbers, columns), key=lambda column: (-column.dtype.itemsize, column.name)
    )
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for column in ordered:
        start, end = end, end + column.size
        header[column.name] = {
            "dtype": SAFETENSORS[column.dtype.str],
            "shape": list(column.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % _ALIGNED)
    file.write(len(text).to_bytes(8, "little") + text)
    for column in ordered:
        for block in column.blocks:
            file.write(block.tobytes())


def _as_numbers(column: Column) -> Column:
    """A column of byte strings as rows of bytes; other columns as they are."""
    if column.dtype.kind != "S":
        return column
    shape = (*column.shape, column.dtype.itemsize)
    blocks = (block.view(np.uint8).reshape(-1, shape[-1]) for block in column.blocks)
    return Column(column.name, np.dtype("|u1"), shape, blocks)

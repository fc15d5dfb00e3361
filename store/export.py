"""A feature set in formats that other tools read."""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from cryobase.store.examples import decode_id, encode_id
from cryobase.store.publish import replacing
from cryobase.store.reader import FeatureSet
from cryobase.store.text import csv_line

_BATCH_BYTES = 1 << 22
_PROJECTOR = """embeddings {{
  tensor_name: "{name}"
  tensor_shape: {rows}
  tensor_shape: {width}
  tensor_path: "tensors.tsv"
  metadata_path: "metadata.tsv"
}}
"""


def export_npz(feature_set: FeatureSet, path: Path) -> None:
    """Write `features` (n, …), `labels` (n,), `ids` (n,) and `classes`, without compression.

    The features are written in batches, so that memory does not grow with the set.
    """
    dtype, shape = feature_set.table.dtype, (len(feature_set), *feature_set.feature_shape)
    ids, step = feature_set.ids, _rows_of_a_batch(feature_set)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    small = {"labels": feature_set.labels(), "ids": ids}
    small["classes"] = np.array(feature_set.classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with _member(archive, "features") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(ids), step):
                file.write(feature_set.rows(ids[start : start + step]).data)
        for name, values in small.items():
            with _member(archive, name) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def export_csv(feature_set: FeatureSet, path: Path) -> None:
    """Write one line for each example: id, class, then the features of the plain image in order.

    Ids and classes that a spreadsheet would run have a `'` in front, see `text.cell`.
    """
    width = int(np.prod(feature_set.feature_shape))
    ids, classes = feature_set.ids, feature_set.classes
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        file.write(csv_line(["id", "class", *(f"feature_{column}" for column in range(width))]))
        start = 0
        for features, labels in feature_set.batches(None, _rows_of_a_batch(feature_set)):
            names = ids[start : start + len(labels)]
            start += len(labels)
            for name, label, row in zip(names, labels, features, strict=True):
                file.write(csv_line([decode_id(name), classes[label], *row.ravel().tolist()]))


def export_projector(feature_set: FeatureSet, directory: Path) -> None:
    r"""Write a folder for TensorBoard's embedding projector.

    `tensors.tsv` has a line of features for each example, `metadata.tsv` its id and class below a
    header, `projector_config.pbtxt` names both. Tabs and line feeds in ids and classes are written
    `\x09` and `\x0a`, and backslashes twice; `decode_id` gives them back.
    """
    width = int(np.prod(feature_set.feature_shape))
    line = "\t".join(["%.9g"] * width) + "\n"
    config = _PROJECTOR.format(name=feature_set.spec.backbone, rows=len(feature_set), width=width)
    directory.mkdir(parents=True, exist_ok=True)
    with (
        replacing(directory / "projector_config.pbtxt") as configured,
        replacing(directory / "metadata.tsv") as metadata,
        replacing(directory / "tensors.tsv") as tensors,
    ):
        configured.write_text(config, encoding="utf-8")
        _write_metadata(feature_set, metadata)
        with tensors.open("w", encoding="ascii", newline="") as file:
            for features, _ in feature_set.batches(None, _rows_of_a_batch(feature_set)):
                rows = features.reshape(len(features), width).tolist()
                file.writelines(line % tuple(row) for row in rows)


def _write_metadata(feature_set: FeatureSet, path: Path) -> None:
    classes = [_cell(encode_id(name)) for name in feature_set.classes]
    labels = feature_set.labels().tolist()
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("id\tclass\n")
        for name, label in zip(feature_set.ids.tolist(), labels, strict=True):
            file.write(f"{_cell(name)}\t{classes[label]}\n")


def _cell(text: bytes) -> str:
    """An encoded id without control characters, which would end a cell or a line."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", text.decode())


def _rows_of_a_batch(feature_set: FeatureSet) -> int:
    return max(1, _BATCH_BYTES // max(1, feature_set.table.row_bytes))


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    info = zipfile.ZipInfo(f"{name}.npy")  # its date is 1980: equal sets give equal files
    with archive.open(info, "w", force_zip64=True) as file:
        yield file

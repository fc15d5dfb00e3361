"""Writing a feature set as text for other tools: CSV, and TensorBoard's projector.

`cryobase.store.arrays` writes files of arrays.
"""

import re
from pathlib import Path

import numpy as np

from cryobase.store.arrays import rows_at_once
from cryobase.store.examples import decode_id, encode_id
from cryobase.store.publish import replacing
from cryobase.store.reader import FeatureSet
from cryobase.store.text import csv_line

_PROJECTOR = """embeddings {{
  tensor_name: "{name}"
  tensor_shape: {rows}
  tensor_shape: {width}
  tensor_path: "tensors.tsv"
  metadata_path: "metadata.tsv"
}}
"""


def export_csv(feature_set: FeatureSet, path: Path) -> None:
    """Write one line for each example: id, class, then the features of the plain image.

    An id or class that a spreadsheet would run as a formula gets a `'` in front, see `text.cell`.
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
        for features, labels in feature_set.batches(None, rows_at_once(feature_set)):
            names = ids[start : start + len(labels)]
            start += len(labels)
            for name, label, row in zip(names, labels, features, strict=True):
                file.write(csv_line([decode_id(name), classes[label], *row.ravel().tolist()]))


def export_projector(feature_set: FeatureSet, directory: Path) -> None:
    r"""Write a folder for TensorBoard's embedding projector.

    `tensors.tsv` has a line of features for each example. `metadata.tsv` has a header, then a line
    with id and class for each example. `projector_config.pbtxt` names both files. In ids and
    classes, tabs become `\x09`, line feeds `\x0a`, and a backslash becomes two; `decode_id` is the
    reverse.
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
            for features, _ in feature_set.batches(None, rows_at_once(feature_set)):
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
    """An encoded id with control characters escaped: they would end a cell or a line."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\x{ord(match[0]):02x}", text.decode())

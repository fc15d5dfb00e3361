"""A feature set in formats that other tools read."""

import csv
import os
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from store.examples import decode_id
from store.reader import FeatureSet

_BATCH = 1024


def export_npz(feature_set: FeatureSet, path: Path) -> None:
    """Write `features` (n, …), `labels` (n,), `ids` (n,) and `classes`, without compression.

    The features are written in batches, so that memory does not grow with the set.
    """
    dtype, shape = feature_set.table.dtype, (len(feature_set), *feature_set.feature_shape)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    small = {"labels": feature_set.labels(), "ids": feature_set.ids}
    small["classes"] = np.array(feature_set.classes)
    with _replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with _member(archive, "features") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(feature_set), _BATCH):
                file.write(feature_set.rows(feature_set.ids[start : start + _BATCH]).data)
        for name, values in small.items():
            with _member(archive, name) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def export_csv(feature_set: FeatureSet, path: Path) -> None:
    """Write one line for each example: id, class, then the features of the plain image in order."""
    width = int(np.prod(feature_set.feature_shape))
    ids, classes = feature_set.ids, feature_set.classes
    with _replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "class", *(f"feature_{column}" for column in range(width))])
        start = 0
        for features, labels in feature_set.batches(None, _BATCH):
            names = ids[start : start + len(labels)]
            start += len(labels)
            for name, label, row in zip(names, labels, features, strict=True):
                text = decode_id(name).encode("utf-8", "backslashreplace").decode()
                writer.writerow([text, classes[label], *row.ravel().tolist()])


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes `path` once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    info = zipfile.ZipInfo(f"{name}.npy")  # its date is 1980: equal sets give equal files
    with archive.open(info, "w", force_zip64=True) as file:
        yield file

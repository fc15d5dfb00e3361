"""Canary files: features of fixed probe images, kept to notice when a library's results change.

This module builds and reads the file. `pool_files` stores it.
"""

import io
import os
import re
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.store.errors import IntegrityError
from cryobase.store.files import bytes_of, digest_of, open_regular, read_into
from cryobase.store.manifest import MAX_RANK, FileInfo

_MAX_HEADER = 1024
# The header that `build_canary` writes. numpy's own reader evaluates the header as Python text and
# raises errors of many types, so hostile files must not reach it.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '<f4', 'fortran_order': False,"
    rb" 'shape': \(((?:[0-9]{1,18}, ?)*(?:[0-9]{1,18})?)\), \} *\n",
    re.DOTALL,
)
_PREFIX = 10  # bytes before the header's text


def build_canary(features: NDArray[Any]) -> tuple[FileInfo, bytes]:
    """The bytes of a canary file (npy, float32) and its entry in a manifest."""
    buffer = io.BytesIO()
    values = np.ascontiguousarray(features, "<f4")
    np.lib.format.write_array(buffer, values, version=(1, 0), allow_pickle=False)
    return FileInfo.of("canary", buffer.getvalue()), buffer.getvalue()


def load_canary(directory: Path, info: FileInfo) -> NDArray[np.float32]:
    """The features of a canary file.

    Raises:
        IntegrityError: the size or SHA-256 differs from the manifest, or the header is not one
            that `build_canary` writes.
    """
    path = directory / info.name
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        if size != info.size:
            raise IntegrityError(f"{path}: {size} bytes, the manifest says {info.size}")
        shape, start = _header(os.pread(descriptor, _MAX_HEADER, 0), path)
        if any(side < 1 for side in shape) or 4 * prod(shape) != size - start:
            raise IntegrityError(f"{path}: {size} bytes do not hold float32 of {shape}")
        if digest_of(descriptor) != info.sha256:
            raise IntegrityError(f"{path}: its SHA-256 is not the manifest's")
        features = np.empty(shape, "<f4")
        read_into(descriptor, bytes_of(features), start, path)
    finally:
        os.close(descriptor)
    return features


def _header(data: bytes, path: Path) -> tuple[tuple[int, ...], int]:
    """The shape in a canary file's header, and the byte offset of its values."""
    header = _HEADER.match(data)
    if not header or header.end() != _PREFIX + int.from_bytes(header[1], "little"):
        raise IntegrityError(f"{path}: does not begin as an npy file of float32")
    shape = tuple(map(int, header[2].replace(b",", b" ").split()))
    if len(shape) > MAX_RANK + 1:
        raise IntegrityError(f"{path}: {len(shape)} dimensions, at most {MAX_RANK + 1} are read")
    return shape, header.end()

"""Canary rows: the features of fixed probe images, kept to notice when a library's values drift."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.errors import IntegrityError
from store.files import MEND, read_file
from store.manifest import FileInfo

_MAX_BYTES = 1 << 28


def build_canary(features: NDArray[Any]) -> tuple[FileInfo, bytes]:
    """The bytes of a canary file (npy, float32) and what a manifest says of it."""
    buffer = io.BytesIO()
    values = np.ascontiguousarray(features, "<f4")
    np.lib.format.write_array(buffer, values, version=(1, 0), allow_pickle=False)
    return FileInfo.of("canary", buffer.getvalue()), buffer.getvalue()


def load_canary(directory: Path, info: FileInfo) -> NDArray[np.float32]:
    """The features of a canary file.

    Raises:
        IntegrityError: its SHA-256 is not the manifest's, or it is no npy file.
    """
    path = directory / info.name
    data = read_file(path, _MAX_BYTES)
    if FileInfo.of("canary", data) != info:
        raise IntegrityError(f"{path}: its SHA-256 is not the manifest's; {MEND}")
    try:
        # At most as many values as there are bytes: a header may claim more than the file has.
        features = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise IntegrityError(f"{path}: {error}; {MEND}") from None
    return np.asarray(features, np.float32)

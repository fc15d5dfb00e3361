"""Writing files of outputs: an existing file is always replaced, never opened for writing.

A file that DVC has committed is a read-only hard link into its cache. Writing into such a file is
forbidden, or, for root, changes the cache.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cryobase.stages.errors import DataError
from cryobase.store.publish import remove, replacing, write
from cryobase.store.text import csv_line


def replace(path: Path, data: bytes) -> None:
    """Write a complete file, replacing an existing file. Missing folders are made.

    Raises:
        DataError: the disk is full, or permissions forbid it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            write(temporary, data, mode=0o644)
            if path.is_dir() and not path.is_symlink():
                remove(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({os.strerror(error.errno or 0)}); make room, or check"
            " its permissions"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Replace a file by UTF-8 text with Unix line ends, the same bytes on every system."""
    replace(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, document: Any) -> None:
    """Replace a file by one JSON document. NaN or infinity is a mistake of the caller."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def write_table(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Replace a CSV file by a header and rows. No cell is a formula; see `store.text.cell`."""
    write_text(path, "".join(map(csv_line, (header, *rows))))

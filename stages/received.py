"""Files that may come from somebody else: regular, no larger than expected, opened once."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from cryobase.stages.errors import DataError


@contextmanager
def opened(path: Path, limit: int) -> Iterator[BufferedReader]:
    """A file of at most `limit` bytes, for reading.

    Raises:
        DataError: it is a FIFO, directory or device, or larger.
        OSError: there is none, or it cannot be opened.
    """
    # A FIFO without O_NONBLOCK would wait for its writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise DataError(f"{path}: not a regular file")
    with open(descriptor, "rb") as file:
        if found.st_size > limit:
            raise DataError(f"{path}: {found.st_size:,} bytes, at most {limit:,} are read")
        yield file

"""Opening files that may come from somebody else: only regular files, only up to a limit of bytes.

Each file is opened once, so that it cannot be exchanged between check and use.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from cryobase.stages.errors import DataError
from cryobase.store.errors import IntegrityError
from cryobase.store.files import open_regular


@contextmanager
def opened(path: Path, limit: int, *, follow: bool = True) -> Iterator[BufferedReader]:
    """A file of at most `limit` bytes, for reading.

    Args:
        path: the file.
        limit: the most bytes that the file may have.
        follow: whether it may be a symbolic link. Set it for files that a user names or DVC links,
            never for files in a cache.

    Raises:
        DataError: it is a FIFO, directory or device, a link without `follow`, or too large.
        OSError: it does not exist, or cannot be opened.
    """
    try:
        descriptor = open_regular(path, follow=follow)
    except IntegrityError as error:
        raise DataError(str(error)) from None
    with open(descriptor, "rb") as file:
        if (size := os.fstat(descriptor).st_size) > limit:
            raise DataError(f"{path}: {size:,} bytes, at most {limit:,} are read")
        yield file


def open_data(path: Path, *, follow: bool = False, mend: str = "check the path") -> int:
    """A descriptor of a regular file. A symbolic link is followed only with `follow`.

    Raises:
        DataError: the file cannot be read, or is a FIFO, directory or device; the message ends
            with `mend`.
    """
    try:
        return open_regular(path, follow=follow)
    except IntegrityError:
        raise DataError(f"{path}: not a regular file; {mend}") from None
    except OSError as error:
        reason = error.strerror or os.strerror(errno.ENOENT)
        raise DataError(f"{path}: cannot be read ({reason}); {mend}") from None

"""Files that may come from somebody else: regular, no larger than expected, opened once."""

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
        limit: bytes.
        follow: whether it may be a symbolic link: what a user names may, and what DVC puts there;
            what lies in a cache may not.

    Raises:
        DataError: it is a FIFO, directory or device, a link without `follow`, or larger.
        OSError: there is none, or it cannot be opened.
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
    """A descriptor of a regular file, never of a FIFO or device, of a link only with `follow`.

    Raises:
        DataError: there is none; the message ends in `mend`.
    """
    try:
        return open_regular(path, follow=follow)
    except IntegrityError:
        raise DataError(f"{path}: not a regular file; {mend}") from None
    except OSError as error:
        reason = error.strerror or os.strerror(errno.ENOENT)
        raise DataError(f"{path}: cannot be read ({reason}); {mend}") from None

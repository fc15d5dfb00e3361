"""Reading files that may be hostile.

A path may change at any time, so a file is opened once and then read through its descriptor. This
module never writes; `publish` does.
"""

import errno
import hashlib
import os
import resource
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.store.errors import IntegrityError, MissingFileError, StorageError

_BLOCK = 1 << 18


def allow_open_files(count: int) -> None:
    """Raise this process' limit of open files to at least `count` plus a reserve."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def open_regular(path: Path, *, follow: bool = False) -> int:
    """A read-only descriptor of a regular file.

    Args:
        path: The file.
        follow: Whether the path may be a symbolic link to a regular file.

    Raises:
        MissingFileError: there is no such file.
        IntegrityError: it is a FIFO, directory, socket or device, or a link without `follow`.
        StorageError: it cannot be opened.
    """
    # Without O_NONBLOCK, opening a FIFO would wait for a writer forever.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        mode = os.stat(path, follow_symlinks=follow).st_mode
        if stat.S_ISREG(mode):  # checked first: opening a device can have effects
            descriptor = os.open(path, flags)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
            os.close(descriptor)  # the file was replaced after the first check
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except OSError as error:
        raise StorageError(error.errno, os.strerror(error.errno or 0), str(path)) from None
    except ValueError as error:  # a NUL in the path
        raise StorageError(errno.EINVAL, str(error), str(path)) from None
    link = "a symbolic link, " if stat.S_ISLNK(mode) else ""
    raise IntegrityError(f"{path}: {link}not a regular file")


def read_into(descriptor: int, buffer: memoryview, offset: int, path: Path) -> None:
    """Fill `buffer` with the bytes from `offset` on.

    Raises:
        IntegrityError: the file ends before the buffer is full.
    """
    while len(buffer):
        count = os.preadv(descriptor, [buffer], offset)
        if count == 0:
            raise IntegrityError(f"{path}: ends at byte {offset}, expected more")
        buffer, offset = buffer[count:], offset + count


def read_file(path: Path, limit: int) -> bytes:
    """All bytes of a regular file.

    Raises:
        StoreError: it is missing, not a regular file, or larger than `limit` bytes.
    """
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise IntegrityError(f"{path}: {size} bytes, at most {limit} are allowed")
        data = bytearray(size)
        read_into(descriptor, memoryview(data), 0, path)
        return bytes(data)
    finally:
        os.close(descriptor)


def digest_of(descriptor: int, algorithm: str = "sha256") -> str:
    """The digest of an open file's bytes as hexadecimal digits; its position stays."""
    state = hashlib.new(algorithm, usedforsecurity=False)
    # Stops at the size of now: a file that grows all the time would have no end.
    buffer, offset, size = memoryview(bytearray(_BLOCK)), 0, os.fstat(descriptor).st_size
    while count := os.preadv(descriptor, [buffer[: size - offset]], offset):
        state.update(buffer[:count])
        offset += count
    return state.hexdigest()


def bytes_of(array: NDArray[Any]) -> memoryview:
    """The memory of a contiguous array, for reading into it."""
    return array.reshape(-1).view(np.uint8).data

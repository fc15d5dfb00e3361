"""Reading a file that may be hostile: once opened, only its descriptor is trusted."""

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
    """Raise this process' limit of open files where it is below `count` and some to spare."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def open_regular(path: Path) -> int:
    """A read-only descriptor of `path`, which must be a regular file and no symbolic link.

    Raises:
        MissingFileError: there is no such file.
        IntegrityError: it is a link, FIFO, directory or device.
        StorageError: it cannot be opened.
    """
    try:
        # A FIFO without O_NONBLOCK would wait for its writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise IntegrityError(f"{path}: a symbolic link, not a regular file") from None
        if error.errno == errno.ENXIO:
            raise IntegrityError(f"{path}: a socket, not a regular file") from None
        raise StorageError(error.errno, os.strerror(error.errno or 0), str(path)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IntegrityError(f"{path}: not a regular file")
    return descriptor


def read_into(descriptor: int, buffer: memoryview, offset: int, path: Path) -> None:
    """Fill `buffer` from `offset` on; a file that has become shorter is an error, never zeros."""
    while len(buffer):
        count = os.preadv(descriptor, [buffer], offset)
        if count == 0:
            raise IntegrityError(f"{path}: ends at byte {offset}, expected more")
        buffer, offset = buffer[count:], offset + count


def read_file(path: Path, limit: int) -> bytes:
    """The whole of a regular file of at most `limit` bytes."""
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
    """The digest of an open file's bytes as hexadecimal digits; its position is left alone."""
    state = hashlib.new(algorithm, usedforsecurity=False)
    # Up to its size: a file that somebody makes longer all the time has no end.
    buffer, offset, size = memoryview(bytearray(_BLOCK)), 0, os.fstat(descriptor).st_size
    while count := os.preadv(descriptor, [buffer[: size - offset]], offset):
        state.update(buffer[:count])
        offset += count
    return state.hexdigest()


def bytes_of(array: NDArray[Any]) -> memoryview:
    """The memory of a contiguous array, for reading into it."""
    return array.reshape(-1).view(np.uint8).data

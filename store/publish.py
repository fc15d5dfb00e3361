"""Publishing files: whole or not at all, durable, and never over another one.

Everything that the store writes goes through this module. HDF5 never opens a file for writing: a
full disk ends there in a segmentation fault, and a second writer truncates the first one's file.
"""

import errno
import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryobase.store.errors import ConflictError, IntegrityError, StorageError, StoreError
from cryobase.store.files import open_regular, read_file

log = logging.getLogger(__name__)

TEMPORARY_PREFIX = ".tmp-"
SHORTEST = 16  # hex digits of the SHA-256 in a name that is made from the content

# Another disk, another user's file under fs.protected_hardlinks, too many links, no links at all.
_CANNOT_LINK = {
    errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP,
}  # fmt: skip


def publish_bytes(directory: Path, name: str, data: bytes) -> Path:
    """Make `data` durable under a name that is free; an identical file there is success.

    Args:
        directory: Where to publish; it is made where it is missing.
        name: The final name, usually made from the content.
        data: All bytes of the file.

    Returns:
        The path of the published file, readable by whoever may read the directory.

    Raises:
        ConflictError: another file has that name, and the name is not made from the content.
        StorageError: the disk is full or fails, or permissions forbid it; nothing is left behind.
    """
    path = directory / name
    make_directory(directory)
    with storage_errors(path), free_name(directory) as temporary:
        write(temporary, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            if not _holds(path, data):
                if hashlib.sha256(data).hexdigest()[:SHORTEST] not in name:
                    raise ConflictError(f"{path}: there already, with other content") from None
                log.warning("%s: damaged, written anew", path)
                remove(path)
                os.link(temporary, path)
        os.unlink(temporary)
        sync_directory(directory)
    return path


def share(source: Path, target: Path) -> None:
    """Make `target` the same file as `source` by a hard link, or a copy where none is possible.

    A target that is another file is replaced, so that what DVC copied shares one inode again. Both
    names must be made from the content: a copy of the right size is then left as it is.

    Raises:
        StoreNotFoundError: there is no source.
        StorageError: the disk is full or fails, or permissions forbid it.
    """
    with storage_errors(target), _opened(source) as origin:
        found = os.lstat(target) if os.path.lexists(target) else None
        wanted = os.fstat(origin)
        if found and (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return
        with free_name(target.parent) as temporary:
            try:
                os.link(source, temporary)
            except OSError as error:
                if error.errno not in _CANNOT_LINK:
                    raise
                if found and stat.S_ISREG(found.st_mode) and found.st_size == wanted.st_size:
                    return
                _copy(origin, temporary)
            os.replace(temporary, target)
            sync_directory(target.parent)


def copy(source: Path, target: Path, size: int) -> None:
    """Copy a file of `size` bytes, which may be hostile, to a name that is free.

    Raises:
        IntegrityError: it is no regular file, or of another size.
        StorageError: the disk is full or fails, or permissions forbid it.
    """
    with storage_errors(target), _opened(source) as origin:
        if os.fstat(origin).st_size != size:
            raise IntegrityError(f"{source}: not the {size} bytes that its manifest says")
        with free_name(target.parent) as temporary:
            _copy(origin, temporary)
            os.link(temporary, target)


def remove(path: Path) -> None:
    """Remove a file; one that is gone already is success. A directory is moved out of the way."""
    with storage_errors(path):
        if path.is_dir() and not path.is_symlink():
            os.replace(path, path.with_name(f"aside-{secrets.token_hex(4)}-{path.name}"))
        else:
            _discard(path)


def make_directory(directory: Path) -> None:
    """Make a directory and its parents; below a group-writable one they get its mode."""
    with storage_errors(directory):
        if directory.is_dir():
            return
        make_directory(directory.parent)
        try:
            os.mkdir(directory)
        except FileExistsError:
            if not directory.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "") from None
            return
        except FileNotFoundError:  # its parent is there, but takes none, as /proc
            reason = "no directory can be made there"
            raise StorageError(errno.ENOENT, reason, str(directory)) from None
        parent = directory.parent.stat().st_mode
        if parent & stat.S_IWGRP and not parent & stat.S_ISVTX:  # /tmp shares nothing by itself
            os.chmod(directory, stat.S_IMODE(parent))


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors into the store's, naming the file."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StoreError) or error.errno is None:
            raise
        raise StorageError(error.errno, os.strerror(error.errno), str(path)) from error


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = open_regular(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A free name beside `path`; without an error, what has it in the end becomes `path`.

    Use it for what may change under one name; what is immutable is published.
    """
    with free_name(path.parent) as temporary:
        yield temporary
        os.replace(temporary, path)


@contextmanager
def free_name(directory: Path, suffix: str = "") -> Iterator[Path]:
    """A free name in `directory`; whatever has it in the end is removed."""
    path = directory / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{suffix}"
    try:
        yield path
    finally:
        _discard(path)


def _discard(path: Path) -> None:
    """Remove `path` if it is there, trying twice: a leftover would wait for a sweep."""
    for last in (False, True):
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except OSError:
            if last:
                raise
        else:
            return


def write(path: Path, data: bytes, mode: int | None = None) -> None:
    """Write a new file and make its bytes durable.

    Args:
        path: A name that is free.
        data: All bytes of the file.
        mode: Its mode, less the umask; readable by whoever may read the directory if None.
    """
    descriptor = _create(path, mode)
    try:
        _write_all(descriptor, data)
        # After a failed fsync the file is discarded: a second fsync would report success.
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(origin: int, path: Path) -> None:
    descriptor = _create(path)
    try:
        offset = 0
        while block := os.pread(origin, 1 << 20, offset):
            _write_all(descriptor, block)
            offset += len(block)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create(path: Path, mode: int | None = None) -> int:
    """A new file; without a mode, whoever may read its directory reads it, and nobody writes."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    if mode is not None:
        return os.open(path, flags, mode)
    descriptor = os.open(path, flags, 0o600)
    try:
        os.fchmod(descriptor, 0o444 & path.parent.stat().st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _holds(path: Path, data: bytes) -> bool:
    """Whether a regular file holds exactly `data`."""
    found = path.lstat()
    whole = stat.S_ISREG(found.st_mode) and found.st_size == len(data)
    return whole and read_file(path, len(data)) == data

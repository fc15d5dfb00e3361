"""Writing files: complete or not at all, durable, and never over another file.

The store writes files only here. HDF5 never opens a file for writing: on a full disk it crashes
with a segmentation fault, and a second writer would truncate the first writer's file.
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
SHORTEST = 16  # fewest hex digits of the SHA-256 in a name that is made from the content

# Another disk; another user's file under fs.protected_hardlinks; too many links; no hard links.
_CANNOT_LINK = {
    errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP,
}  # fmt: skip


def publish_bytes(directory: Path, name: str, data: bytes) -> Path:
    """Write `data` durably under a new name. If an identical file has the name, that is success.

    Args:
        directory: The directory; it is made if it is missing.
        name: The final name, usually made from the content.
        data: All bytes of the file.

    Returns:
        The path of the file. All users who may read the directory may read it.

    Raises:
        ConflictError: another file has the name, and the name is not made from the content.
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
                log.warning("%s: damaged, written again", path)
                remove(path)
                os.link(temporary, path)
        os.unlink(temporary)
        sync_directory(directory)
    return path


def share(source: Path, target: Path) -> None:
    """Make `target` a hard link of `source`, or a copy if no hard link is possible.

    If the target is another file, it is replaced, so that a file that DVC copied shares one inode
    again. Both names must be made from the content: so a copy of the right size can stay.

    Raises:
        StoreNotFoundError: the source is missing.
        StorageError: the disk is full or fails, or permissions forbid it.
    """
    with storage_errors(target), _opened(source) as origin:
        present = os.lstat(target) if os.path.lexists(target) else None
        wanted = os.fstat(origin)
        if present and (present.st_dev, present.st_ino) == (wanted.st_dev, wanted.st_ino):
            return
        with free_name(target.parent) as temporary:
            try:
                os.link(source, temporary)
            except OSError as error:
                if error.errno not in _CANNOT_LINK:
                    raise
                if present and stat.S_ISREG(present.st_mode) and present.st_size == wanted.st_size:
                    return
                _copy(origin, temporary)
            os.replace(temporary, target)
            sync_directory(target.parent)


def copy(source: Path, target: Path, size: int) -> None:
    """Copy a file of `size` bytes, which may be hostile, to a new name.

    Raises:
        IntegrityError: it is not a regular file, or has another size.
        StorageError: the disk is full or fails, or permissions forbid it.
    """
    with storage_errors(target), _opened(source) as origin:
        if os.fstat(origin).st_size != size:
            raise IntegrityError(f"{source}: not the {size} bytes that its manifest says")
        with free_name(target.parent) as temporary:
            _copy(origin, temporary)
            os.link(temporary, target)


def remove(path: Path) -> None:
    """Remove a file, if it exists. A directory in its place is renamed instead."""
    with storage_errors(path):
        if path.is_dir() and not path.is_symlink():
            os.replace(path, path.with_name(f"aside-{secrets.token_hex(4)}-{path.name}"))
        else:
            _discard(path)


def make_directory(directory: Path) -> None:
    """Make a directory and its parents. Below a group-writable directory they get its mode."""
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
        except FileNotFoundError:  # the parent allows no directories, for example /proc
            reason = "no directory can be made there"
            raise StorageError(errno.ENOENT, reason, str(directory)) from None
        parent = directory.parent.stat().st_mode
        # But not below /tmp, which is sticky.
        if parent & stat.S_IWGRP and not parent & stat.S_ISVTX:
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
    """Turn OSError into StorageError, which names the file."""
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
    """Yield a temporary path beside `path`. Without an error, that file replaces `path` at the end.

    Use this for files that change. Immutable files are published with `publish_bytes`.
    """
    with free_name(path.parent) as temporary:
        yield temporary
        os.replace(temporary, path)


@contextmanager
def free_name(directory: Path, suffix: str = "") -> Iterator[Path]:
    """Yield a free temporary path in `directory`. A file there is removed at the end."""
    path = directory / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{suffix}"
    try:
        yield path
    finally:
        _discard(path)


def _discard(path: Path) -> None:
    """Remove `path` if it exists. Try twice: a file that stays takes space until a sweep."""
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
        path: The path; no file may be there.
        data: All bytes of the file.
        mode: The file's mode, less the umask. If None, all users who may read the directory may
            read the file, and nobody may write it.
    """
    descriptor = _create(path, mode)
    try:
        _write_all(descriptor, data)
        # Callers discard the file if fsync fails: a second fsync would report success.
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
    """Open a new file for writing. For `mode` see `write`."""
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
    facts = path.lstat()
    whole = stat.S_ISREG(facts.st_mode) and facts.st_size == len(data)
    return whole and read_file(path, len(data)) == data

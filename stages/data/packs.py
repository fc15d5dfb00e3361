"""Packs: immutable, uncompressed, deterministic tar files of encoded images.

Members are named by their content, `<sha256>.<extension>`, so any tar reads a pack and WebDataset
finds one sample per member.
"""

import hashlib
import os
import re
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path

from stages.errors import DataError
from store.publish import publish_bytes

PACK_BYTES = 64 << 20
PACK_NAME = re.compile(r"\Apack-[0-9a-f]{16}\.tar\Z")
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Pack:
    """One published pack."""

    name: str
    bytes: int
    sha256: str


class PackWriter:
    """Collects images and publishes a pack whenever about 64 MiB are together."""

    def __init__(self, directory: Path, *, first: int = 0, pack_bytes: int = PACK_BYTES) -> None:
        """Packs get the numbers from `first` on; they lie in `directory`."""
        self.packs: list[Pack] = []
        self._directory = directory
        self._first = first
        self._pack_bytes = pack_bytes
        self._buffer = bytearray()

    def append(self, digest: bytes, extension: str, data: bytes) -> tuple[int, int]:
        """Add an image; its pack's number and the offset of its bytes in that pack."""
        if self._buffer and len(self._buffer) + len(data) > self._pack_bytes:
            self.flush()
        self._buffer += _member_header(f"{digest.hex()}.{extension}", len(data))
        offset = len(self._buffer)
        self._buffer += data
        self._buffer += bytes(-len(data) % BLOCK)
        return self._first + len(self.packs), offset

    def flush(self) -> None:
        """Publish what is together."""
        if not self._buffer:
            return
        self._buffer += bytes(2 * BLOCK)  # the end of a tar
        content = bytes(self._buffer)
        sha256 = hashlib.sha256(content).hexdigest()
        name = f"pack-{sha256[:16]}.tar"
        publish_bytes(self._directory, name, content)
        self.packs.append(Pack(name, len(content), sha256))
        self._buffer = bytearray()


def read_at(path: Path, offset: int, length: int) -> bytes:
    """Bytes of a regular file that is no link.

    Raises:
        DataError: it is missing, no regular file, or ends too early.
    """
    descriptor = open_regular(path)
    try:
        data = os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)
    if len(data) != length:
        raise DataError(
            f"{path}: ends before byte {offset + length:,}; delete it and run `cryobase download`"
        )
    return data


def open_regular(path: Path, *, follow: bool = False) -> int:
    """A descriptor of a regular file, never of a FIFO or device, of a link only with `follow`."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({os.strerror(error.errno or 0)});"
            " restore it or run `cryobase download`"
        ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"{path}: not a regular file; put the image itself there")
    return descriptor


def _member_header(name: str, size: int) -> bytes:
    """A tar header without times, owners or anything else of this machine."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    return member.tobuf(tarfile.USTAR_FORMAT)

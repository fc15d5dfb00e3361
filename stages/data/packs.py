"""Packs: immutable, uncompressed, deterministic tar files of encoded images.

The name of a member is made from its content: `<sha256>.<extension>`. Any tar program reads a pack,
and WebDataset takes each member as one sample.
"""

import hashlib
import os
import re
import shlex
import tarfile
from dataclasses import dataclass
from pathlib import Path

from cryobase.stages.data import headers
from cryobase.stages.errors import DataError
from cryobase.stages.received import open_data
from cryobase.store.publish import publish_bytes

PACK_BYTES = 64 << 20
MAX_PACK = 1 << 30  # bytes; the largest image that is read is 256 MiB
PACK_NAME = re.compile(r"\Apack-[0-9a-f]{16}\.tar\Z")
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Pack:
    """One published pack."""

    name: str
    bytes: int
    sha256: str


class PackWriter:
    """Collects images and publishes a pack for about every 64 MiB."""

    def __init__(self, directory: Path, *, first: int = 0, pack_bytes: int = PACK_BYTES) -> None:
        """Write packs into `directory`; the first one gets the number `first`."""
        self.packs: list[Pack] = []
        self._directory = directory
        self._first = first
        self._pack_bytes = pack_bytes
        self._buffer = bytearray()

    def append(self, digest: bytes, extension: str, data: bytes) -> tuple[int, int]:
        """Add an image. Returns its pack's number and the offset of its bytes in the pack."""
        if self._buffer and len(self._buffer) + len(data) > self._pack_bytes:
            self.flush()
        self._buffer += _member_header(f"{digest.hex()}.{extension}", len(data))
        offset = len(self._buffer)
        self._buffer += data
        self._buffer += bytes(-len(data) % BLOCK)
        return self._first + len(self.packs), offset

    def flush(self) -> None:
        """Publish the collected images."""
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
    """Bytes of a regular file; links are refused.

    Raises:
        DataError: it is missing, not a regular file, or ends too early.
    """
    descriptor = open_data(path, mend="run `cryobase download`")
    try:
        # The length is checked first, because pread allocates all of it.
        whole = 0 <= length <= min(headers.MAX_BYTES, os.fstat(descriptor).st_size - offset)
        data = os.pread(descriptor, length, offset) if whole else b""
    finally:
        os.close(descriptor)
    if not whole or len(data) != length:
        mend = anew(path)
        raise DataError(f"{path}: ends before byte {offset + length:,}; {mend}")
    return data


def read_image(path: Path) -> bytes:
    """The bytes of a received image file.

    Raises:
        DataError: it is missing, not a regular file, or larger than an image may be.
    """
    with os.fdopen(open_data(path, follow=True), "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > headers.MAX_BYTES:
            raise DataError(f"{path}: {size:,} bytes, at most {headers.MAX_BYTES:,} are read")
        return file.read(headers.MAX_BYTES)


def anew(path: Path) -> str:
    """The command that replaces a damaged pack.

    `download` checks only name and size of packs, so the damaged pack must be removed first.
    """
    return f"run `rm {shlex.quote(str(path))} && cryobase download`"


def _member_header(name: str, size: int) -> bytes:
    """A tar header without times, owners and other properties of this machine."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    return member.tobuf(tarfile.USTAR_FORMAT)

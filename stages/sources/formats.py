"""Recognising archives that are not read, and telling the user how to unpack them."""

import shlex
from pathlib import Path

from cryobase.stages.data import headers
from cryobase.stages.errors import DataError

MAX_FOLDERS = 100_000  # more than files; only a hostile archive has so many


class UnsupportedArchiveError(DataError):
    """The archive is valid, but of a kind that is not read; the message tells what to do.

    Readers of archives raise it without the archive's path; `unpack` adds the path.
    """


FOLDER = "download.source: folder"
BY_HAND = f"unpack it by hand and use {FOLDER}"
SPLIT = "a part of a split zip"
OTHER_FILE = "get the archive itself"
# first bytes -> (kind of file, how to unpack it: a shell command in backticks, or another text)
BEGINNINGS = {
    b"PK\x07\x08": (SPLIT, ""),
    b"PK00PK": (SPLIT, ""),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "`7z x {}`"),
    b"Rar!\x1a\x07": ("a RAR archive", "`unrar x {}`"),
    b"\xfd7zXZ\0": ("compressed by xz", "`tar -xJf {}`"),
    b"BZh": ("compressed by bzip2", "`tar -xjf {}`"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "`tar --zstd -xf {}`"),
    b"LZIP": ("compressed by lzip", "`tar --lzip -xf {}`"),
    b"\x04\x22\x4d\x18": ("compressed by lz4", "`lz4 -dc {} | tar -x`"),
    b"\x89LZO\0": ("compressed by lzop", "`tar --lzop -xf {}`"),
    b"]\0\0": ("compressed by lzma", "`tar --lzma -xf {}`"),
    b"\x1f\x9d": ("compressed by compress", "`tar -xZf {}`"),
    b"MSCF": ("a CAB archive", "`cabextract {}`"),
    b"!<arch>\n": ("an ar archive", "`ar x {}`"),
    b"07070": ("a cpio archive", "`cpio -id < {}`"),
    b"xar!": ("a xar archive", "`xar -xf {}`"),
    b"hsqs": ("a SquashFS image", "`unsquashfs {}`"),
    b"MZ": ("a Windows program, perhaps one that unpacks itself", "`7z x {}`"),
    b"version https://git-lfs": ("a Git LFS pointer, not the file", "run `git lfs pull`"),
    b"<!DOCTYPE": ("an HTML page, perhaps one to log in", OTHER_FILE),
    b"<!doctype": ("an HTML page, perhaps one to log in", OTHER_FILE),
    b"<html": ("an HTML page, perhaps one to log in", OTHER_FILE),
}


def kind_of(start: bytes) -> str:
    """What a file that begins so is known to be; "" if it is not known."""
    if headers.format_of(start):
        return "an image"
    return next((what for known, (what, _) in BEGINNINGS.items() if start.startswith(known)), "")


def describe(start: bytes, archive: Path) -> str:
    """Why a file with these first bytes is not read, and what to do."""
    matches = [known for beginning, known in BEGINNINGS.items() if start.startswith(beginning)]
    what, way = (
        matches[0] if matches else (f"begins with {start[:8].hex(' ') or 'nothing'}", BY_HAND)
    )
    if what == SPLIT:
        way = joined(archive)
    if way.startswith("`"):
        way = f"unpack it with {way.format(shlex.quote(str(archive)))} and use {FOLDER}"
    return f"not a .tar, .tar.gz or .zip file: {what}; {way}"


def joined(archive: Path) -> str:
    """The advice how to join a split zip."""
    last, whole = (archive.with_name(f"{archive.stem}{end}") for end in (".zip", "-whole.zip"))
    command = shlex.join(["zip", "-s", "0", str(last), "--out", str(whole)])
    return f"run `{command}` and set download.path to {whole}"


def refuse_folders(folders: int, files: int) -> None:
    """Refuse an archive with far more folders than files, while it is read.

    Raises:
        UnsupportedArchiveError: there are too many folders.
    """
    if folders > MAX_FOLDERS + files:
        raise UnsupportedArchiveError(
            f"{MAX_FOLDERS:,} folders more than files, which no images need; get another archive"
        )

"""What an archive is by its first bytes, and what is valid there but not read here."""

import shlex
from pathlib import Path

from cryobase.stages.errors import DataError

MAX_FOLDERS = 100_000  # beside one for every file; nobody packs more, but a bomb may


class UnsupportedArchiveError(DataError):
    """A sound archive that is packed in a way that is not read here; the message has the way out.

    Readers of archives raise it without the archive's path, which `unpack` puts in front.
    """


FOLDER = "download.source: folder"
BY_HAND = f"unpack it by hand and use {FOLDER}"
SPLIT = "a part of a split zip"
OTHER_FILE = "get the archive itself"
# first bytes -> what begins so, and how to unpack it: a command of the shell, or words of their own
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


def describe(start: bytes, archive: Path) -> str:
    """What begins so, that it is not read, and what to do."""
    found = [known for beginning, known in BEGINNINGS.items() if start.startswith(beginning)]
    what, way = found[0] if found else (f"begins with {start[:8].hex(' ') or 'nothing'}", BY_HAND)
    if what == SPLIT:
        way = joined(archive)
    if way.startswith("`"):
        way = f"unpack it with {way.format(shlex.quote(str(archive)))} and use {FOLDER}"
    return f"not a .tar, .tar.gz or .zip file: {what}; {way}"


def joined(archive: Path) -> str:
    """How to join a split zip."""
    last, whole = (archive.with_name(f"{archive.stem}{end}") for end in (".zip", "-whole.zip"))
    command = shlex.join(["zip", "-s", "0", str(last), "--out", str(whole)])
    return f"run `{command}` and set download.path to {whole}"


def refuse_folders(folders: int, files: int) -> None:
    """Refuse an archive of nothing but folders, while it is read."""
    if folders > MAX_FOLDERS + files:
        raise UnsupportedArchiveError(
            f"{MAX_FOLDERS:,} folders more than files, which no images need; get another archive"
        )

"""The source `folder`: images in class sub-folders, or with the label in their file names."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from cryobase.stages.data import patterns
from cryobase.stages.data.patterns import PatternReader
from cryobase.stages.errors import ConfigError, DataError
from cryobase.stages.received import open_data
from cryobase.stages.sources import left_out
from cryobase.stages.sources.left_out import Tally
from cryobase.stages.sources.source import Source, SourceConfig, SourceExample
from cryobase.store.examples import encode_id

log = logging.getLogger(__name__)

PART_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
MAX_DEPTH = 64
MAX_FOLDERS = 100_000  # more than files; listing a million takes half a minute
READ_TOGETHER = 1000  # names


@dataclass(frozen=True, kw_only=True)
class LabelledFiles(SourceConfig):
    """The keys that the sources `folder` and `archive` share.

    Attributes:
        path: the folder, or a local archive.
        pattern: a regular expression that finds the label in a file name. The label is the group
            `label`, or the first group, or without groups the whole match.
    """

    path: str = ""
    pattern: str | None = None

    def check(self, source: str) -> None:
        if self.pattern is not None:
            try:
                patterns.check(self.pattern)
            except ValueError as error:
                raise ValueError(f"pattern: {error}") from None


@dataclass(frozen=True, kw_only=True)
class FolderConfig(LabelledFiles):
    """Images in a folder.

    Attributes:
        in_place: do not copy the images; store only their index.
    """

    in_place: bool = False

    def check(self, source: str) -> None:
        super().check(source)
        if self.in_place and source != "folder":
            raise ValueError(f"in_place: only images of source folder can stay, not {source}")
        if source == "folder" and not self.path:
            raise ValueError("path: source folder needs one")


class Folder(Source):
    """`<class>/…`, `train|validation|test/<class>/…`, or file names with labels."""

    Config = FolderConfig

    def __init__(self, config: LabelledFiles, workspace: Path) -> None:
        """Prepare to read the folder of a config; the workspace is not used."""
        self.left_out = Tally()
        self._root = Path(config.path)
        self.shown = config.path  # the source's name in messages
        self._pattern = config.pattern
        self._classes: set[str] = set()

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted(self._classes))

    def examples(self) -> Iterator[SourceExample]:
        """Images by path, relative to the folder.

        Raises:
            DataError: the folder is missing, cannot be listed, or has no classes.
            ConfigError: the pattern finds no label in any file name.
        """
        if not self._root.is_dir():
            raise DataError(f"{self._root}: no such folder; put images there or set download.path")
        tops = children(self._root, "", self.left_out)
        parts = {name: part for name, part in map(_as_part, tops.directories) if part}
        others = [name for name in tops.directories if name not in parts]
        if "train" in parts.values() and (len(parts) > 1 or not others):
            self._leave_out_beside(tops.files, others)
            for name, part in parts.items():
                folder, prefix = self._root / name, f"{name}/"
                entries = children(folder, prefix, self.left_out)
                yield from self._labelled(folder, entries, prefix, part)
        else:
            yield from self._labelled(self._root, tops, "", None)
        unlabelled = self.left_out.counts[left_out.NO_LABEL]
        if self._pattern and unlabelled and not self._classes:
            raise ConfigError(
                f"download.pattern: {self._pattern!r} finds no label in any of the"
                f" {unlabelled:,} file names in {self.shown}; write one that does, or none"
                " where the sub-folders are the labels"
            )
        if not self._classes:
            only = f", only {_names(tops.files)}" if tops.files else ""
            raise DataError(
                f"{self.shown}: no class sub-folders with images{only}; put them into <class>/,"
                " or set download.pattern where the file names hold the labels"
            )

    @classmethod
    def other_folder(cls, config: LabelledFiles) -> str | None:
        return (
            None
            if config.pattern is not None
            else f"set download.path to {Path(config.path, '{}')}"
        )

    def _leave_out_beside(self, names: list[str], folders: list[str]) -> None:
        """Record every file outside the folders of the parts."""
        if folders:
            log.warning("%s: beside train and test, left out: %s", self.shown, _names(folders))
        for name in names:
            self.left_out.add(text(name), left_out.NO_PART)
        for name in folders:
            try:
                for _, inner in files(self._root / name, f"{name}/", self.left_out):
                    self.left_out.add(text(inner), left_out.NO_PART)
            except DataError:  # these files are not needed, so they may be unreadable
                self.left_out.add(text(name) + "/", left_out.NO_PART)

    def _labelled(
        self, folder: Path, found: "Children", prefix: str, part: str | None
    ) -> Iterator[SourceExample]:
        if self._pattern:
            with PatternReader("download.pattern", self._pattern, group="label") as reader:
                named = files(folder, prefix, self.left_out, found)
                while some := list(islice(named, READ_TOGETHER)):
                    labels = reader.read([os.path.basename(name) for _, name in some])
                    for (path, name), label in zip(some, labels, strict=True):
                        if label:
                            self._classes.add(text(label))
                            yield SourceExample(text(name), text(label), part, path)
                        else:
                            self.left_out.add(text(name), left_out.NO_LABEL)
            return
        for name in found.files:
            self.left_out.add(text(prefix + name), left_out.NO_CLASS)
        for name in found.directories:
            label = text(name)
            self._classes.add(label)
            for path, inner in files(folder / name, f"{prefix}{name}/", self.left_out):
                yield SourceExample(text(inner), label, part, path)


class Children(NamedTuple):
    """Names in a directory, in the order of their bytes."""

    directories: list[str]
    files: list[str]


def children(folder: Path, prefix: str, leaves: Tally) -> Children:
    """A directory's sub-folders, and its files that may be images. `leaves` records all others.

    Raises:
        DataError: the directory cannot be listed, so that images could be missing.
    """
    found = Children([], [])
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if len(found.directories) > MAX_FOLDERS + len(found.files):
                    raise _too_many_folders(folder)
                if reason := _sort_in(entry, found):
                    slash = "/" if reason in left_out.OF_FOLDERS else ""
                    leaves.add(text(prefix + entry.name) + slash, reason)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be listed ({os.strerror(error.errno or 0)}); check its permissions"
        ) from None
    leaves.files_above_folders += len(found.files) - 1
    if leaves.files_above_folders < -MAX_FOLDERS:
        raise _too_many_folders(folder)
    for names in found:
        names.sort(key=os.fsencode)
    return found


def _too_many_folders(folder: Path) -> DataError:
    return DataError(
        f"{folder}: {MAX_FOLDERS:,} folders more than files; put the images of a class into one"
    )


def _sort_in(entry: os.DirEntry[str], found: Children) -> str:
    """Add an entry to `found`, and return ""; or return the reason why it is left out."""
    if _is_folder(entry):
        if reason := left_out.of_folder(entry.name):
            return reason
        if entry.is_symlink():  # could lead out of the folder, or into a loop
            return left_out.FOLDER_LINK
        found.directories.append(entry.name)
        return ""
    if reason := left_out.of_file(entry.name, lambda: beginning(Path(entry.path))):
        return reason
    broken = entry.is_symlink() and not os.path.exists(entry.path)
    if broken and not left_out.is_picture(entry.name):  # links named like pictures go to quarantine
        return left_out.BROKEN_LINK
    found.files.append(entry.name)
    return ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a directory or a link to one; a broken link is not."""
    if entry.is_symlink():  # it may lead to itself, below a file, or where nobody may look
        return os.path.isdir(entry.path)
    return entry.is_dir()


def files(
    folder: Path, prefix: str, leaves: Tally, found: Children | None = None
) -> Iterator[tuple[Path, str]]:
    """Every file below a folder that may be an image, with its path relative to the root.

    Args:
        folder: the folder.
        prefix: the folder's path relative to the root, with a slash; "" for the root.
        leaves: records the files that are left out.
        found: the folder's own entries, if they are known already.
    """
    if prefix.count("/") > MAX_DEPTH:
        raise DataError(f"{folder}: more than {MAX_DEPTH} folders deep; move the images up")
    found = found or children(folder, prefix, leaves)
    for name in found.files:
        yield folder / name, prefix + name
    for name in found.directories:
        yield from files(folder / name, f"{prefix}{name}/", leaves)


def beginning(path: Path) -> bytes:
    """The first bytes of a file; empty if it cannot be read."""
    try:
        with os.fdopen(open_data(path, follow=True), "rb") as file:
            return file.read(left_out.BEGINNING)
    except (DataError, OSError):
        return b""


def _as_part(name: str) -> tuple[str, str | None]:
    return name, PART_NAMES.get(name.lower())


def _names(names: list[str]) -> str:
    return ", ".join(map(text, names[:5])) + (", …" if len(names) > 5 else "")


def text(name: str) -> str:
    """A file name as it is written in ids and classes: UTF-8, with other bytes escaped."""
    return encode_id(name).decode()

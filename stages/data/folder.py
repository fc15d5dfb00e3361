"""Images in a folder: in class sub-folders, or with the label in the file name."""

import logging
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stages.data.patterns import PatternReader
from stages.data.source import SourceExample
from stages.errors import ConfigError, DataError
from store.examples import encode_id

if TYPE_CHECKING:
    from stages.download import DownloadConfig

log = logging.getLogger(__name__)

PART_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
# fmt: off
NO_IMAGES = frozenset((
    ".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml",
    ".ini", ".html", ".htm", ".pdf", ".doc", ".docx", ".rtf", ".db", ".py", ".ipynb", ".sh", ".log",
    ".mat", ".npy", ".npz", ".pkl", ".h5", ".dvc", ".sha256", ".md5",
))
# fmt: on
LICENCES = re.compile(r"(?i)(licen[cs]e|copying|copyright|notice|readme|credits|attribution)\b")
MAX_DEPTH = 64
READ_TOGETHER = 1000  # names
HIDDEN = (".", "__MACOSX")


class Folder:
    """`<class>/…`, `train|validation|test/<class>/…`, or file names that a pattern reads."""

    def __init__(self, config: "DownloadConfig", workspace: Path) -> None:
        """`config.path` is the folder; `config.pattern` finds the label in a file name."""
        self._root = Path(config.path)
        self._pattern = config.pattern
        self._classes: set[str] = set()
        self._unlabelled = 0

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted(self._classes))

    def examples(self) -> Iterator[SourceExample]:
        """Images by path, relative to the folder.

        Raises:
            DataError: there is no such folder, or it has no classes.
        """
        if not self._root.is_dir():
            raise DataError(f"{self._root}: no such folder; put images there or set download.path")
        tops = _children(self._root)
        parts = {name: part for name, part in map(_as_part, tops.directories) if part}
        others = [name for name in tops.directories if name not in parts]
        if "train" in parts.values() and (len(parts) > 1 or not others):
            if others:
                log.warning("%s: beside train and test, left out: %s", self._root, _names(others))
            for name, part in parts.items():
                folder = self._root / name
                yield from self._labelled(folder, _children(folder), f"{name}/", part)
        else:
            yield from self._labelled(self._root, tops, "", None)
        if self._unlabelled:
            log.warning("%s: %s files without a label left out", self._root, self._unlabelled)
        if self._pattern and self._unlabelled and not self._classes:
            raise ConfigError(
                f"download.pattern: {self._pattern!r} finds no label in any of the"
                f" {self._unlabelled:,} file names in {self._root}; write one that does, or none"
                " where the sub-folders are the labels"
            )
        if not self._classes:
            raise DataError(
                f"{self._root}: no class sub-folders with images; put them into <class>/, or set"
                " download.pattern where the file names hold the labels"
            )

    def _labelled(
        self, folder: Path, children: "_Children", prefix: str, part: str | None
    ) -> Iterator[SourceExample]:
        if self._pattern:
            with PatternReader("download.pattern", self._pattern, group="label") as reader:
                files = _files(folder, children, prefix)
                while some := list(islice(files, READ_TOGETHER)):
                    labels = reader.read([os.path.basename(name) for _, name in some])
                    for (path, name), label in zip(some, labels, strict=True):
                        if label:
                            self._classes.add(_text(label))
                            yield SourceExample(_text(name), _text(label), part, path)
                        else:
                            self._unlabelled += 1
            return
        self._unlabelled += len(children.files)
        for name in children.directories:
            label = _text(name)
            self._classes.add(label)
            inside = folder / name
            for path, inner in _files(inside, _children(inside), f"{prefix}{name}/"):
                yield SourceExample(_text(inner), label, part, path)


class _Children(NamedTuple):
    directories: list[str]
    files: list[str]


def _children(folder: Path) -> _Children:
    """Names in a directory, in the order of their bytes, without what is hidden or no image."""
    found = _Children([], [])
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                _sort_in(entry, found)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be listed ({os.strerror(error.errno or 0)}); check its permissions"
        ) from None
    for names in found:
        names.sort(key=os.fsencode)
    return found


def _sort_in(entry: os.DirEntry[str], found: _Children) -> None:
    if entry.name.startswith(HIDDEN):
        return
    if entry.is_dir(follow_symlinks=False):
        found.directories.append(entry.name)
    elif entry.is_dir():  # could lead out of the folder, or round in a circle
        log.warning("%s: a link to a folder is not followed", _text(entry.path))
    elif not is_licence(entry.name):
        found.files.append(entry.name)


def _files(folder: Path, children: _Children, prefix: str) -> Iterator[tuple[Path, str]]:
    """Every file below a folder that may be an image, with its name below the root."""
    if prefix.count("/") > MAX_DEPTH:
        raise DataError(f"{folder}: more than {MAX_DEPTH} folders deep; move the images up")
    for name in children.files:
        yield folder / name, prefix + name
    for name in children.directories:
        inside = folder / name
        yield from _files(inside, _children(inside), f"{prefix}{name}/")


def is_licence(name: str) -> bool:
    """Whether a file goes along with images without being one: a licence, a note, a table."""
    return os.path.splitext(name)[1].lower() in NO_IMAGES or bool(LICENCES.match(name))


def _as_part(name: str) -> tuple[str, str | None]:
    return name, PART_NAMES.get(name.lower())


def _names(names: list[str]) -> str:
    return ", ".join(map(_text, names[:5])) + (", …" if len(names) > 5 else "")


def _text(name: str) -> str:
    """A file name as ids and classes have it: UTF-8, other bytes escaped."""
    return encode_id(name).decode()

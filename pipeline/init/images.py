"""What a folder of images holds: classes, counts, sizes, parts. Nothing is decoded.

Owns the look that `init` takes at a folder. Which files are images and what their labels are is for
`stages/sources/folder.py` to say; must not write anything.
"""

import os
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cryobase.stages.data import headers
from cryobase.stages.errors import DataError
from cryobase.stages.received import open_data
from cryobase.stages.sources import left_out
from cryobase.stages.sources.folder import Folder, FolderConfig, beginning, children
from cryobase.stages.sources.left_out import Tally
from cryobase.stages.sources.source import SourceExample

MEASURED = 200  # images whose size is read
HEADER = 1 << 17  # bytes of a file that hold its size, behind a preview too
LOOKED_AT = 20_000  # files of a folder of which nobody has said that it holds images
FLAT = 20  # files of a folder that are looked at for whether it holds images alone
TRIED = 3  # files of a class, one of which is an image


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a folder holds.

    Attributes:
        counts: files that are taken for images, by class.
        parts: those of train, validation and test that it has folders of; empty for none.
        sides: the shorter side of some of the images, in pixels, in order.
        beside: what is left out, in words; "" for nothing.
    """

    counts: Mapping[str, int]
    parts: frozenset[str]
    sides: tuple[int, ...]
    beside: str

    @property
    def images(self) -> int:
        return sum(self.counts.values())

    @property
    def side(self) -> int | None:
        """Half of the measured images have a shorter side of at least so many pixels."""
        return int(statistics.median(self.sides)) if self.sides else None


def look(path: Path, pattern: str | None) -> Found:
    """List a folder as `download` will.

    Args:
        path: The folder.
        pattern: As `download.pattern`.

    Raises:
        DataError, ConfigError: it has no classes, or the pattern is of no use.
    """
    source = Folder(FolderConfig(path=str(path), pattern=pattern), path)
    counts, parts, files = Counter[str](), set[str](), list[Path]()
    for example in source.examples():
        counts[example.label] += 1
        parts.update([example.part] if example.part else ())
        files.append(_file(example))
    return Found(
        counts=counts,
        parts=frozenset(parts),
        sides=tuple(sorted(_sides(files))),
        beside=str(source.left_out),
    )


def _file(example: SourceExample) -> Path:
    return Path(os.fspath(example.image))  # type: ignore[arg-type]  # a folder gives no bytes


def _sides(files: list[Path]) -> Iterator[int]:
    """The shorter sides of images that lie evenly in the list."""
    for path in islice(files, 0, None, max(1, len(files) // MEASURED)):
        try:
            with os.fdopen(open_data(path, follow=True), "rb") as file:
                header = headers.read(file.read(HEADER))
        except (DataError, OSError, ValueError):  # for `download` to put into quarantine
            continue
        if header:
            yield min(header.upright)


def folders_in(directory: Path) -> list[Path]:
    """The sub-folders that hold two classes of images or more, sorted by name."""
    try:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries if os.path.isdir(entry.path))
    except OSError:
        return []
    return [
        directory / name
        for name in names
        if not left_out.of_folder(name) and holds_images(directory / name)
    ]


def holds_images(folder: Path) -> bool:
    """Whether a folder's sub-folders are classes: two of them begin with an image."""
    tried, classes = Counter[str](), set[str]()
    try:
        for example in islice(Folder(FolderConfig(path=str(folder)), folder).examples(), LOOKED_AT):
            tried[example.label] += 1
            if example.label not in classes and tried[example.label] <= TRIED:
                classes.update([example.label] if _is_image(_file(example)) else ())
            if len(classes) > 1:
                return True
    except DataError:
        pass
    return False


def are_flat_in(folder: Path) -> bool:
    """Whether a folder is one of images without classes: two or more, and no more other files."""
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
        files = children(folder, "", Tally()).files
    except (DataError, OSError):
        return False
    others = sum(os.path.isfile(folder / name) for name in names) - len(files)
    tried = (_is_image(folder / name) for name in files[:FLAT])
    return len(files) >= max(2, others) and sum(tried) > min(len(files), FLAT) // 2


def _is_image(path: Path) -> bool:
    return bool(headers.format_of(beginning(path)))

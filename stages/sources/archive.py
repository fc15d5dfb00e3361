"""The source `archive`: a .tar, .tar.gz or .zip file of images, local or on a server.

It is unpacked and then read as a folder.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryobase.stages.received import open_data
from cryobase.stages.sources.folder import Folder, LabelledFiles
from cryobase.stages.sources.left_out import Tally
from cryobase.stages.sources.source import Source, SourceExample
from cryobase.stages.sources.unpack import unpack

RULES = "2"  # version of the rules for images; an archive read with another version is read again


@dataclass(frozen=True, kw_only=True)
class ArchiveConfig(LabelledFiles):
    """An archive of images.

    Attributes:
        url: the address to fetch the archive from, instead of `path`.
        sha256: the SHA-256 of the archive's bytes, 64 hex digits.
    """

    url: str | None = None
    sha256: str | None = None

    def check(self, source: str) -> None:
        super().check(source)
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256: 64 digits 0-9a-f, not {self.sha256!r}")
        if source == "archive" and not (self.url or self.path):
            raise ValueError("path: source archive needs a local archive, or url")


class Archive(Source):
    """Entering the context fetches, checks and unpacks the archive; leaving removes the images."""

    Config = ArchiveConfig

    def __init__(self, config: ArchiveConfig, workspace: Path) -> None:
        """Prepare to read the archive of a config; `workspace` is for its files."""
        self._config = config
        self._workspace = workspace
        self._folder: Folder
        self.left_out = Tally()

    def __enter__(self) -> "Archive":
        from cryobase.stages.sources.fetch import (  # the network's libraries load slowly
            check_sha256,
            fetch,
        )

        config = self._config
        if config.url:
            archive = fetch(config.url, config.sha256, self._workspace)
        else:
            archive = Path(config.path).resolve()  # DVC may have linked it into its cache
            with os.fdopen(open_data(archive), "rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
            check_sha256(config.path, actual, config.sha256)
        unpacked = self._workspace / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)  # left by a killed run
        unpacked.mkdir(parents=True)
        try:
            unpack(archive, unpacked, self.left_out)
        except BaseException:
            shutil.rmtree(unpacked)
            raise
        root = _below_wrapping(unpacked)
        self._folder = Folder(
            LabelledFiles(path=str(root), pattern=config.pattern), self._workspace
        )
        self.left_out.strip(f"{root.relative_to(unpacked)}/")
        self._folder.left_out = self.left_out
        self._folder.shown = config.url or config.path
        return self

    def __exit__(self, kind: object = None, *rest: object) -> None:
        """Remove the workspace. After a failure, keep the fetched archive for the next run."""
        shutil.rmtree(self._workspace if kind is None else self._workspace / "unpacked")

    @property
    def classes(self) -> tuple[str, ...]:
        return self._folder.classes

    def examples(self) -> Iterator[SourceExample]:
        """The examples of the unpacked folder; ids are paths below the archive's top folder."""
        return self._folder.examples()

    @classmethod
    def identity(cls, config: ArchiveConfig) -> Mapping[str, str | None]:
        if config.url is None or config.sha256 is None:
            return {}
        return {"archive": config.sha256, "pattern": config.pattern, "rules": RULES}

    @classmethod
    def other_folder(cls, config: ArchiveConfig) -> str | None:
        if config.pattern is not None:
            return None
        return "unpack the archive, and set download.source to folder and download.path to its {}"


def _below_wrapping(folder: Path) -> Path:
    """Descend while a folder has only one entry, a folder: archives often wrap their content."""
    while True:
        entries = sorted(folder.iterdir())
        if len(entries) != 1 or not entries[0].is_dir():
            return folder
        folder = entries[0]

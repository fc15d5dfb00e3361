"""A .tar, .tar.gz or .zip file of images, local or on a server, read as a folder."""

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cryobase.stages.data.folder import Folder
from cryobase.stages.data.left_out import Tally
from cryobase.stages.data.source import SourceExample
from cryobase.stages.data.unpack import unpack
from cryobase.stages.received import open_data

if TYPE_CHECKING:
    from cryobase.stages.download import DownloadConfig


class Archive:
    """Fetched, checked and unpacked on entering; the unpacked images are gone on leaving."""

    def __init__(self, config: "DownloadConfig", workspace: Path) -> None:
        """`config.url` or `config.path` is the archive, `config.sha256` its digest."""
        self._config = config
        self._workspace = workspace
        self._folder: Folder
        self.left_out = Tally()

    def __enter__(self) -> "Archive":
        from cryobase.stages.data.fetch import (  # the network's libraries load slowly
            check_sha256,
            fetch,
        )

        config = self._config
        if config.url:
            archive = fetch(config.url, config.sha256, self._workspace)
        else:
            archive = Path(config.path).resolve()  # DVC may have linked it into its cache
            with os.fdopen(open_data(archive), "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            check_sha256(config.path, found, config.sha256)
        unpacked = self._workspace / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)  # of a run that was killed
        unpacked.mkdir(parents=True)
        try:
            unpack(archive, unpacked, self.left_out)
        except BaseException:
            shutil.rmtree(unpacked)
            raise
        root = _below_wrapping(unpacked)
        self._folder = Folder(dataclasses.replace(config, path=str(root)), self._workspace)
        self.left_out.strip(f"{root.relative_to(unpacked)}/")
        self._folder.left_out = self.left_out
        self._folder.shown = config.url or config.path
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """After a failure what was fetched stays, so that the next run need not fetch it again."""
        shutil.rmtree(self._workspace if kind is None else self._workspace / "unpacked")

    @property
    def classes(self) -> tuple[str, ...]:
        return self._folder.classes

    def examples(self) -> Iterator[SourceExample]:
        """The examples of the unpacked folder, by their path below the archive's top folder."""
        return self._folder.examples()


def _below_wrapping(folder: Path) -> Path:
    """Archives wrap their content in a folder of their own: go down while it stands alone."""
    while True:
        entries = sorted(folder.iterdir())
        if len(entries) != 1 or not entries[0].is_dir():
            return folder
        folder = entries[0]

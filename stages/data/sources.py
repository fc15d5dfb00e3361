"""The table of sources. A new source is one class like `source.Source`, and one row."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryobase.stages.data.archive import Archive
from cryobase.stages.data.folder import Folder
from cryobase.stages.data.sample import Sample
from cryobase.stages.data.source import Source, SourceExample
from cryobase.stages.data.tfds import Tfds

if TYPE_CHECKING:
    from cryobase.stages.download import DownloadConfig

__all__ = ["SOURCES", "Source", "SourceExample", "open_source"]

SOURCES: dict[str, Callable[["DownloadConfig", Path], Any]] = {
    "sample": Sample,
    "folder": Folder,
    "archive": Archive,
    "tfds": Tfds,
}


def open_source(config: "DownloadConfig", workspace: Path) -> AbstractContextManager[Source]:
    """The source that a config names; what it needs on disk meanwhile lies in `workspace`."""
    source = SOURCES[config.source](config, workspace)
    return source if hasattr(source, "__exit__") else nullcontext(source)

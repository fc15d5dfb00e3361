"""The table of sources, and their keys in params.

A new source is one module like `folder`, and one row here.
"""

from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from cryobase.stages.sources.archive import Archive
from cryobase.stages.sources.folder import Folder
from cryobase.stages.sources.sample import Sample
from cryobase.stages.sources.source import Source, SourceConfig
from cryobase.stages.sources.tfds import Tfds

SOURCES: dict[str, type[Source]] = {
    "sample": Sample,
    "folder": Folder,
    "archive": Archive,
    "tfds": Tfds,
}


def _default(key: Field[Any]) -> Any:
    if key.default_factory is not MISSING:
        return field(default_factory=key.default_factory)
    return key.default


def _keys() -> Any:
    """A dataclass of `source` and the keys of all sources."""
    by_name: dict[str, tuple[str, Any, Any]] = {}
    for source in SOURCES.values():
        types = get_type_hints(source.Config)
        for key in fields(source.Config):
            by_name.setdefault(key.name, (key.name, types[key.name], _default(key)))
    names = Literal.__getitem__(tuple(SOURCES))
    keys = [("source", names, "sample"), *by_name.values()]
    return make_dataclass("Keys", keys, frozen=True, kw_only=True)


Keys: Any = _keys()


@dataclass(frozen=True, kw_only=True)
class DownloadConfig(Keys):  # type: ignore[misc]
    """The section `download`: the name of a source, and the keys of all sources.

    Each source reads its own keys, which its `Config` describes. docs/images.md describes sources.

    Attributes:
        source: the name of the source, a key of `SOURCES`.
    """

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source: one of {', '.join(SOURCES)}, not {self.source!r}")
        for name in SOURCES:
            self.of(name).check(self.source)

    def of(self, source: str) -> SourceConfig:
        """The keys of one source."""
        kind = SOURCES[source].Config
        return kind(**{key.name: getattr(self, key.name) for key in fields(kind)})

    @property
    def own(self) -> Any:
        """The keys of the chosen source."""
        return self.of(self.source)


def open_source(config: DownloadConfig, workspace: Path) -> Source:
    """The source that a config names; its temporary files are in `workspace`."""
    return SOURCES[config.source](config.own, workspace)

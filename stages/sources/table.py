"""The table of sources. A new source is one module like `folder`, and one row here."""

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
    """A dataclass of `source`, and of the keys of all sources side by side."""
    found: dict[str, tuple[str, Any, Any]] = {}
    for source in SOURCES.values():
        types = get_type_hints(source.Config)
        for key in fields(source.Config):
            found.setdefault(key.name, (key.name, types[key.name], _default(key)))
    names = Literal.__getitem__(tuple(SOURCES))
    keys = [("source", names, "sample"), *found.values()]
    return make_dataclass("Keys", keys, frozen=True, kw_only=True)


Keys: Any = _keys()


@dataclass(frozen=True, kw_only=True)
class DownloadConfig(Keys):  # type: ignore[misc]
    """`download`: the name of a source, and keys of all sources; each reads its own.

    The sources' own `Config` describe the other keys, docs/images.md the sources.

    Attributes:
        source: where the images come from.
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
        """The keys of the source that is chosen."""
        return self.of(self.source)


def open_source(config: DownloadConfig, workspace: Path) -> Source:
    """The source that a config names; what it needs on disk meanwhile lies in `workspace`."""
    return SOURCES[config.source](config.own, workspace)

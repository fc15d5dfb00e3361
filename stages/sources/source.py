"""The interface of sources, and of their keys in params."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from cryobase.stages.sources.left_out import Tally


@dataclass(frozen=True)
class SourceExample:
    """One labelled image of a source."""

    id: str  # printable, unique in the source; file names by store.encode_id
    label: str  # the class's name
    part: str | None  # "train", "validation" or "test", if the source has its own split
    image: bytes | Path  # the encoded bytes, or the path of their file


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """The keys of one source below `download`. A key of two sources has one type and default."""

    def check(self, source: str) -> None:
        """Refuse values that are invalid, or that do not fit the chosen `source`.

        Raises:
            ValueError: "key: what is expected".
        """


class Source(ABC):
    """A source of a dataset. It is a context manager; call `examples` inside.

    Attributes:
        Config: the class of the source's keys in params.
        left_out: the files that are not examples; complete after `examples` is exhausted.
    """

    Config: ClassVar[type[SourceConfig]]
    left_out: Tally

    @abstractmethod
    def __init__(self, config: Any, workspace: Path) -> None:
        """Prepare a source from its `Config`, and a directory for temporary files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:  # noqa: B027 (most sources write nothing)
        """Remove temporary files from the workspace."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Class names in order, complete after `examples` is exhausted. A class may be empty."""

    @abstractmethod
    def examples(self) -> Iterator[SourceExample]:
        """All examples, in the same order in every run."""

    @classmethod
    def identity(cls, config: Any) -> Mapping[str, str | None]:
        """What identifies the images if they cannot change; empty if they may have changed."""
        return {}

    @classmethod
    def other_folder(cls, config: Any) -> str | None:
        """What to set so that another folder, "{}", has the classes; None if not folders."""
        return None

"""What every source of images is, and what one needs of params."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from cryobase.stages.sources.left_out import Tally


@dataclass(frozen=True)
class SourceExample:
    """One labelled image as a source has it."""

    id: str  # printable and unique within the source; file names as by store.encode_id
    label: str  # the class's name
    part: str | None  # "train", "validation" or "test" where the source has a split of its own
    image: bytes | Path  # the encoded bytes, or the file that holds them


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """The keys of one source below `download`; sources may share a key of one type and default."""

    def check(self, source: str) -> None:
        """Refuse values that cannot be, or that do not fit the `source` that was chosen.

        Raises:
            ValueError: "key: what is expected".
        """


class Source(ABC):
    """Where a dataset comes from; a context, within which `examples` may be called.

    Attributes:
        Config: its keys of params.
        left_out: what it has beside its examples, known once `examples` is exhausted.
    """

    Config: ClassVar[type[SourceConfig]]
    left_out: Tally

    @abstractmethod
    def __init__(self, config: Any, workspace: Path) -> None:
        """Take a `Config`, and a directory for what is needed on disk meanwhile."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:  # noqa: B027 (most leave nothing there)
        """Remove what lies in the workspace."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Class names in order, known once `examples` is exhausted; one may have no image."""

    @abstractmethod
    def examples(self) -> Iterator[SourceExample]:
        """All examples, in an order that is the same in every run."""

    @classmethod
    def identity(cls, config: Any) -> Mapping[str, str | None]:
        """What decides the images where they cannot have changed; empty where they may have."""
        return {}

    @classmethod
    def other_folder(cls, config: Any) -> str | None:
        """How to have classes read from another folder, "{}", where folders are classes."""
        return None

"""What every source of images is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryobase.stages.data.left_out import Tally


@dataclass(frozen=True)
class SourceExample:
    """One labelled image as a source has it."""

    id: str  # printable and unique within the source; file names as by store.encode_id
    label: str  # the class's name
    part: str | None  # "train", "validation" or "test" where the source has a split of its own
    image: bytes | Path  # the encoded bytes, or the file that holds them


class Source(Protocol):
    """Where a dataset comes from. `DownloadConfig` says what each of them needs.

    Attributes:
        left_out: what it has beside its examples, known once `examples` is exhausted.
    """

    left_out: Tally

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in order, known once `examples` is exhausted; one may have no image."""
        ...

    def examples(self) -> Iterator[SourceExample]:
        """All examples, in an order that is the same in every run."""
        ...

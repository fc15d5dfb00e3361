"""The first stage: bring a labelled dataset into data/raw, each distinct image once."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Literal

import numpy as np

from cryobase.stages.data import doubts, index, patterns
from cryobase.stages.data.decoding import is_outdated
from cryobase.stages.data.ingest import Ingest, is_whole
from cryobase.stages.data.left_out import MAY_BE_IMAGES, Tally
from cryobase.stages.data.sources import SOURCES, open_source
from cryobase.stages.errors import DataError
from cryobase.stages.outputs import write_table
from cryobase.store.publish import make_directory

log = logging.getLogger(__name__)

QUARANTINE = "quarantined.csv"
LEFT_OUT = "left_out.csv"
CONFLICTS = "conflicts.csv"
RULES = "2"  # of what is an image: a pinned archive that was read by older ones is read again
SHOWN = 10  # quarantined images named in the log


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """Where images come from; docs/images.md describes each source.

    Attributes:
        source: A row of `SOURCES`.
        path: folder: the folder; archive: a local archive.
        in_place: folder: leave the images where they are and store the index alone.
        pattern: folder, archive: a regular expression that finds the label in a file name: its
            group `label`, else its first group, else all that matches.
        url: archive: where to fetch it, instead of `path`.
        sha256: archive: of the archive's bytes, 64 hex digits.
        name: tfds: the dataset, with or without configuration and version.
        data_dir: tfds: where datasets are prepared; without `name`, a prepared version's directory.
        splits: tfds: part (train, validation, test, or all for none) to a split expression; empty
            takes the dataset's own.
        label: tfds: the feature that holds the class, where the dataset does not say.
    """

    source: Literal["sample", "folder", "archive", "tfds"] = "sample"
    path: str = ""
    in_place: bool = False
    pattern: str | None = None
    url: str | None = None
    sha256: str | None = None
    name: str | None = None
    data_dir: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    label: str | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source: one of {', '.join(SOURCES)}, not {self.source!r}")
        if self.pattern is not None:
            try:
                patterns.check(self.pattern)
            except ValueError as error:
                raise ValueError(f"pattern: {error}") from None
        if self.in_place and self.source != "folder":
            raise ValueError(f"in_place: only images of source folder can stay, not {self.source}")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256: 64 digits 0-9a-f, not {self.sha256!r}")
        if self.source == "archive" and not (self.url or self.path):
            raise ValueError("path: source archive needs a local archive, or url")
        if self.source == "folder" and not self.path:
            raise ValueError("path: source folder needs one")
        if self.source == "tfds" and not (self.name or self.data_dir):
            raise ValueError("name: source tfds needs one, or data_dir of a prepared version")
        if unknown := set(self.splits) - {"train", "validation", "test", "all"}:
            raise ValueError(f"splits: keys train, validation, test or all, not {min(unknown)!r}")


@dataclass(frozen=True)
class DownloadSummary:
    """What a run found: images in the index, those decoded now, those quarantined."""

    images: int
    classes: int
    new: int
    quarantined: int


def run(config: DownloadConfig, *, output: Path) -> DownloadSummary:
    """Bring `output` up to date with the source; what is there and unchanged is kept.

    Raises:
        DataError: no image at all, or the source cannot be read.
    """
    make_directory(output)
    found, new = _as_before(config, output), 0
    if found is None:
        found, new = _bring_up_to_date(config, output)
    else:
        log.info("the archive is in already; what it has beside images: %s", output / LEFT_OUT)
    bad = np.flatnonzero(found.quarantined)
    log.info(
        "found %s images of %s classes, %s of them new",
        f"{len(found.ids):,}", f"{len(found.classes):,}", f"{new:,}",
    )  # fmt: skip
    _say_quarantined(output, found, bad)
    _say_doubts(config, output, found)
    return DownloadSummary(len(found.ids), len(found.classes), new, len(bad))


def _as_before(config: DownloadConfig, output: Path) -> index.Index | None:
    """The last index, if it came from the pinned archive that is asked for again."""
    if not (identity := _identity(config)) or not (output / index.RECORD).exists():
        return None
    try:
        old = index.read(output)
    except DataError:
        return None
    whole = all(is_whole(output, pack) for pack in old.packs)
    same = old.source == identity and not any(map(is_outdated, old.reasons))
    return old if whole and same else None


def _identity(config: DownloadConfig) -> dict[str, str | None]:
    """What decides the images of a pinned archive on a server; other sources may have changed."""
    if config.source != "archive" or config.url is None or config.sha256 is None:
        return {}
    return {"archive": config.sha256, "pattern": config.pattern, "rules": RULES}


def _bring_up_to_date(config: DownloadConfig, output: Path) -> tuple[index.Index, int]:
    ingest = Ingest(output, in_place=config.path if config.in_place else None)
    with open_source(config, output.with_name(f"{output.name}.incoming")) as source:
        found = replace(ingest.run(source), source=_identity(config))
        leaves = source.left_out
    if ingest.remarks.counts:
        log.warning("images that look wrong: %s", ingest.remarks)
    bad = np.flatnonzero(found.quarantined)
    _refuse_nothing(config, found, bad, leaves)
    _write_quarantine(output, found, bad)
    write_table(output / LEFT_OUT, ("path", "reason"), leaves.rows())
    write_table(output / CONFLICTS, ("digest", "id", "label"), doubts.conflicts(found))
    _say_left_out(output, leaves)
    index.write(output, found)
    return found, ingest.decoded


def _refuse_nothing(
    config: DownloadConfig, found: index.Index, bad: np.ndarray, leaves: Tally
) -> None:
    if len(found.ids) == 0:
        beside = f" (left out: {leaves})" if leaves.counts else ""
        raise DataError(f"{config.path}: no images{beside}; put some there or set download.path")
    if len(bad) == len(found.ids):
        name, reason = _named(found, int(bad[0]))
        raise DataError(
            f"{config.path}: none of {len(bad):,} files is an image, the first, {name}: {reason};"
            " put images there or set download.path"
        )


def _named(found: index.Index, position: int) -> tuple[str, str]:
    return found.ids[position].decode(), found.reasons[found.reason[found.images[position]]]


def _write_quarantine(output: Path, found: index.Index, bad: np.ndarray) -> None:
    rows = (_named(found, int(position)) for position in bad)
    write_table(output / QUARANTINE, ("id", "reason"), rows)


def _say_left_out(output: Path, leaves: Tally) -> None:
    level = logging.INFO if MAY_BE_IMAGES.isdisjoint(leaves.counts) else logging.WARNING
    if leaves.counts:
        log.log(level, "left out: %s; all are listed in %s", leaves, output / LEFT_OUT)


def _say_quarantined(output: Path, found: index.Index, bad: np.ndarray) -> None:
    if not len(bad):
        return
    log.warning("%s quarantined, listed in %s:", f"{len(bad):,}", output / QUARANTINE)
    for position in bad[:SHOWN]:
        log.warning("  %s: %s", *_named(found, int(position)))
    if len(bad) > SHOWN:
        log.warning("  and %s more", f"{len(bad) - SHOWN:,}")


def _say_doubts(config: DownloadConfig, output: Path, found: index.Index) -> None:
    """Labels that contradict each other, and classes that look like a mistake."""
    by_digest = groupby(doubts.conflicts(found), key=itemgetter(0))
    groups = [[f"{id_} ({label})" for _, id_, label in group] for _, group in by_digest]
    if groups:
        log.warning(
            "equal bytes under different labels: %s times, listed in %s; keep one of each:",
            f"{len(groups):,}", output / CONFLICTS,
        )  # fmt: skip
    for group in groups[:SHOWN]:
        log.warning("  %s%s", " and ".join(group[:2]), ", …" if len(group) > 2 else "")
    if len(groups) > SHOWN:
        log.warning("  and %s more", f"{len(groups) - SHOWN:,}")
    for line in doubts.of_classes(found, _other_folder(config)):
        log.warning("%s", line)


def _other_folder(config: DownloadConfig) -> str | None:
    """How to have classes read from another folder, "{}", where they are the names of folders."""
    if config.pattern is not None or config.source not in ("folder", "archive"):
        return None
    if config.source == "folder":
        return f"set download.path to {Path(config.path, '{}')}"
    return "unpack the archive, and set download.source to folder and download.path to its {}"

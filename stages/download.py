"""Stage `download`: bring a labelled dataset into data/raw, each distinct image once.

`stages/sources` reads the source, `stages/data` stores the images; this module joins them and
writes what users are to know: quarantine, files left out, doubtful labels.
"""

import logging
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from cryobase.stages.data import doubts, index
from cryobase.stages.data.decoding import is_outdated
from cryobase.stages.errors import DataError
from cryobase.stages.outputs import write_table
from cryobase.stages.sources.ingest import Ingest, is_whole
from cryobase.stages.sources.left_out import MAY_BE_IMAGES, Tally
from cryobase.stages.sources.table import SOURCES, DownloadConfig, open_source
from cryobase.store.publish import make_directory
from cryobase.store.text import counted

log = logging.getLogger(__name__)

QUARANTINE = "quarantined.csv"
LEFT_OUT = "left_out.csv"
CONFLICTS = "conflicts.csv"
SHOWN = 10  # quarantined images named in the log


@dataclass(frozen=True)
class DownloadSummary:
    """The result of a run: images in the index, images decoded now, images in quarantine."""

    images: int
    classes: int
    new: int
    quarantined: int


def run(config: DownloadConfig, *, output: Path, expected: int | None = None) -> DownloadSummary:
    """Bring `output` up to date with the source. Unchanged images are not read again.

    Args:
        config: the source.
        output: the directory of packs and index.
        expected: about how many images there are, for the display of progress.

    Raises:
        DataError: the source has no image, or cannot be read.
    """
    make_directory(output)
    found, new = _as_before(config, output), 0
    if found is None:
        found, new = _bring_up_to_date(config, output, expected)
    else:
        log.info("the archive was read before; its other files are in %s", output / LEFT_OUT)
    bad = np.flatnonzero(found.quarantined)
    log.info(
        "found %s of %s, %s of them new",
        counted(len(found.ids), "image"), counted(len(found.classes), "class"), f"{new:,}",
    )  # fmt: skip
    _say_quarantined(output, found, bad)
    _say_doubts(config, output, found)
    return DownloadSummary(len(found.ids), len(found.classes), new, len(bad))


def _as_before(config: DownloadConfig, output: Path) -> index.Index | None:
    """The last index, if it was made from the same pinned archive."""
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
    """The params that decide the images, if they pin them. Other sources may have changed."""
    return dict(SOURCES[config.source].identity(config.own))


def _bring_up_to_date(
    config: DownloadConfig, output: Path, expected: int | None
) -> tuple[index.Index, int]:
    ingest = Ingest(output, in_place=config.path if config.in_place else None, expected=expected)
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
            f"{config.path}: none of {len(bad):,} files is an image; the first is {name}: {reason};"
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
    """Log labels that contradict each other, and classes that look like a mistake."""
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
    for line in doubts.of_classes(found, SOURCES[config.source].other_folder(config.own)):
        log.warning("%s", line)

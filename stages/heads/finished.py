"""Finished heads by fingerprint: trained once, linked wherever they are asked for."""

import logging
import os
import shutil
import tempfile
from pathlib import Path

from stages.errors import DataError
from stages.heads.head import CARD, FILES, Head
from store.publish import share

logger = logging.getLogger(__name__)


def find(cache: Path, fingerprint: str) -> bool:
    """Whether the cache has a usable head; one that is damaged is removed."""
    directory = cache / fingerprint
    if not directory.is_dir():
        return False
    try:
        Head.load(directory)
    except DataError as error:
        logger.warning("%s; it is trained again", error)
        shutil.rmtree(directory)
        return False
    return True


def keep(cache: Path, fingerprint: str, head: Head) -> None:
    """Save a head whole or not at all; whoever was first with the same one wins."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=cache) as temporary:
        directory = Path(temporary) / "head"
        head.save(directory)
        try:
            os.rename(directory, cache / fingerprint)
        except OSError:
            if not find(cache, fingerprint):
                raise


def link(cache: Path, fingerprint: str, output: Path) -> None:
    """Put a finished head into an output directory, as hard links where the disk can."""
    output.mkdir(parents=True)
    for name in FILES:
        share(cache / fingerprint / name, output / name)


def clear(output: Path) -> None:
    """Remove the heads that an earlier run left in `output`, and nothing else."""
    for card in sorted(output.glob(f"*/{CARD}")):
        shutil.rmtree(card.parent)

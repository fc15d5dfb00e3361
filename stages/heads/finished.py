"""Finished heads by fingerprint: trained once, linked wherever they are asked for."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.errors import DataError
from stages.heads.head import CARD, FILES, Head
from stages.outputs import write_text
from store.publish import share

TRAINING = "training.json"

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


def tell(output: Path, heads: Mapping[str, Sequence[str]]) -> None:
    """Write which heads the last training has `trained`, and which it has `reused`."""
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(heads, indent=2) + "\n"
    write_text(output / TRAINING, text)


def told(output: Path) -> dict[str, str]:
    """`trained` or `reused` by head, where `tell` has written it."""
    try:
        heads = json.loads((output / TRAINING).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {head: verb for verb, names in heads.items() for head in names}

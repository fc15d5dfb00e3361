"""Finished heads by fingerprint: trained once, linked wherever they are asked for."""

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from cryobase.stages.errors import DataError
from cryobase.stages.heads.config import HeadParams
from cryobase.stages.heads.head import FILES, Head
from cryobase.stages.heads.standing import VERBS
from cryobase.stages.outputs import write_json
from cryobase.store import FeatureSpec
from cryobase.store.errors import StoreError, StoreNotFoundError
from cryobase.store.publish import share
from cryobase.store.text import component, read_json

TRAINING = "training.json"
MAX_BYTES = 1 << 24

logger = logging.getLogger(__name__)


class Takes(Protocol):
    """What a head takes and tells apart; rows that it is to be trained on have the same."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def specs(self) -> tuple[FeatureSpec, ...]: ...
    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]: ...


def find(cache: Path, fingerprint: str, rows: Takes) -> bool:
    """Whether the cache has the head of a fingerprint; what is damaged, or another, is removed.

    The fingerprint is computed again from what the head says of itself: the name of a directory is
    nobody's word.
    """
    directory = cache / fingerprint
    if not directory.is_dir():
        return False
    try:
        _check(Head.load(directory), fingerprint, rows, directory)
    except DataError as error:
        logger.warning("%s; it is trained again", error)
        shutil.rmtree(directory)
        return False
    return True


def has(cache: Path, fingerprint: str, rows: Takes) -> bool:
    """As `find`, but nothing is removed."""
    directory = cache / fingerprint
    try:
        _check(Head.load(directory), fingerprint, rows, directory)
    except DataError:
        return False
    return True


def differences(directory: Path, params: HeadParams, data: Sequence[str]) -> list[str]:
    """In what the head of a directory is another one than these params and data make.

    Args:
        directory: A head.
        params: What it should have been trained by.
        data: Digests of the feature set, or sets, and of the split, that it should know.

    Returns:
        `KEY: BEFORE → NOW` of each param, `features`, `splits`; nothing if it is the same.

    Raises:
        DataError: no head is there, or a damaged one.
    """
    head = Head.load(directory)
    before, now = head.params.to_json(), params.to_json()
    found = [
        f"{key}: {before.get(key, '-')} → {now.get(key, '-')}"
        for key in dict.fromkeys((*before, *now))
        if before.get(key) != now.get(key)
    ]
    if head.data[:-1] != tuple(data[:-1]):
        found.append("features")
    if head.data[-1:] != tuple(data[-1:]):
        found.append("splits")
    return found


def _check(head: Head, fingerprint: str, rows: Takes, directory: Path) -> None:
    found, expected = ((one.classes, one.specs, one.shapes) for one in (head, rows))
    if head.params.fingerprint(*head.data) != fingerprint or found != expected:
        raise DataError(f"{directory}: holds another head than its name says")


def keep(cache: Path, fingerprint: str, head: Head) -> None:
    """Save a head whole or not at all; whoever was first with the same one wins."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=cache) as temporary:
        directory = Path(temporary) / "head"
        head.save(directory)
        try:
            os.rename(directory, cache / fingerprint)
        except OSError:
            if not find(cache, fingerprint, head):
                raise


def link(cache: Path, fingerprint: str, output: Path) -> None:
    """Put a finished head into an output directory, as hard links where the disk can."""
    output.mkdir(parents=True)
    for name in FILES:
        share(cache / fingerprint / name, output / name)


def clear(output: Path) -> None:
    """Remove the heads that an earlier run left in `output`, and nothing else."""
    for directory in heads_in(output):
        shutil.rmtree(directory)


def heads_in(output: Path) -> list[Path]:
    """The directories of heads, also of those that have lost a file."""
    return sorted({path.parent for name in FILES for path in output.glob(f"*/{name}")})


def tell(output: Path, heads: Mapping[str, Sequence[str]]) -> None:
    """Write which heads the last training has `trained`, and which it has `reused`."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / TRAINING, heads)


def told(output: Path) -> dict[str, str]:
    """`trained` or `reused` by head, where `tell` has written it.

    Raises:
        DataError: it is not what `tell` writes.
    """
    path = output / TRAINING
    try:
        heads = read_json(path, MAX_BYTES)
        return {component(head): verb for verb in VERBS for head in heads.get(verb, ())}
    except StoreNotFoundError:
        return {}
    except (StoreError, AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not what train writes ({error}); run `cryobase train`") from None

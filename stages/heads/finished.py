"""The cache of finished heads by fingerprint: a head is trained once, then linked into outputs.

A cached head is checked before it is used. Nothing here trains.
"""

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
    """The inputs and classes of a head. They must equal those of the rows it is trained on."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def specs(self) -> tuple[FeatureSpec, ...]: ...
    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]: ...


def find(cache: Path, fingerprint: str, rows: Takes) -> bool:
    """Whether the cache has the head with a fingerprint. A damaged or different head is removed.

    The fingerprint is computed again from the head's own files: the name of a directory proves
    nothing.
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
    """Like `find`, but removes nothing."""
    directory = cache / fingerprint
    try:
        _check(Head.load(directory), fingerprint, rows, directory)
    except DataError:
        return False
    return True


def differences(directory: Path, params: HeadParams, data: Sequence[str]) -> list[str]:
    """How the head in a directory differs from the head that these params and data would make.

    Args:
        directory: directory of the head.
        params: the params that it should have been trained with.
        data: digests of the feature set (or sets) and of the split that it should be based on.

    Returns:
        `KEY: BEFORE → NOW` for each param that differs, and `features`, `splits`; empty if it is
        the same head.

    Raises:
        DataError: the head is missing or damaged.
    """
    head = Head.load(directory)
    before, now = head.params.to_json(), params.to_json()
    changed = [
        f"{key}: {before.get(key, '-')} → {now.get(key, '-')}"
        for key in dict.fromkeys((*before, *now))
        if before.get(key) != now.get(key)
    ]
    if head.data[:-1] != tuple(data[:-1]):
        changed.append("features")
    if head.data[-1:] != tuple(data[-1:]):
        changed.append("splits")
    return changed


def _check(head: Head, fingerprint: str, rows: Takes, directory: Path) -> None:
    actual, expected = ((owner.classes, owner.specs, owner.shapes) for owner in (head, rows))
    if head.params.fingerprint(*head.data) != fingerprint or actual != expected:
        raise DataError(f"{directory}: holds a different head than its name promises")


def keep(cache: Path, fingerprint: str, head: Head) -> None:
    """Save a head completely or not at all. If the same head is already there, it stays."""
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
    """Put a finished head into an output directory, as hard links if the disk supports them."""
    output.mkdir(parents=True)
    for name in FILES:
        share(cache / fingerprint / name, output / name)


def clear(output: Path) -> None:
    """Remove the heads that an earlier run left in `output`, and nothing else."""
    for directory in heads_in(output):
        shutil.rmtree(directory)


def heads_in(output: Path) -> list[Path]:
    """The directories of all heads, including heads that lack a file."""
    return sorted({path.parent for name in FILES for path in output.glob(f"*/{name}")})


def tell(output: Path, heads: Mapping[str, Sequence[str]]) -> None:
    """Write which heads the last training `trained`, and which it `reused`."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / TRAINING, heads)


def told(output: Path) -> dict[str, str]:
    """Read what `tell` wrote: `trained` or `reused` by head; empty if there is no such file.

    Raises:
        DataError: the file is not in the form that `tell` writes.
    """
    path = output / TRAINING
    try:
        heads = read_json(path, MAX_BYTES)
        return {component(head): verb for verb in VERBS for head in heads.get(verb, ())}
    except StoreNotFoundError:
        return {}
    except (StoreError, AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not what train writes ({error}); run `cryobase train`") from None

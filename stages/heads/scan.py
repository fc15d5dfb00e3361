"""Training all heads of a task in one scan of its rows per epoch."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.frameworks import load_tensorflow
from cryobase.stages.heads.config import HeadParams
from cryobase.stages.heads.places import Places
from cryobase.stages.heads.rows import READ, Batch, Floats, Task, ahead, fit_scale
from cryobase.stages.heads.stack import Read, plan
from cryobase.stages.heads.trained import Trained

logger = logging.getLogger(__name__)


def train(task: Task, heads: Mapping[str, HeadParams]) -> dict[str, Trained]:
    """Train heads by steps of gradient descent, each as if it were alone.

    Args:
        task: the rows.
        heads: what to train, by name.
    """
    reads = plan(heads, task.rows.width, len(task.rows.classes))
    scaled = any(params.standardize for params in heads.values())
    scale = fit_scale(task) if scaled else None
    trained: dict[str, Trained] = {}
    for read in reads:
        trained |= _train_read(task, heads, read, scale)
    return {name: trained[name] for name in heads}


def _train_read(
    task: Task, heads: Mapping[str, HeadParams], read: Read, scale: tuple[Floats, Floats] | None
) -> dict[str, Trained]:
    all_places = [Places(stack, heads, task) for stack in read.stacks]
    active = all_places
    epoch = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while active:
            for batch in ahead(task.epoch(epoch, read.rows, read.views)):
                _feed(pool, active, batch, scale, rows_of=_rows, use=Places.learn)
            for batch in ahead(task.in_order(task.validation)):
                _feed(pool, active, batch, scale, rows_of=lambda _: READ, use=Places.judge)
            for one in active:
                one.end_epoch()
            active = [one for one in active if one.active.any()]
            epoch += 1
            logger.debug("epoch %d: %d of %d stacks learn", epoch, len(active), len(all_places))
    trained: dict[str, Trained] = {}
    for places in all_places:
        trained |= places.trained(scale)
    return trained


def _rows(places: Places) -> int:
    return places.stack.shape.rows


def _feed(
    pool: ThreadPoolExecutor,
    places: list[Places],
    batch: Batch,
    scale: tuple[Floats, Floats] | None,
    *,
    rows_of: Callable[[Places], int],
    use: Callable[..., None],
) -> None:
    """Give the same rows to all stacks, in pieces of the size that each of them takes."""
    groups: dict[tuple[bool, int], list[Places]] = {}
    for one in places:
        groups.setdefault((one.stack.standardize, rows_of(one)), []).append(one)
    for (standardize, rows), those in groups.items():
        for piece in _pieces(*batch, rows, scale if standardize else None):
            list(pool.map(use, those, *([part] * len(those) for part in piece)))


def _pieces(
    x: Floats, labels: NDArray[np.int32], rows: int, scale: tuple[Floats, Floats] | None
) -> Iterator[tuple[Any, Any, int]]:
    """Rows in pieces of a fixed size, the last one filled up with zeros, and how many are real."""
    tf = load_tensorflow()

    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        part = part if scale is None else (part - scale[0]) / scale[1]
        missing = rows - len(part)
        yield (
            tf.constant(np.pad(part, ((0, missing), (0, 0))) if missing else part),
            tf.constant(np.pad(labels[start : start + rows], (0, missing))),
            len(part),
        )

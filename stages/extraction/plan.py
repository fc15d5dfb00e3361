"""Planning: which rows the pools lack, the fewest passes that compute them, and their duration.

This module reads pools and the index of `data/raw`. It computes no feature and never loads Keras.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.table import BACKBONES
from cryobase.stages.data.raw import RawImages
from cryobase.store.keys import Positions
from cryobase.store.pool import Pool
from cryobase.store.publish import replacing, write
from cryobase.store.shard import Digests, Views
from cryobase.store.spec import FeatureSpec
from cryobase.store.text import read_json

BLOCK = 1 << 19  # images
RATES = "rates.json"  # in the directory of all pools
MAX_RATES, MAX_RATES_BYTES = 1000, 1 << 20


class Target(NamedTuple):
    """A pool to fill up to a highest view."""

    pool: Pool
    views: int

    @property
    def spec(self) -> FeatureSpec:
        """The spec of the pool's rows."""
        return self.pool.spec


@dataclass(frozen=True, eq=False)
class Pass:
    """Keys that the same targets lack, so that one forward pass serves all of them.

    Raises:
        ValueError: the targets cannot share a pass; a pool would get another pool's rows.
    """

    targets: tuple[Target, ...]
    positions: Positions  # in RawImages
    views: Views

    def __post_init__(self) -> None:
        specs = [target.spec for target in self.targets]
        policies = {spec.augmentation for spec in specs} if self.views.any() else set()
        if len({spec.pass_key() for spec in specs}) > 1 or len(policies) > 1:
            different = ", ".join(specs[0].differences(specs[-1]))
            raise ValueError(f"one pass for sets that differ in {different}")

    @property
    def outputs(self) -> list[str]:
        """The outputs that the engine must compute. Targets may share one and differ in dtype."""
        return sorted({target.spec.output for target in self.targets})


def pooled_bytes(spec: FeatureSpec) -> int | None:
    """The bytes of a row, if the output is pooled; else None: only the built base has the shape."""
    if spec.output not in ("avg", "max"):
        return None
    return BACKBONES[spec.backbone].width * np.dtype(spec.dtype).itemsize


class Images:
    """The images of `data/raw` that can have rows: each image once, without quarantined ones."""

    def __init__(self, raw: Path) -> None:
        self.raw = RawImages.open(raw)

    def __len__(self) -> int:
        return len(self.positions)

    @cached_property
    def positions(self) -> Positions:
        """The position of the first example of each image, ascending."""
        images, first = np.unique(self.raw.index.images, return_index=True)
        return np.sort(first[self.raw.index.reason[images] == 0])

    def blocks(self) -> list[Positions]:
        """The positions in blocks, to keep memory small."""
        return np.array_split(self.positions, max(1, -(-len(self) // BLOCK)))

    def digest(self, position: int) -> bytes:
        """The digest of the example at a position."""
        return self.raw.digests(np.array([position])).tobytes()


def plan(targets: Sequence[Target], images: Images) -> list[Pass]:
    """The passes that compute every row that a target lacks, each row once per trunk.

    Rows that the same targets lack share a pass, in the order of their images. Images are looked up
    block by block, so that little more than the result is in memory.
    """
    policies = sorted({target.spec.augmentation or "" for target in targets})
    by_mask: defaultdict[int, list[NDArray[np.int64]]] = defaultdict(list)
    for block in images.blocks():
        keys, masks = _lacking(targets, policies, block, images.raw.digests(block))
        for mask in set(masks.tolist()):  # np.unique would import numpy.ma
            by_mask[mask].append(keys[masks == mask])
    return [_pass(targets, np.concatenate(by_mask.pop(mask)), mask) for mask in sorted(by_mask)]


def _lacking(
    targets: Sequence[Target], policies: Sequence[str], positions: Positions, digests: Digests
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The keys that any target lacks, of a block of images, ascending; and its targets, as bits.

    A row's key is its image's position, its view and, from view 1 on, its augmentation policy,
    packed into one integer.
    """
    keys, lacking = [], []
    order = np.argsort(_texts(digests))
    ordered = _texts(digests)[order]
    for number, target in enumerate(targets):
        missing, views = target.pool.missing(digests, target.views)
        places = positions[order[np.searchsorted(ordered, _texts(missing))]]
        policy = policies.index(target.spec.augmentation or "")
        keys.append(places << 24 | views.astype("i8") << 8 | (views > 0) * policy)
        lacking.append(np.full(len(views), 1 << number, np.int64))
    unique, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    masks = np.zeros(len(unique), np.int64)
    np.bitwise_or.at(masks, inverse, np.concatenate(lacking))
    return unique, masks


def _pass(targets: Sequence[Target], keys: NDArray[np.int64], mask: int) -> Pass:
    chosen = tuple(target for number, target in enumerate(targets) if mask >> number & 1)
    views = (keys >> 8).astype(np.uint16)
    keys >>= 24  # in place: keys are most of the client's memory
    return Pass(chosen, keys, views)


def _texts(digests: Digests) -> NDArray[np.bytes_]:
    """Digests as strings, which numpy sorts by their bytes."""
    return np.ascontiguousarray(digests).view("S32").ravel()


@dataclass(frozen=True)
class Estimate:
    """What `extract` would do.

    Attributes:
        existing: rows that the pool has or can copy.
        missing: rows to compute.
        bytes: space of the missing rows; None if the width of a row is unknown.
        seconds: time for the missing rows; None if no row of the spec was computed here before.
    """

    existing: int
    missing: int
    bytes: int | None
    seconds: float | None


def estimate(
    spec: FeatureSpec,
    views: int,
    *,
    raw: Path,
    pool: Path,
    lender: Path | None = None,
    published: Path | None = None,
) -> Estimate:
    """What a set of the images of `raw` needs. Computes nothing and does not load Keras.

    Args:
        spec: the spec of the set.
        views: the highest view.
        raw: the directory that `download` wrote.
        pool: the directory of all pools.
        lender: a directory of pools of somebody else; rows there count as existing.
        published: the last published version of the set; its rows count as existing too.
    """
    images, rows = Images(raw), Pool(pool, spec)
    other = Pool(lender, spec) if lender else None
    plans = [
        rows.plan(images.raw.digests(block), views, other, published) for block in images.blocks()
    ]
    row_bytes = plans[0].row_bytes or pooled_bytes(spec)
    missing = sum(plan.missing for plan in plans)
    return Estimate(
        existing=sum(plan.existing for plan in plans),
        missing=missing,
        bytes=None if row_bytes is None else row_bytes * missing,
        seconds=seconds_for(pool, spec.fingerprint, missing),
    )


def remember_rate(pool: Path, fingerprint: str, rows: int, seconds: float) -> None:
    """Record the rows per second of a run, start-up included, if the pool is writable."""
    newest = {fingerprint: round(rows / max(seconds, 1e-3), 3)}
    rates = dict([*_rates(pool).items()][-MAX_RATES:]) | newest
    with suppress(OSError), replacing(pool / RATES) as partial:
        write(partial, json.dumps(rates).encode(), mode=0o666)


def seconds_for(pool: Path, fingerprint: str, rows: int) -> float | None:
    """An estimate for `rows` rows; None if no row of the spec was computed here before."""
    rate = _rates(pool).get(fingerprint)
    if not isinstance(rate, int | float) or not 1e-6 < rate < 1e9:
        return None
    return rows / rate


def _rates(pool: Path) -> dict[str, Any]:
    """The recorded rates. Other users of the pool may have written any text."""
    try:
        rates = read_json(pool / RATES, MAX_RATES_BYTES)
    except (OSError, ValueError):
        return {}
    return rates if isinstance(rates, dict) else {}

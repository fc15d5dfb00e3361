"""Which rows the pools lack, in how few passes they can be computed, and how long that takes.

Reads pools and the index of `data/raw`; computes no feature and loads no Keras.
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
        """What the pool's rows are."""
        return self.pool.spec


@dataclass(frozen=True, eq=False)
class Pass:
    """Keys that the same targets lack, so that one forward pass serves them all.

    Raises:
        ValueError: the targets' rows are not those of one pass; a pool would get another's.
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
        """What the engine is asked for; sets may share an output and differ in dtype."""
        return sorted({target.spec.output for target in self.targets})


def pooled_bytes(spec: FeatureSpec) -> int | None:
    """The bytes of a row of a pooled output; of another one only the built base knows the shape."""
    if spec.output not in ("avg", "max"):
        return None
    return BACKBONES[spec.backbone].width * np.dtype(spec.dtype).itemsize


class Images:
    """The images of a data/raw directory that can have rows."""

    def __init__(self, raw: Path) -> None:
        self.raw = RawImages.open(raw)

    def __len__(self) -> int:
        return len(self.positions)

    @cached_property
    def positions(self) -> Positions:
        """Of the first example of each image, ascending."""
        images, first = np.unique(self.raw.index.images, return_index=True)
        return np.sort(first[self.raw.index.reason[images] == 0])

    def blocks(self) -> list[Positions]:
        """The positions block by block: what is made of one of them needs little memory."""
        return np.array_split(self.positions, max(1, -(-len(self) // BLOCK)))

    def digest(self, position: int) -> bytes:
        """The digest of the example at a position."""
        return self.raw.digests(np.array([position])).tobytes()


def plan(targets: Sequence[Target], images: Images) -> list[Pass]:
    """The passes that compute every row which a target lacks, each row once per trunk.

    Rows that the same targets lack share a pass, in the order of their images. A listing of
    millions is looked through block by block, so that little more than the answer is in memory.
    """
    policies = sorted({target.spec.augmentation or "" for target in targets})
    found: defaultdict[int, list[NDArray[np.int64]]] = defaultdict(list)
    for block in images.blocks():
        keys, masks = _lacking(targets, policies, block, images.raw.digests(block))
        for mask in set(masks.tolist()):  # `np.unique` would load numpy.ma
            found[mask].append(keys[masks == mask])
    return [_pass(targets, np.concatenate(found.pop(mask)), mask) for mask in sorted(found)]


def _lacking(
    targets: Sequence[Target], policies: Sequence[str], positions: Positions, digests: Digests
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The keys that some target lacks of a block of images, ascending, and which targets, as bits.

    A row's key is its image's position, its view and, from view 1 on, its augmentation policy,
    packed into one integer.
    """
    keys, lacking = [], []
    order = np.argsort(_texts(digests))
    ordered = _texts(digests)[order]
    for number, target in enumerate(targets):
        missing, views = target.pool.missing(digests, target.views)
        found = positions[order[np.searchsorted(ordered, _texts(missing))]]
        policy = policies.index(target.spec.augmentation or "")
        keys.append(found << 24 | views.astype("i8") << 8 | (views > 0) * policy)
        lacking.append(np.full(len(views), 1 << number, np.int64))
    unique, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    masks = np.zeros(len(unique), np.int64)
    np.bitwise_or.at(masks, inverse, np.concatenate(lacking))
    return unique, masks


def _pass(targets: Sequence[Target], keys: NDArray[np.int64], mask: int) -> Pass:
    chosen = tuple(target for number, target in enumerate(targets) if mask >> number & 1)
    views = (keys >> 8).astype(np.uint16)
    keys >>= 24  # in place: they are most of what the client holds
    return Pass(chosen, keys, views)


def _texts(digests: Digests) -> NDArray[np.bytes_]:
    """Digests as strings, which numpy sorts by their bytes."""
    return np.ascontiguousarray(digests).view("S32").ravel()


@dataclass(frozen=True)
class Estimate:
    """What `extract` would do.

    Attributes:
        existing: rows that the pool has, or takes over.
        missing: rows to compute.
        bytes: that they take; None where neither a row nor the table says how wide one is.
        seconds: that they take; None where none of the spec was ever computed here.
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
    """What a set of the images of `raw` needs; nothing is computed, and no Keras is loaded.

    Args:
        spec: of the set.
        views: its highest view.
        raw: what `download` wrote.
        pool: the directory of all pools.
        lender: that of somebody else, whose rows are taken over.
        published: the set as it lies there, whose rows are taken over too.
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
    """Keep the rows per second of a run, start-up included, if the pool can be written."""
    newest = {fingerprint: round(rows / max(seconds, 1e-3), 3)}
    rates = dict([*_rates(pool).items()][-MAX_RATES:]) | newest
    with suppress(OSError), replacing(pool / RATES) as partial:
        write(partial, json.dumps(rates).encode(), mode=0o666)


def seconds_for(pool: Path, fingerprint: str, rows: int) -> float | None:
    """An estimate for some rows; None where none of the spec was ever computed here."""
    rate = _rates(pool).get(fingerprint)
    if not isinstance(rate, int | float) or not 1e-6 < rate < 1e9:
        return None
    return rows / rate


def _rates(pool: Path) -> dict[str, Any]:
    """The rates that are kept; whoever shares the pool may have written anything."""
    try:
        found = read_json(pool / RATES, MAX_RATES_BYTES)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

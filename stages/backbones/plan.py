"""Which rows the pools lack, and in how few passes they can be computed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.backbones.table import BACKBONES
from stages.data.raw import RawImages
from store.pool import Pool
from store.spec import FeatureSpec

BLOCK = 1 << 19  # digests

Digests = NDArray[np.uint8]
Views = NDArray[np.uint16]


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
    """Keys that the same targets lack, so that one forward pass serves them all."""

    targets: tuple[Target, ...]
    positions: NDArray[np.int64]  # in RawImages.examples
    views: Views

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
    """The images of a data/raw directory that can have rows, one position per digest."""

    def __init__(self, raw: Path) -> None:
        self.raw = RawImages.open(raw)
        self.examples = self.raw.examples
        good = np.flatnonzero(~self.examples.quarantined)
        keys = np.ascontiguousarray(self.examples.digests[good]).view("V32").ravel()
        self._sorted, first = np.unique(keys, return_index=True)
        self._first = good[first]

    @property
    def digests(self) -> Digests:
        """(n, 32), unique."""
        return self._sorted.view(np.uint8).reshape(-1, 32)

    def digest(self, position: int) -> bytes:
        """The digest of the example at a position."""
        return bytes(self.examples.digests[position])

    def positions(self, digests: Digests) -> NDArray[np.int64]:
        """Where the first example of each digest stands."""
        keys = np.ascontiguousarray(digests).view("V32").ravel()
        return self._first[np.searchsorted(self._sorted.view("S32"), keys.view("S32"))]


def plan(targets: Sequence[Target], images: Images) -> list[Pass]:
    """The passes that compute every row which a target lacks, each row once per trunk.

    Rows that the same targets lack share a pass, in the order of their images. A listing of
    millions is looked through block by block, so that little more than the answer is in memory.
    """
    policies = sorted({target.spec.augmentation or "" for target in targets})
    found: defaultdict[int, list[NDArray[np.int64]]] = defaultdict(list)
    for start in range(0, len(images.digests), BLOCK):
        keys, masks = _lacking(targets, policies, images, images.digests[start : start + BLOCK])
        for mask in np.unique(masks):
            found[int(mask)].append(keys[masks == mask])
    return [_pass(targets, np.concatenate(found.pop(mask)), mask) for mask in sorted(found)]


def _lacking(
    targets: Sequence[Target], policies: Sequence[str], images: Images, block: Digests
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The keys that some target lacks of a block of digests, and which targets, as bits.

    A row's key is its image's position, its view and, from view 1 on, its augmentation policy,
    packed into one integer.
    """
    keys, lacking = [], []
    for number, target in enumerate(targets):
        digests, views = target.pool.missing(block, target.views)
        policy = policies.index(target.spec.augmentation or "")
        keys.append(
            images.positions(digests) << 24 | views.astype("i8") << 8 | (views > 0) * policy
        )
        lacking.append(np.full(len(views), 1 << number, np.int64))
    unique, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    masks = np.zeros(len(unique), np.int64)
    np.bitwise_or.at(masks, inverse, np.concatenate(lacking))
    return unique, masks


def _pass(targets: Sequence[Target], keys: NDArray[np.int64], mask: int) -> Pass:
    chosen = tuple(target for number, target in enumerate(targets) if mask >> number & 1)
    keys.sort()
    return Pass(chosen, keys >> 24, (keys >> 8 & 0xFFFF).astype(np.uint16))

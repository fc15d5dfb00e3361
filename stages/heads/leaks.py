"""Images that occur more than once, exactly or nearly, and those that leak between parts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.heads.rows import Floats, Positions, Rows

BLOCK = 1024


@dataclass(frozen=True)
class Pair:
    """Two rows that look alike.

    Attributes:
        first: position of the one, the smaller.
        second: position of the other.
        cosine: of the angle between their centred features; 1 for equal bytes.
        exact: whether the encoded bytes are equal.
    """

    first: int
    second: int
    cosine: float
    exact: bool


def duplicates(digests: NDArray[np.uint8], positions: Positions) -> list[Pair]:
    """Images whose bytes are equal; each is paired with the first of its kind."""
    firsts: dict[bytes, int] = {}
    pairs = []
    for position in sorted(positions.tolist()):
        first = firsts.setdefault(digests[position].tobytes(), position)
        if first != position:
            pairs.append(Pair(first, position, 1.0, True))
    return pairs


def near_duplicates(
    rows: Rows, digests: NDArray[np.uint8], positions: Positions, threshold: float = 0.97
) -> list[Pair]:
    """Pairs whose centred features point the same way, closest first; equal bytes are left out.

    Features after a ReLU all point much the same way; only without their mean do angles tell images
    apart. All pairs are looked at, block by block: the time grows with the square of the rows, the
    memory does not.
    """
    positions = np.sort(positions)
    total = np.zeros(rows.width)
    for block in _blocks(positions):
        total += rows.take(block).sum(0, dtype=np.float64)
    mean = (total / max(1, len(positions))).astype(np.float32)
    pairs = []
    for k, left in enumerate(_blocks(positions)):
        mine = _directions(rows, left, mean)
        for right in list(_blocks(positions))[k:]:
            theirs = mine if right[0] == left[0] else _directions(rows, right, mean)
            cosines = mine @ theirs.T
            for a, b in np.argwhere(cosines >= threshold):
                if left[a] < right[b] and not np.array_equal(digests[left[a]], digests[right[b]]):
                    pair = Pair(int(left[a]), int(right[b]), min(1.0, float(cosines[a, b])), False)
                    pairs.append(pair)
    return sorted(pairs, key=lambda pair: (-pair.cosine, pair.first, pair.second))


def leaks(pairs: list[Pair], train: Positions, test: Positions) -> list[Pair]:
    """The pairs with one row among those trained on and the other among those tested on."""
    trained, tested = set(train.tolist()), set(test.tolist())
    return [
        pair
        for pair in pairs
        if (pair.first in trained and pair.second in tested)
        or (pair.first in tested and pair.second in trained)
    ]


def _blocks(positions: Positions) -> Iterator[Positions]:
    for start in range(0, len(positions), BLOCK):
        yield positions[start : start + BLOCK]


def _directions(rows: Rows, positions: Positions, mean: Floats) -> Floats:
    centred = rows.take(positions) - mean
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)

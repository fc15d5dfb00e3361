"""Which row each example has, found in little memory.

An index of a million keys takes 0.1 GB. So keys are divided by the first byte of their digests,
which is as good as random, and one part after the other is indexed and looked up.
"""

import numpy as np
from numpy.typing import NDArray

from cryobase.store.examples import ExamplesFile
from cryobase.store.index import BLOCK, Index, Positions, words_of_rows
from cryobase.store.rows import Numbers, Rows
from cryobase.store.shard import Digests

PARTS = 16  # at most: the examples' digests are read once for each


def rows_of(examples: ExamplesFile, table: Rows, views: int) -> Numbers:
    """(views + 1, n) the number of each example's row; -1 in quarantine, or where there is none.

    Raises:
        IntegrityError: two rows have the same key.
    """
    kind = np.int32 if len(table) <= np.iinfo(np.int32).max else np.int64
    rows = np.full((views + 1, len(examples)), -1, kind)
    parts = min(PARTS, 1 + len(table) // BLOCK)
    bounds = _bounds(table, parts)
    for part in range(parts):
        index, numbers = _index(table, bounds[:, part], part, parts)
        numbers = np.append(numbers, -1)  # at -1, where the index puts what it does not find
        for where in examples.slices():
            digests = examples.column("digest", where)
            good = examples.column("quarantined", where) == 0
            places = np.flatnonzero(good & (_part_of(digests, parts) == part))
            for view in range(views + 1):
                keys = words_of_rows(digests[places], np.full(len(places), view, np.uint16))
                rows[view, where.start + places] = numbers[index.find(keys)]
    return rows


def _part_of(digests: Digests, parts: int) -> NDArray[np.integer]:
    return digests[:, 0].astype(np.uint16) * np.uint16(parts) >> 8


def _bounds(table: Rows, parts: int) -> NDArray[np.int64]:
    """(shards, parts, 2) from which row to which a part of a shard lies.

    In a shard that is ordered by digest, as ours are, a part has nothing between but itself.
    """
    bounds = np.empty((len(table.shards), parts, 2), np.int64)
    bounds[:, :, 0], bounds[:, :, 1] = table.starts[1:, None], table.starts[:-1, None]
    for start, digests, _ in table.key_blocks():
        shard = np.searchsorted(table.starts, start, side="right") - 1
        part = _part_of(digests, parts)
        lasts = np.flatnonzero(np.diff(part, append=parts))
        firsts = np.append(0, lasts[:-1] + 1)
        np.minimum.at(bounds[shard, :, 0], part[firsts], start + firsts)
        np.maximum.at(bounds[shard, :, 1], part[lasts], start + lasts + 1)
    return bounds


def _index(
    table: Rows, bounds: NDArray[np.int64], part: int, parts: int
) -> tuple[Index, Positions]:
    """The index of one part of all keys, and the numbers of their rows."""
    keys, numbers = [np.empty((0, 5), np.uint64)], [np.empty(0, np.int64)]
    for start, digests, views in table.key_blocks(bounds):
        places = np.flatnonzero(_part_of(digests, parts) == part)
        keys.append(words_of_rows(digests[places], views[places]))
        numbers.append(start + places)
    return Index(np.concatenate(keys)), np.concatenate(numbers)

"""Finding fixed-size keys among a million others, exactly and without a Python loop."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.store.errors import IntegrityError

Positions = NDArray[np.int64]
Words = NDArray[np.uint64]

BLOCK = 1 << 16  # keys that are looked up at once: what they need stays in the cache


class KeyIndex:
    """Positions of keys.

    Keys are looked up by a 64-bit hash with random coefficients, so that nobody can prepare keys
    that collide, and then compared whole.

    Args:
        keys: (n, words); no two alike.

    Raises:
        IntegrityError: two keys are alike.
    """

    def __init__(self, keys: Words) -> None:
        self._keys = keys
        for _ in range(8):
            factors = np.frombuffer(os.urandom(8 * keys.shape[1]), np.uint64)
            self._factors = factors | np.uint64(1)
            hashes = self._hash(keys)
            self._order = np.argsort(hashes)
            self._hashes = hashes[self._order]
            alike = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
            if len(alike) == 0:
                return
            one, other = keys[self._order[alike]], keys[self._order[alike + 1]]
            if (one == other).all(axis=1).any():
                break
        raise IntegrityError("a key (digest and view, or id) comes twice")

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, keys: Words) -> Positions:
        """(m,) the positions of `keys` (m, words), -1 where there is none."""
        if len(self) == 0 or len(keys) == 0:
            return np.full(len(keys), -1, np.int64)
        parts = range(0, len(keys), BLOCK)
        return np.concatenate([self._find(keys[start : start + BLOCK]) for start in parts])

    def _find(self, keys: Words) -> Positions:
        wanted = self._hash(keys)
        sort = np.argsort(wanted)  # a sorted search stays in the cache: five times faster
        slots = np.empty(len(wanted), np.int64)
        slots[sort] = np.searchsorted(self._hashes, wanted[sort])
        found = self._order[np.minimum(slots, len(self) - 1)]
        candidates = self._keys[found]
        for word in range(keys.shape[1]):
            found[candidates[:, word] != keys[:, word]] = -1
        return found

    def _hash(self, keys: Words) -> Words:
        hashes = np.zeros(len(keys), np.uint64)
        for word, factor in enumerate(self._factors):
            hashes ^= keys[:, word]
            hashes *= factor
            hashes ^= hashes >> np.uint64(32)  # the high bits, which no product carries down
        return hashes


def words_of_rows(digests: NDArray[np.uint8], views: NDArray[np.uint16]) -> Words:
    """(n, 5) the keys of rows: digest and view."""
    words = np.empty((len(digests), 5), np.uint64)
    words[:, :4] = np.ascontiguousarray(digests).view(np.uint64)
    words[:, 4] = views
    return words


def words_of_strings(strings: NDArray[np.bytes_], width: int) -> Words:
    """(n, width // 8) the keys of strings of at most `width` bytes, a multiple of 8."""
    padded: NDArray[Any] = np.ascontiguousarray(strings, f"S{width}")
    return padded.view(np.uint64).reshape(len(strings), width // 8)

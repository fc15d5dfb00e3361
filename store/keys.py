"""Looking up fixed-size keys among millions, exactly and without a Python loop."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.store.errors import IntegrityError

Positions = NDArray[np.int64]
Words = NDArray[np.uint64]

BLOCK = 1 << 16  # keys that are looked up at once, so that the data stay in the CPU's cache


class KeyIndex:
    """The positions of keys.

    Keys are looked up by a 64-bit hash, then compared in full. The hash has random coefficients, so
    that an attacker cannot prepare keys that collide.

    Args:
        keys: (n, words), unique.

    Raises:
        IntegrityError: two keys are equal.
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
            left, right = keys[self._order[alike]], keys[self._order[alike + 1]]
            if (left == right).all(axis=1).any():
                break
        raise IntegrityError("a key (digest and view, or id) comes twice")

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, keys: Words) -> Positions:
        """(m,) the positions of `keys` (m, words), -1 for an unknown key."""
        if len(self) == 0 or len(keys) == 0:
            return np.full(len(keys), -1, np.int64)
        parts = range(0, len(keys), BLOCK)
        return np.concatenate([self._find(keys[start : start + BLOCK]) for start in parts])

    def _find(self, keys: Words) -> Positions:
        wanted = self._hash(keys)
        sort = np.argsort(wanted)  # a search in sorted order uses the cache: five times faster
        slots = np.empty(len(wanted), np.int64)
        slots[sort] = np.searchsorted(self._hashes, wanted[sort])
        positions = self._order[np.minimum(slots, len(self) - 1)]
        candidates = self._keys[positions]
        for word in range(keys.shape[1]):
            positions[candidates[:, word] != keys[:, word]] = -1
        return positions

    def _hash(self, keys: Words) -> Words:
        hashes = np.zeros(len(keys), np.uint64)
        for word, factor in enumerate(self._factors):
            hashes ^= keys[:, word]
            hashes *= factor
            hashes ^= hashes >> np.uint64(32)  # a product never moves high bits down
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

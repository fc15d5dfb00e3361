"""Which images are known already: 16 bytes of memory for each, instead of Python's 150."""

import numpy as np
from numpy.typing import NDArray

FREE = -1


class DigestTable:
    """Maps SHA-256 digests to the order in which they were added, by open addressing."""

    def __init__(self, digests: NDArray[np.uint8] | None = None) -> None:
        """Start with (n, 32) digests, which get the numbers 0 to n-1."""
        self._digests = bytearray()
        self._rows = np.full(1024, FREE, dtype=np.int64)
        for digest in np.zeros((0, 32), np.uint8) if digests is None else digests:
            self.add(digest.tobytes())

    def __len__(self) -> int:
        return len(self._digests) // 32

    @property
    def digests(self) -> NDArray[np.uint8]:
        """(n, 32), in the order in which they were added."""
        return np.frombuffer(bytes(self._digests), dtype=np.uint8).reshape(-1, 32)

    def find(self, digest: bytes) -> int | None:
        """The number of a digest, if it was added."""
        row = int(self._rows[self._slot(digest)])
        return None if row == FREE else row

    def add(self, digest: bytes) -> int:
        """The number of a digest, added if it was not there."""
        if 2 * len(self) >= len(self._rows):
            self._grow()
        slot = self._slot(digest)
        if self._rows[slot] == FREE:
            self._rows[slot] = len(self)
            self._digests += digest
        return int(self._rows[slot])

    def _slot(self, digest: bytes) -> int:
        """Where a digest is, or the free place where it would be."""
        slots = len(self._rows)
        slot = int.from_bytes(digest[:8], "little") % slots
        while (row := int(self._rows[slot])) != FREE:
            if self._digests[32 * row : 32 * row + 32] == digest:
                break
            slot = (slot + 1) % slots
        return slot

    def _grow(self) -> None:
        self._rows = np.full(2 * len(self._rows), FREE, dtype=np.int64)
        for row in range(len(self)):
            self._rows[self._slot(bytes(self._digests[32 * row : 32 * row + 32]))] = row

"""A hash table of image digests. It needs 16 bytes beside each digest; a Python dict needs 150."""

import numpy as np
from numpy.typing import NDArray

FREE = -1


class DigestTable:
    """Maps each SHA-256 digest to its number, in the order of adding. Uses open addressing."""

    def __init__(self, digests: NDArray[np.uint8] | None = None) -> None:
        """Make a table of (n, 32) digests, which get the numbers 0 to n-1."""
        self._digests = bytearray()
        self._rows = np.full(1024, FREE, dtype=np.int64)
        for digest in np.zeros((0, 32), np.uint8) if digests is None else digests:
            self.add(digest.tobytes())

    def __len__(self) -> int:
        return len(self._digests) // 32

    @property
    def digests(self) -> NDArray[np.uint8]:
        """(n, 32), in the order of adding."""
        return np.frombuffer(bytes(self._digests), dtype=np.uint8).reshape(-1, 32)

    def find(self, digest: bytes) -> int | None:
        """The number of a digest; None if it was not added."""
        row = int(self._rows[self._slot(digest)])
        return None if row == FREE else row

    def add(self, digest: bytes) -> int:
        """The number of a digest, which is added if it is new."""
        if 2 * len(self) >= len(self._rows):
            self._grow()
        slot = self._slot(digest)
        if self._rows[slot] == FREE:
            self._rows[slot] = len(self)
            self._digests += digest
        return int(self._rows[slot])

    def _slot(self, digest: bytes) -> int:
        """The slot of a digest, or the free slot for it."""
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

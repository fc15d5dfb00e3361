"""Copying rows that lie far apart, hundreds with one system call.

Reading row by row costs more for the calls than for the copying. The way out would be to map the
files, but a map of a file that somebody cuts ends our process with SIGBUS. So the kernel copies,
from the map to a memory file of ours: where a file was cut, it reports an error instead.
"""

import mmap
import os
import threading
from itertools import accumulate
from typing import Any

from numpy.typing import NDArray

from store.files import bytes_of
from store.shard import Shard

SUPPORTED = hasattr(os, "memfd_create") and hasattr(os, "pwritev")
_AT_ONCE = 512  # parts in a call; the system takes 1024
_BUFFER = 1 << 22


class Scatter:
    """Copies parts of shards, from any thread, and in forked processes."""

    def __init__(self, shards: list[Shard]) -> None:
        self._owner, self._file = -1, -1
        self._lock = threading.Lock()
        self._maps = {
            shard.descriptor: memoryview(
                mmap.mmap(shard.descriptor, shard.info.size, prot=mmap.PROT_READ)
            )
            for shard in shards
        }

    def read(
        self, descriptors: list[int], offsets: list[int], lengths: list[int], rows: NDArray[Any]
    ) -> bool:
        """Fill `rows` with parts of files; whether all could be read."""
        maps, buffer = self._maps, bytes_of(rows)
        parts = [
            maps[descriptor][offset : offset + length]
            for descriptor, offset, length in zip(descriptors, offsets, lengths, strict=True)
        ]
        stops = [0, *accumulate(lengths)]
        step = max(1, min(_AT_ONCE, _BUFFER // max(lengths)))
        with self._lock:
            for first in range(0, len(parts), step):
                start, stop = stops[first], stops[min(first + step, len(parts))]
                try:
                    count = os.pwritev(self._memory(), parts[first : first + step], 0)
                except OSError:
                    return False
                if count != stop - start:
                    return False
                buffer[start:stop] = self._window[: stop - start]
        # Behind the new end of a file that was cut, the rest of its last page reads as zeros.
        return all(os.fstat(number).st_size == len(part) for number, part in maps.items())

    def _memory(self) -> int:
        """The memory file; a forked process makes its own, or it would write into its parent's."""
        if self._owner != os.getpid():
            self._close()
            self._file = os.memfd_create("cryobase")
            os.truncate(self._file, _BUFFER)
            self._window = memoryview(mmap.mmap(self._file, _BUFFER))
            self._owner = os.getpid()
        return self._file

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        self._close()

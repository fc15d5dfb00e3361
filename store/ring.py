"""Reading rows that lie far apart, hundreds with one system call.

`preadv` row by row costs as much for the calls as for the copying, passes Python's lock around
between them, and lets a disk see one row at a time. Linux' io_uring takes a whole batch. A map of
the files would do it too, but a map of a file that somebody cuts ends our process with SIGBUS.
"""

import ctypes
import errno
import mmap
import os
import platform
import sys
import threading
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENTRIES = 256  # reads in a call

# Numbers and structures of linux/io_uring.h.
_SETUP, _ENTER = 425, 426
_GETEVENTS, _READ = 1, 22
_FEATURES = 1 << 0 | 1 << 3  # one map for both queues; since Linux 5.6, as IORING_OP_READ
_SQES_OFFSET = 0x10000000
_SQE = np.dtype(
    {
        "names": ["opcode", "fd", "offset", "address", "length", "user_data"],
        "formats": ["u1", "<i4", "<u8", "<u8", "<u4", "<u8"],
        "offsets": [0, 4, 8, 16, 24, 32],
        "itemsize": 64,
    }
)
_CQE = np.dtype([("user_data", "<u8"), ("result", "<i4"), ("flags", "<u4")])


class Ring:
    """A queue of reads and a queue of their results, shared with the kernel; for one thread.

    Raises:
        OSError: the system has no io_uring, or forbids it.
    """

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._rows: NDArray[Any] | None = None
        params = np.zeros(30, np.uint32)
        self._file = _call(_SETUP, ENTRIES, params.ctypes.data_as(ctypes.c_void_p))
        _call(_ENTER, self._file, 0, 0, 0, None, 0)  # may be forbidden, too
        results, features = int(params[1]), int(params[5])
        if features & _FEATURES != _FEATURES:
            raise OSError(errno.ENOSYS, "io_uring is older than Linux 5.6")
        asked_head, asked_tail, array = params[[10, 11, 16]].tolist()
        ended_head, ended_tail, cqes = params[[20, 21, 25]].tolist()
        size = max(array + 4 * ENTRIES, cqes + _CQE.itemsize * results)
        shared = mmap.mmap(self._file, size)
        sqes = mmap.mmap(self._file, _SQE.itemsize * ENTRIES, offset=_SQES_OFFSET)
        words = np.frombuffer(shared, np.uint32, size // 4)
        words[array // 4 : array // 4 + ENTRIES] = np.arange(ENTRIES)
        # Counters that wrap at 2**32: the kernel moves two of them, we the other two.
        self._begun, self._asked = words[asked_head // 4 :], words[asked_tail // 4 :]
        self._taken, self._ended = words[ended_head // 4 :], words[ended_tail // 4 :]
        self._sqes = np.frombuffer(sqes, _SQE)
        self._cqes = np.frombuffer(shared, _CQE, results, cqes)
        self._sqes["opcode"] = _READ

    def read(
        self,
        descriptors: NDArray[np.int64],
        offsets: NDArray[np.int64],
        lengths: NDArray[np.int64],
        rows: NDArray[Any],
    ) -> bool:
        """Fill contiguous `rows` with parts of files, one after the other.

        Returns:
            Whether all could be read; if not, `preadv` tells which, and why.
        """
        self._settle()
        self._rows = rows  # kept: the kernel writes into it until all has ended, come what may
        addresses = rows.ctypes.data + np.cumsum(lengths) - lengths
        start = 0
        while start < len(lengths):
            asked = int(self._asked[0])
            place = asked % ENTRIES
            part = slice(start, start + ENTRIES - place)  # so entries and results lie side by side
            start += (count := len(lengths[part]))
            entries = self._sqes[place : place + count]
            entries["fd"], entries["offset"] = descriptors[part], offsets[part]
            entries["address"] = addresses[part]
            entries["length"] = entries["user_data"] = lengths[part]
            self._asked[0] = (asked + count) % (1 << 32)
            if not self._finish():
                return False
        self._rows = None
        return True

    def _settle(self) -> None:
        """Wait for what an exception has left under way; drop what the kernel has not seen."""
        self._asked[0] = self._begun[0]  # its files may have been closed meanwhile
        self._finish()

    def _finish(self) -> bool:
        """Wait until all that was asked for has ended; whether it gave all bytes."""
        taken = int(self._taken[0])
        while (asked := int(self._asked[0])) != int(self._ended[0]):
            begin, wait = ((asked - count) % (1 << 32) for count in (int(self._begun[0]), taken))
            try:
                _call(_ENTER, self._file, begin, wait, _GETEVENTS, None, 0)
            except (InterruptedError, BlockingIOError):
                continue
        first = taken % len(self._cqes)
        found = self._cqes[first : first + (asked - taken) % (1 << 32)]
        whole = bool((found["result"] == found["user_data"]).all())
        self._taken[0] = asked
        return whole

    def __del__(self) -> None:
        if hasattr(self, "_cqes") and self.owner == os.getpid():
            self._settle()
        if hasattr(self, "_file"):
            os.close(self._file)


def _call(number: int, *arguments: object) -> int:
    function = _system_call()
    result = int(function(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


@cache
def _system_call() -> Any:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise OSError(errno.ENOSYS, "io_uring is not there")
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.restype = ctypes.c_long
    return function


_mine = threading.local()


def thread_ring() -> Ring | None:
    """The ring of this thread, in a forked process another one; None where there can be none."""
    if getattr(_mine, "owner", 0) != os.getpid():
        try:
            _mine.ring = Ring()
        except OSError:
            _mine.ring = None
        _mine.owner = os.getpid()  # last: an exception from a signal leaves the thread without one
    ring: Ring | None = _mine.ring
    return ring

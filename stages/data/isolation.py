"""Images are tried out in child processes: one that kills or stalls its decoder costs that child.

A child is a new Python that imports the decoder alone, takes encoded bytes from a socket, and
answers with a reason or nothing; no pickles, as hostile bytes may have taken it over. It ends when
the other end of the socket does, whatever ended the parent, and by an alarm when an image takes
too long.
"""

import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from threading import Lock
from typing import Any

from stages.data.decoding import UndecodableImageError
from stages.errors import StageError

SECONDS = 60.0  # for one image; noise of the most pixels that are read takes about four
ATTEMPTS = 2  # a child may also die of an earlier image, or be killed from outside
MAX_ANSWER = 1 << 16  # bytes
NO_MEMORY = b"\0"  # an answer that is no reason

Decode = Callable[[bytes], Any]


class IsolatedDecoder:
    """As many children as threads decode at once, started when needed."""

    def __init__(self, decode: Decode) -> None:
        """Take a function that a child can import by its name."""
        self._name = f"{decode.__module__}:{decode.__qualname__}"
        self._lock = Lock()
        self._children: list[_Child] = []  # dead ones too
        self._idle: list[_Child] = []
        self._closed = False

    def try_out(self, data: bytes) -> None:
        """Decode an image in a child, to see whether that works.

        Raises:
            UndecodableImageError: `decode` raised it, or the image ended two children.
            MemoryError: `decode` raised it.
            StageError: children do not even start.
        """
        for _ in range(ATTEMPTS):
            child = self._take()
            if (answer := child.ask(data)) is not None:
                break
        else:
            raise UndecodableImageError(child.cause_of_death())
        self._idle.append(child)
        if answer == NO_MEMORY:
            raise MemoryError(f"too little to decode an image of {len(data):,} bytes")
        if answer:
            raise UndecodableImageError(answer.decode(errors="replace"))

    def _take(self) -> "_Child":
        with self._lock:
            if self._closed:
                raise StageError("the run was stopped")
            if self._idle:
                return self._idle.pop()
            child = _Child(self._name)
            self._children.append(child)
        if child.ask(b"") is None:  # any answer means that the decoder is imported
            raise StageError(
                f"{sys.executable}: does not start as a decoder, its words are above"
                f" ({child.cause_of_death()}); install Cryobase again"
            )
        return child

    def close(self) -> None:
        """End all children at once, busy ones too; threads that wait for them go on."""
        with self._lock:
            self._closed = True
        for child in self._children:
            child.kill()


class _Child:
    """One process, for one thread at a time."""

    def __init__(self, name: str) -> None:
        environment = {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OPENBLAS_NUM_THREADS": "1",  # else numpy starts one per core
        }
        self._socket, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, name, str(SECONDS)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,  # the parent's is for results
                env=os.environ | environment,
                process_group=0,  # Ctrl-C is the parent's affair
            )

    def ask(self, data: bytes) -> bytes | None:
        """The child's answer; None if it died, and its cause of death is known."""
        try:
            self._socket.send_bytes(data)
            return self._socket.recv_bytes(MAX_ANSWER)
        except (EOFError, OSError):
            self._socket.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # it said nonsense, and lives
            self.kill()
        return None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def cause_of_death(self) -> str:
        status = self._process.returncode
        if status == -signal.SIGALRM:
            return f"the decoder took longer than {SECONDS:g} s"
        return f"the decoder crashed ({'signal' if status < 0 else 'exit status'} {abs(status)})"


def serve(name: str, seconds: float) -> None:
    """In a child: answer one question after the other, until the parent is gone."""
    decode: Decode = pkgutil.resolve_name(name)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    parent = Connection(sys.stdin.fileno())
    with suppress(EOFError, ConnectionError):
        while True:
            data = parent.recv_bytes()
            signal.setitimer(signal.ITIMER_REAL, seconds)
            answer = _answer(decode, data)
            signal.setitimer(signal.ITIMER_REAL, 0)
            parent.send_bytes(answer)


def _answer(decode: Decode, data: bytes) -> bytes:
    try:
        decode(data)
    except UndecodableImageError as error:
        return str(error).encode(errors="replace")
    except MemoryError:
        return NO_MEMORY
    return b""


if __name__ == "__main__":
    serve(sys.argv[1], float(sys.argv[2]))

"""Images are tried out in child processes: one that kills or stalls its decoder costs that child.

A child is a new Python that imports the decoder alone, takes encoded bytes from a socket, and
answers with reasons; no pickles, as hostile bytes may have taken it over. It ends when
the other end of the socket does, whatever ended the parent, and by an alarm when an image takes
too long.
"""

import io
import json
import os
import pkgutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from threading import Lock
from typing import Any

from cryobase.stages.children import run_module
from cryobase.stages.data.decoding import UndecodableImageError
from cryobase.stages.errors import StageError

SECONDS = 60.0  # for one image; noise of the most pixels that are read takes about four
MAX_ANSWER = 1 << 16  # bytes

Examine = Callable[[bytes], str]
Verdict = tuple[str, str]  # the reason why an image cannot be decoded; a remark on it


class IsolatedDecoder:
    """As many children as threads decode at once, started when needed."""

    def __init__(self, examine: Examine) -> None:
        """Take a function that a child can import by its name: see `decoding.examine`."""
        self._name = f"{examine.__module__}:{examine.__qualname__}"
        self._lock = Lock()
        self._children: list[_Child] = []  # dead ones too
        self._idle: list[_Child] = []
        self._closed = False

    def examine(self, images: Sequence[bytes]) -> list[Verdict]:
        """Why each image cannot be decoded, and what is to be said of it; both may be "".

        Raises:
            MemoryError: the function raised it.
            StageError: children do not even start.
        """
        if not images:
            return []
        answers, _ = self._ask(images)
        if not answers:  # one of them did it, or an earlier one, or something from outside
            alone = [self._ask([image]) for image in images]
            answers = [answer[0] if answer else (cause, "") for answer, cause in alone]
        if None in answers:
            raise MemoryError(f"decoding images of up to {max(map(len, images)):,} bytes")
        return [(reason, remark) for reason, remark in answers]

    def _ask(self, images: Sequence[bytes]) -> tuple[list[Any], str]:
        """A child's answers; none if it died, and of what."""
        child = self._take()
        if answers := child.ask(images):
            self._idle.append(child)
            return answers, ""
        return [], child.cause_of_death()

    def _take(self) -> "_Child":
        with self._lock:
            if self._closed:
                raise StageError("the run was stopped")
            if self._idle:
                return self._idle.pop()
            child = _Child(self._name)
            self._children.append(child)
        if not child.ask([b""]):  # any answer means that the decoder is imported
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
        self._socket, theirs = Pipe()
        with theirs:
            self._process = run_module(
                __name__, name, str(SECONDS),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,  # the parent's is for results
            )  # fmt: skip

    def ask(self, images: Sequence[bytes]) -> list[Any]:
        """A verdict or None per image; nothing if the child died, and its cause is known."""
        try:
            self._socket.send_bytes(json.dumps([len(image) for image in images]).encode())
            self._socket.send_bytes(b"".join(images))
            answers: list[Any] = json.loads(self._socket.recv_bytes(MAX_ANSWER))
        except (EOFError, OSError, ValueError):
            self._socket.close()
        else:
            return answers
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # it answered nonsense and still runs
            self.kill()
        return []

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
    examine: Examine = pkgutil.resolve_name(name)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _silence_libraries()
    parent = Connection(sys.stdin.fileno())
    with suppress(EOFError, ConnectionError):
        while True:
            lengths, images = json.loads(parent.recv_bytes()), io.BytesIO(parent.recv_bytes())
            answers = []
            for length in lengths:
                signal.setitimer(signal.ITIMER_REAL, seconds)
                answers.append(_verdict(examine, images.read(length)))
                signal.setitimer(signal.ITIMER_REAL, 0)
            parent.send_bytes(json.dumps(answers).encode())


def _silence_libraries() -> None:
    """What C libraries say of a broken file names no file; Python's own words are still heard."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    warnings.simplefilter("ignore")


def _verdict(examine: Examine, image: bytes) -> Verdict | None:
    try:
        return "", examine(image)
    except UndecodableImageError as error:
        return str(error), ""
    except MemoryError:
        return None


if __name__ == "__main__":
    serve(sys.argv[1], float(sys.argv[2]))

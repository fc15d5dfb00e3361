"""Images are tried out in child processes: one that kills or stalls its decoder costs that child.

A child is a new Python that imports the decoder alone, takes encoded bytes from a socket, and
answers with reasons or bytes; no pickles, as hostile bytes may have taken it over. It ends when
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
from functools import partial
from multiprocessing.connection import Connection, Pipe
from threading import Lock
from typing import Any

from cryobase.stages.children import run_module
from cryobase.stages.data.decoding import UndecodableImageError
from cryobase.stages.errors import StageError

SECONDS = 60.0  # for one image; noise of the most pixels that are read takes about four
MAX_ANSWER = 1 << 16  # bytes

Work = Callable[..., str | bytes]  # on the bytes of an image
Verdict = tuple[str, Any]  # the reason why an image cannot be decoded; a remark on it, or bytes


class IsolatedDecoder:
    """As many children as threads decode at once, started when needed."""

    def __init__(self, work: Work, *, size: int = 0, **options: Any) -> None:
        """Take a function that a child can import by its name.

        Args:
            work: makes a remark of an image, see `decoding.examine`, or bytes.
            size: how many bytes these are; 0 where it makes a remark.
            options: further arguments of the function, which JSON can hold.
        """
        self._size = size
        self._arguments = f"{work.__module__}:{work.__qualname__}", json.dumps(options)
        self._lock = Lock()
        self._children: list[_Child] = []  # dead ones too
        self._idle: list[_Child] = []
        self._closed = False

    def examine(self, images: Sequence[bytes]) -> list[Verdict]:
        """Why each image cannot be decoded or "", and what the function made of it or "".

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
        return answers

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
            child = _Child(self._size, *self._arguments)
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

    def __init__(self, size: int, name: str, options: str) -> None:
        self._size = size
        self._socket, theirs = Pipe()
        with theirs:
            self._process = run_module(
                __name__, name, options, str(SECONDS),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,  # the parent's is for results
            )  # fmt: skip

    def ask(self, images: Sequence[bytes]) -> list[Any]:
        """A verdict or None per image; nothing if the child died, and its cause is known."""
        try:
            self._socket.send_bytes(json.dumps([len(image) for image in images]).encode())
            self._socket.send_bytes(b"".join(images))
            answers = _answers(self._socket.recv_bytes(MAX_ANSWER), len(images))
            answers = [one and self._completed(*one) for one in answers]
        except (EOFError, OSError, RecursionError, ValueError):
            self._socket.close()
        else:
            return answers
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # it answered nonsense and still runs
            self.kill()
        return []

    def _completed(self, reason: str, remark: str) -> Verdict:
        """A verdict with the bytes that come after it."""
        if reason or not self._size:
            return reason, remark
        found = self._socket.recv_bytes(self._size)
        if len(found) != self._size:
            raise ValueError(f"{len(found):,} bytes, not {self._size:,}")
        return "", found

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def cause_of_death(self) -> str:
        status = self._process.returncode
        if status == -signal.SIGALRM:
            return f"the decoder took longer than {SECONDS:g} s"
        return f"the decoder crashed ({'signal' if status < 0 else 'exit status'} {abs(status)})"


def _answers(data: bytes, count: int) -> list[Any]:
    """What a child says of so many images, two texts or nothing of each.

    Raises:
        ValueError, RecursionError: it is something else; the child may have been taken over.
    """
    answers = json.loads(data)
    if not isinstance(answers, list) or len(answers) != count:
        raise ValueError(f"no {count} answers")
    for one in answers:
        if one is not None and (type(one) is not list or [*map(type, one)] != [str, str]):
            raise ValueError("no answer")
    return answers


def serve(name: str, options: str, seconds: float) -> None:
    """In a child: answer one question after the other, until the parent is gone."""
    work: Work = partial(pkgutil.resolve_name(name), **json.loads(options))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _silence_libraries()
    parent = Connection(sys.stdin.fileno())
    with suppress(EOFError, ConnectionError):
        while True:
            lengths, images = json.loads(parent.recv_bytes()), io.BytesIO(parent.recv_bytes())
            answers = []
            for length in lengths:
                signal.setitimer(signal.ITIMER_REAL, seconds)
                answers.append(_verdict(work, images.read(length)))
                signal.setitimer(signal.ITIMER_REAL, 0)
            found = [one[1] for one in answers if one and isinstance(one[1], bytes)]
            parent.send_bytes(json.dumps(answers, default=lambda _: "").encode())
            for each in found:
                parent.send_bytes(each)


def _silence_libraries() -> None:
    """What C libraries say of a broken file names no file; Python's own words are still heard."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    warnings.simplefilter("ignore")


def _verdict(work: Work, image: bytes) -> Verdict | None:
    try:
        return "", work(image)
    except UndecodableImageError as error:
        return str(error), ""
    except MemoryError:
        return None


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], float(sys.argv[3]))

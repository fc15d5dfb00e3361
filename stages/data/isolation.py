"""Decoding in child processes, so that a hostile image can crash or block only its child.

A child is a new Python process that imports only the decoder. It reads encoded bytes from a socket
and answers with JSON and bytes. Pickles are never used, because a hostile image may control the
child. The child ends when its socket is closed, also if the parent crashed. An alarm ends it if an
image takes too long.
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

SECONDS = 60.0  # for one image; the largest one, of noise, takes about four
MAX_ANSWER = 1 << 16  # bytes

Work = Callable[..., str | bytes]  # its first argument is the bytes of an image
Verdict = tuple[str, Any]  # (why an image cannot be decoded, or ""; the function's result)


class IsolatedDecoder:
    """A pool of children. A child is started when all others are busy."""

    def __init__(self, work: Work, *, size: int = 0, **options: Any) -> None:
        """Prepare a pool; no child is started yet.

        Args:
            work: a function that a child can import by its name. It returns a remark on an image,
                see `decoding.examine`, or bytes.
            size: the number of bytes that the function returns; 0 if it returns a remark.
            options: further arguments of the function; JSON must be able to store them.
        """
        self._size = size
        self._arguments = f"{work.__module__}:{work.__qualname__}", json.dumps(options)
        self._lock = Lock()
        self._children: list[_Child] = []  # also dead children
        self._idle: list[_Child] = []
        self._closed = False

    def examine(self, images: Sequence[bytes]) -> list[Verdict]:
        """Let a child run the function on each image.

        Returns:
            For each image, why it cannot be decoded, or "", and the function's result, or "".

        Raises:
            MemoryError: the function raised it.
            StageError: a child does not start, or the pool is closed.
        """
        if not images:
            return []
        answers, _ = self._ask(images)
        if not answers:  # the child died: find the image that kills it, if one does
            alone = [self._ask([image]) for image in images]
            answers = [answer[0] if answer else (cause, "") for answer, cause in alone]
        if None in answers:
            raise MemoryError(f"decoding images of up to {max(map(len, images)):,} bytes")
        return answers

    def _ask(self, images: Sequence[bytes]) -> tuple[list[Any], str]:
        """A child's answers and ""; if it died, no answers and the cause."""
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
        if not child.ask([b""]):  # any answer shows that the child has imported the decoder
            raise StageError(
                f"{sys.executable}: does not start as a decoder, its words are above"
                f" ({child.cause_of_death()}); install Cryobase again"
            )
        return child

    def close(self) -> None:
        """Kill all children, also busy ones, so that threads that wait for them continue."""
        with self._lock:
            self._closed = True
        for child in self._children:
            child.kill()


class _Child:
    """One child process. Only one thread at a time may use it."""

    def __init__(self, size: int, name: str, options: str) -> None:
        self._size = size
        self._socket, theirs = Pipe()
        with theirs:
            self._process = run_module(
                __name__, name, options, str(SECONDS),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,  # the parent's standard output is for results
            )  # fmt: skip

    def ask(self, images: Sequence[bytes]) -> list[Any]:
        """A verdict per image, None for a MemoryError; an empty list if the child died."""
        try:
            self._socket.send_bytes(json.dumps([len(image) for image in images]).encode())
            self._socket.send_bytes(b"".join(images))
            answers = _answers(self._socket.recv_bytes(MAX_ANSWER), len(images))
            answers = [answer and self._completed(*answer) for answer in answers]
        except (EOFError, OSError, RecursionError, ValueError):
            self._socket.close()
        else:
            return answers
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # its answer was invalid, and it still runs
            self.kill()
        return []

    def _completed(self, reason: str, remark: str) -> Verdict:
        """A verdict, completed by the bytes that follow the answers."""
        if reason or not self._size:
            return reason, remark
        result = self._socket.recv_bytes(self._size)
        if len(result) != self._size:
            raise ValueError(f"{len(result):,} bytes, not {self._size:,}")
        return "", result

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def cause_of_death(self) -> str:
        status = self._process.returncode
        if status == -signal.SIGALRM:
            return f"the decoder took longer than {SECONDS:g} s"
        return f"the decoder crashed ({'signal' if status < 0 else 'exit status'} {abs(status)})"


def _answers(data: bytes, count: int) -> list[Any]:
    """A child's answers on `count` images: for each, two texts or None.

    Raises:
        ValueError, RecursionError: the data are something else; the child is not trusted.
    """
    answers = json.loads(data)
    if not isinstance(answers, list) or len(answers) != count:
        raise ValueError(f"no {count} answers")
    for answer in answers:
        valid = type(answer) is list and [*map(type, answer)] == [str, str]
        if answer is not None and not valid:
            raise ValueError("not an answer")
    return answers


def serve(name: str, options: str, seconds: float) -> None:
    """Runs in a child: answer requests until the parent closes the socket."""
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
            results = [answer[1] for answer in answers if answer and isinstance(answer[1], bytes)]
            parent.send_bytes(json.dumps(answers, default=lambda _: "").encode())
            for result in results:
                parent.send_bytes(result)


def _silence_libraries() -> None:
    """Discard messages of C libraries, which do not name the file. Keep Python's own messages."""
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

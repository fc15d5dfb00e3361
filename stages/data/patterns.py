"""Applying a user's regular expression to names, in a child process with limited processor time.

On a name of forty letters, `^(a+)+$` would run for centuries, and Python could not interrupt it.
docs/adr/0015 explains why this is a child process, not another regular expression library.
"""

import json
import re
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress

from cryobase.stages.children import run_module
from cryobase.stages.errors import ConfigError, StageError

MAX_LENGTH = 1000  # characters of a pattern
SECONDS = 5.0  # of processor time for a pattern, plus
SECONDS_PER_NAME = 0.0001  # for each name; usual patterns take a hundredth of it
MAX_MEMORY = 1 << 30
TOO_MUCH_MEMORY = 3  # an exit status


def check(pattern: str) -> None:
    """Refuse a pattern for which Python's `re` raises an error or a warning.

    Raises:
        ValueError: the message gives the reason.
    """
    if not 0 < len(pattern) <= MAX_LENGTH:
        raise ValueError(f"1 to {MAX_LENGTH} characters, not {len(pattern):,}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python warns of patterns whose meaning will change
            re.compile(pattern)
    except RecursionError:
        raise ValueError("no regular expression (nested too deeply)") from None
    except (re.error, OverflowError, ValueError, Warning) as error:
        raise ValueError(f"no regular expression ({error})") from None


class PatternReader:
    """Applies a pattern to names. The child process runs as long as the `with` block."""

    def __init__(self, key: str, pattern: str, *, group: str = "") -> None:
        """Prepare a reader.

        Args:
            key: the pattern's key in params, for messages.
            pattern: the regular expression.
            group: the name of the group to return. If the pattern does not have it, the first
                group is returned, or without groups the whole match.
        """
        self._key = key
        self._pattern = pattern
        self._group = group

    def __enter__(self) -> "PatternReader":
        self._child = run_module(
            __name__, self._pattern, self._group, str(SECONDS),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        with suppress(BrokenPipeError):
            self._child.communicate()

    def read(self, names: Sequence[str]) -> list[str]:
        """The text that the pattern finds in each name, or "".

        Raises:
            ConfigError: the pattern takes too long or too much memory.
            StageError: the child does not start.
        """
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps(names).encode() + b"\n")
            self._child.stdin.flush()
        answer = self._child.stdout.readline()
        if not answer.endswith(b"\n"):
            raise self._failure(max(names, key=len))
        texts: list[str] = json.loads(answer)
        return texts

    def _failure(self, name: str) -> StageError:
        status = self._child.wait()
        if status not in (-signal.SIGPROF, TOO_MUCH_MEMORY):
            return StageError(
                f"{sys.executable}: does not start for {self._key} (exit status {status}); install"
                " Cryobase again"
            )
        return ConfigError(
            f"{self._key}: {self._pattern!r:.200} takes too long on names such as {name!r:.100};"
            " write it without repeats inside of repeats"
        )


def serve(pattern: str, group: str, seconds: float) -> None:
    """Runs in a child: answer each line of names. At the time limit a signal ends the process."""
    compiled = re.compile(pattern)
    number = compiled.groupindex.get(group, min(1, compiled.groups))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with suppress(ValueError, OSError):  # some systems do not have this limit
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    for line in sys.stdin.buffer:
        names = json.loads(line)
        seconds += SECONDS_PER_NAME * len(names)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        matches = map(compiled.search, names)
        texts = [match[number] or "" if match else "" for match in matches]
        seconds = signal.setitimer(signal.ITIMER_PROF, 0)[0]
        sys.stdout.buffer.write(json.dumps(texts).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    try:
        serve(sys.argv[1], sys.argv[2], float(sys.argv[3]))
    except (MemoryError, RecursionError):
        sys.exit(TOO_MUCH_MEMORY)

"""Making the system calls of `cryobase.store.publish` fail, or the process die between them."""

import errno
import os
import signal
from collections.abc import Callable

CHANGING = ("open", "write", "fchmod", "fsync", "close", "link", "unlink", "replace", "mkdir")


class Calls:
    """Stands in for `os` in `cryobase.store.publish`; counts the calls that change something.

    Args:
        number: Before which call `strike` is called, counted from 0; never if it is too large.
        strike: Gets the call's name and its arguments; what it returns is the call's result, unless
            it is None, in which case the call goes ahead.
    """

    def __init__(self, number: int, strike: Callable[..., object]) -> None:
        self.number, self.strike, self.count, self.name = number, strike, 0, ""

    def __getattr__(self, name):
        function = getattr(os, name)
        if name not in CHANGING:
            return function

        def call(*args, **kwargs):
            self.count += 1
            if self.count == self.number + 1:
                self.name = name
                result = self.strike(name, args)
                if result is not None:
                    return result
            return function(*args, **kwargs)

        return call


def fail(code: int) -> Callable[..., object]:
    """The call fails; a file that it should have closed is closed, as the system does."""

    def strike(name, args):
        if name == "close":
            os.close(args[0])
        raise OSError(code, os.strerror(code))

    return strike


def write_short(name, args):
    """A write takes half of the bytes only; other calls go ahead."""
    return os.write(args[0], args[1][: max(1, len(args[1]) // 2)]) if name == "write" else None


def die(_name, _args):
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS = {
    "ENOSPC": fail(errno.ENOSPC),
    "EIO": fail(errno.EIO),
    "EDQUOT": fail(errno.EDQUOT),
    "short": write_short,
}

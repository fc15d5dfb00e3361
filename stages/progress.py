"""How far something is: a bar where somebody watches, else a line of the log every ten seconds.

The one place that draws bars, by tqdm, which is imported once a bar is drawn. A bar goes to stderr,
is taken away at its end, and steps aside while a line is written. Where nobody watches (a file, a
pipe, CI, `--quiet`) nothing is drawn, so that no log holds carriage returns.
"""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import RLock
from types import TracebackType
from typing import Any, Self

from cryobase.store.text import visible

LINE_SECONDS = 10.0
RATE_SECONDS = 1.0  # the least that a rate is told of
BAR_SECONDS = 0.5  # what takes no longer has no bar
BYTES = "B"

logger = logging.getLogger(__name__)

_drawn: list[Any] = []  # bars on the terminal


class Progress:
    """Counts what is done; `with` takes the bar away in the end.

    Args:
        what: what is under way, for people.
        unit: what is counted, in the plural; `BYTES` for bytes.
        total: how many there are, None where nobody knows.
        done: how many of them were done before.
    """

    def __init__(self, what: str, unit: str, total: int | None, *, done: int = 0) -> None:
        self._what, self._unit, self._total = visible(what), unit, total
        self._done = self._before = done
        self._begun = False
        self._started = self._told = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            _drawn.remove(self._bar)
            self._bar.close()

    def advance(self, count: int, note: str = "") -> None:
        """Count some as done, and show or tell it if it is time.

        Args:
            count: how many.
            note: what people should know beside the rate, such as which part is the slowest.
        """
        now = time.monotonic()
        if not self._begun:  # the first ones waited for what had to be loaded, and have no rate
            self._begun, self._started = True, now
            self._before += count
        self._done += count
        if self._bar is None and now - self._told >= BAR_SECONDS and _is_watched():
            self._bar = self._draw()
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(self._done - self._bar.n)
        elif now - self._told >= LINE_SECONDS and now - self._started >= RATE_SECONDS:
            self._told = now
            logger.info("%s", self._line(now - self._started, note))

    def _draw(self) -> Any:
        tqdm = _kind()
        tqdm.monitor_interval = 0  # no thread that watches bars
        tqdm.set_lock(RLock())  # and no semaphore of several processes
        bar = tqdm(
            desc=self._what,
            total=self._total,
            initial=self._before,
            unit=self._unit if self._unit == BYTES else f" {self._unit}",
            unit_scale=self._unit == BYTES,
            file=sys.stderr,
            **_width(),
            leave=False,
        )
        bar.start_t -= time.monotonic() - self._started
        _drawn.append(bar)
        return bar

    def _line(self, seconds: float, note: str) -> str:
        rate = (self._done - self._before) / seconds
        total = "" if self._total is None else f" of {self._amount(self._total)}"
        parts = [f"{self._what}: {self._amount(self._done)}{total} {self._name}"]
        parts.append(f"{self._amount(rate)} {self._name}/s")
        if self._total is not None and rate:
            parts.append(f"{(self._total - self._done) / rate:.0f} s left")
        return ", ".join([*parts, *([note] if note else [])])

    @property
    def _name(self) -> str:
        return "MB" if self._unit == BYTES else self._unit

    def _amount(self, count: float) -> str:
        return f"{count / 1e6:,.1f}" if self._unit == BYTES else f"{count:,.0f}"


@contextmanager
def aside() -> Iterator[None]:
    """Take the bars away while something else is written to the terminal, and draw them again."""
    with ExitStack() as stack:
        for kind in {type(bar) for bar in _drawn}:
            stack.enter_context(kind.external_write_mode(file=sys.stderr))
        yield


def _is_watched() -> bool:
    """Whether somebody looks at a terminal or notebook, and wants to be told."""
    if not logger.isEnabledFor(logging.INFO):
        return False
    if os.environ.get("CI") or os.environ.get("TERM") == "dumb":
        return False
    return _in_notebook() or sys.stderr.isatty()


def _kind() -> Any:
    """The class of bars for a terminal, or for a notebook with or without widgets."""
    if not _in_notebook():
        from tqdm.std import tqdm

        return tqdm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where there are no widgets
        from tqdm.auto import tqdm as kind

    return kind


def _width() -> dict[str, Any]:
    """As wide as the terminal, whatever becomes of it; else as one that does not say."""
    with suppress(OSError):
        if all(os.get_terminal_size(sys.stderr.fileno())):
            return {"dynamic_ncols": True}
    return {"ncols": 80, "nrows": 24}  # tqdm draws nothing on a terminal of 0 lines


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return type(shell).__name__ == "ZMQInteractiveShell"

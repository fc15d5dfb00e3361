"""Progress: a bar on a terminal or in a notebook, else a line in the log every ten seconds.

This is the only module that draws bars. tqdm draws them; it is imported with the first bar. A bar
goes to stderr, is removed at its end, and is hidden while another line is written. If stderr is not
watched (a file, a pipe, CI, `--quiet`), no bar is drawn, so logs contain no carriage returns.
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
RATE_SECONDS = 1.0  # the shortest time over which a rate is shown
BAR_SECONDS = 0.5  # shorter work has no bar
BYTES = "B"

logger = logging.getLogger(__name__)

_drawn: list[Any] = []  # bars that are on the terminal now


class Progress:
    """Counts finished units. Use it in `with`, which removes the bar at the end.

    Args:
        what: name of the work, for people.
        unit: name of the units, in the plural; `BYTES` for bytes.
        total: number of units, or None if unknown.
        done: number of units that were finished before.
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
        """Count units as finished; draw the bar or write a line if it is time.

        Args:
            count: number of units.
            note: a remark beside the rate, such as the name of the slowest part.
        """
        now = time.monotonic()
        if not self._begun:  # the first units include the time of loading, so no rate counts them
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
        tqdm.monitor_interval = 0  # without the thread that refreshes bars
        tqdm.set_lock(RLock())  # without the semaphore that several processes would share
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
    """Hide the bars while something else is written to the terminal, then draw them again."""
    with ExitStack() as stack:
        for kind in {type(bar) for bar in _drawn}:
            stack.enter_context(kind.external_write_mode(file=sys.stderr))
        yield


def _is_watched() -> bool:
    """Whether output goes to a terminal or notebook, and is not `--quiet`."""
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
    """Settings for tqdm: follow the width of the terminal; 80 by 24 if it reports no size."""
    with suppress(OSError):
        if all(os.get_terminal_size(sys.stderr.fileno())):
            return {"dynamic_ncols": True}
    return {"ncols": 80, "nrows": 24}  # tqdm draws nothing on a terminal of 0 lines


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return type(shell).__name__ == "ZMQInteractiveShell"

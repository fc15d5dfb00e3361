"""Log lines on stderr; stdout is only for results, see `tables.py`."""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

PACKAGE = "cryobase"


class _Line(logging.Formatter):
    """One line per record, even if a name contains a line feed; a trace follows below."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        from cryobase.store.text import visible

        return visible(super().formatMessage(record))


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to stderr, and hides progress bars while it writes."""

    def emit(self, record: logging.LogRecord) -> None:
        from cryobase.stages.progress import aside

        with aside():
            super().emit(record)


def configure(*, quiet: bool = False, debug: bool = False) -> None:
    """Send the package's log lines to stderr; with `debug`, with time, level and logger.

    Afterwards stdout accepts every text, even characters that its encoding lacks.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    handler = _Handler(sys.stderr)
    origin = "%(asctime)s %(levelname)s %(name)s: " if debug else ""
    handler.setFormatter(_Line(f"{origin}%(message)s"))
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    logger = logging.getLogger(PACKAGE)
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False


@contextmanager
def narrated() -> Iterator[None]:
    """Write the package's log lines to stderr inside `with`.

    A program that wants the lines elsewhere, or no lines, gives the logger `cryobase` a handler or
    a level. Handlers of the root logger are ignored: TensorFlow adds one.
    """
    logger = logging.getLogger(PACKAGE)
    if logger.handlers or logger.level != logging.NOTSET:
        yield
        return
    handler, propagate = _Handler(sys.stderr), logger.propagate
    handler.setFormatter(_Line("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = propagate


def debugging() -> bool:
    """Whether `--debug` was given."""
    return logging.getLogger(PACKAGE).level == logging.DEBUG

"""Narration on stderr; stdout is kept for results."""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PACKAGE = "cryobase"


class _Line(logging.Formatter):
    """One line per record, whatever names are in it; a trace stands below."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        from cryobase.store.text import visible

        return visible(super().formatMessage(record))


def configure(*, quiet: bool = False, debug: bool = False) -> None:
    """Send the package's log lines to stderr; with `debug` say where from.

    stdout takes every text from then on, also where its encoding lacks a character.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    origin = "%(asctime)s %(levelname)s %(name)s: " if debug else ""
    handler.setFormatter(_Line(f"{origin}%(message)s"))
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    logger = logging.getLogger(PACKAGE)
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False


@contextmanager
def narrated() -> Iterator[None]:
    """Show the package's log lines on stderr for a while, in a program that shows none itself."""
    logger = logging.getLogger(PACKAGE)
    if logger.hasHandlers():
        yield
        return
    handler, level = logging.StreamHandler(sys.stderr), logger.level
    handler.setFormatter(_Line("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def debugging() -> bool:
    """Whether `--debug` was asked for."""
    return logging.getLogger(PACKAGE).level == logging.DEBUG

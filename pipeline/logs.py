"""Narration on stderr; stdout is kept for results."""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

PACKAGE = "cryobase"


class _Line(logging.Formatter):
    """One line per record, whatever names are in it; a trace stands below."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        from cryobase.store.text import visible

        return visible(super().formatMessage(record))


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to stderr; bars that are drawn there step aside."""

    def emit(self, record: logging.LogRecord) -> None:
        from cryobase.stages.progress import aside

        with aside():
            super().emit(record)


def configure(*, quiet: bool = False, debug: bool = False) -> None:
    """Send the package's log lines to stderr; with `debug` say where from.

    stdout takes every text from then on, also where its encoding lacks a character.
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
    """Let the package narrate for a while, in a program that has not set the level of its log.

    Its lines go where the program sends log lines, or else to stderr.
    """
    logger = logging.getLogger(PACKAGE)
    if logger.level != logging.NOTSET:
        yield
        return
    handlers = [] if logger.hasHandlers() else [_Handler(sys.stderr)]
    for handler in handlers:
        handler.setFormatter(_Line("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(logging.NOTSET)
        for handler in handlers:
            logger.removeHandler(handler)


def debugging() -> bool:
    """Whether `--debug` was asked for."""
    return logging.getLogger(PACKAGE).level == logging.DEBUG

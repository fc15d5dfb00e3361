"""Narration on stderr; stdout is kept for results."""

import logging
import sys

PACKAGES = ("pipeline", "stages", "store")


def configure(*, quiet: bool = False, debug: bool = False) -> None:
    """Send the three packages' log lines to stderr as they are; with `debug` say where from."""
    handler = logging.StreamHandler(sys.stderr)
    origin = "%(asctime)s %(levelname)s %(name)s: " if debug else ""
    handler.setFormatter(logging.Formatter(f"{origin}%(message)s"))
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False

"""Narration on stderr; stdout is kept for results."""

import logging

from rich.console import Console
from rich.logging import RichHandler

PACKAGES = ("pipeline", "stages", "store")


def configure(*, quiet: bool = False, debug: bool = False) -> None:
    """Send the three packages' log lines to stderr: plain lines, coloured only on a terminal."""
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    handler = RichHandler(
        console=Console(stderr=True, soft_wrap=True),
        show_time=debug,
        show_path=debug,
        show_level=debug,
        highlighter=None,
        markup=False,
    )
    handler.setFormatter(logging.Formatter("%(message)s"))
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False

"""What all tests share: no network, no noise, a home of its own."""

import logging
import os

import pytest

from pipeline.logs import PACKAGES

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["DVC_NO_ANALYTICS"] = "1"


@pytest.fixture(autouse=True)
def _own_logging():
    """A command that a test runs sends log lines elsewhere; the next test gets its own."""
    yield
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)

"""What all tests share: no network, no noise, a home of its own."""

import ctypes
import gc
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.logs import PACKAGES

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["DVC_NO_ANALYTICS"] = "1"
MEMORY = Path("/dev/shm")
TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
OWN_CACHE = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Seeded weights and kept models are made once for all of a run's processes, and not kept."""
    if "CRYOBASE_CACHE" not in os.environ:
        os.environ["CRYOBASE_CACHE"] = config.stash[OWN_CACHE] = tempfile.mkdtemp(prefix="cache-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if path := config.stash.get(OWN_CACHE, None):
        del os.environ["CRYOBASE_CACHE"]
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _own_memory() -> Iterator[None]:
    """What a file's tests have built goes before the next file's tests build more."""
    yield
    if "stages.backbones.frameworks" in sys.modules and "keras" in sys.modules:
        sys.modules["stages.backbones.frameworks"].forget_names()
    gc.collect()
    if TRIM:
        TRIM(0)


@pytest.fixture
def quick_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in memory where there is one: the store syncs often, and disks are slow."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path_factory.mktemp("quick")
        return
    directory = Path(tempfile.mkdtemp(dir=MEMORY))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def _own_logging():
    """A command that a test runs sends log lines elsewhere; the next test gets its own."""
    yield
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)

"""Settings that all tests share: no network, quiet logs, a separate home directory."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cryobase.pipeline.logs import PACKAGE
from tests.memory import give_back

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["DVC_NO_ANALYTICS"] = "1"
MEMORY = Path("/dev/shm")
OWN_CACHE = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Seeded weights and built models are made once for all processes of a run, then removed."""
    if "CRYOBASE_CACHE" not in os.environ:
        os.environ["CRYOBASE_CACHE"] = config.stash[OWN_CACHE] = tempfile.mkdtemp(prefix="cache-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if path := config.stash.get(OWN_CACHE, None):
        del os.environ["CRYOBASE_CACHE"]
        shutil.rmtree(path, ignore_errors=True)


# The slowest files. They start first, so that both processes finish at about the same time.
LONG = (
    "integration/test_recipes_smoke",
    "e2e/test_names",
    "e2e/test_pairs",
    "unit/stages/heads/test_export",
    "e2e/test_readme",
    "e2e/test_docs",
    "unit/stages/backbones/test_rows",
    "integration/test_heads_accuracy",
    "unit/stages/test_finetune",
    "integration/test_store_crash",
    "e2e/test_repro",
    "e2e/test_wheel",
    "e2e/test_init",
    "integration/test_remedies",
    "integration/test_environment",
    "integration/test_recipes_trunk",
    "e2e/test_dvc",
    "e2e/test_foreign",
    "unit/stages/extraction/test_cluster",
    "e2e/test_changed_sources",
    "integration/test_heads_out_of_core",
    "integration/test_recipes_resume",
    "integration/test_float16",
    "integration/test_store_mutation",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where processes share the work, the long files come first."""
    if config.getoption("numprocesses", None) or "PYTEST_XDIST_WORKER" in os.environ:
        rank = {f"tests/{name}.py": number for number, name in enumerate(LONG)}
        items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


@pytest.fixture(scope="module", autouse=True)
def _own_memory() -> Iterator[None]:
    """Free the memory of one file's tests before the tests of the next file begin."""
    yield
    give_back()


@pytest.fixture
def quick_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in memory, if there is one: the store syncs often, and disks are slow."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path_factory.mktemp("quick")
        return
    directory = Path(tempfile.mkdtemp(dir=MEMORY))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def _own_logging():
    """Restore the logger after a test, because a command redirects the log lines."""
    yield
    logger = logging.getLogger(PACKAGE)
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)

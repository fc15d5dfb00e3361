"""Extraction on Dask workers: the same rows, whoever dies meanwhile."""

import contextlib
import copy
import hashlib
import json
import random
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import dask
import numpy as np
import psutil
import pytest

from cryobase.stages import download
from cryobase.stages.errors import (
    ConfigError,
    DataError,
    DriftError,
    MissingWeightsError,
    StageError,
)
from cryobase.stages.extract import ExtractConfig, SetConfig, run
from cryobase.stages.extraction import cluster
from cryobase.stages.extraction.engines import TOLERANCE, deviation
from cryobase.stages.extraction.plan import Pass
from cryobase.store import FeatureSet
from cryobase.store.errors import IntegrityError
from tests.images import write_folder
from tests.scale import RUN_ALL
from tests.unit.stages.extraction import listing

pytestmark = pytest.mark.filterwarnings("ignore")  # processes that die warn in many voices


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = tmp_path_factory.mktemp("cluster")
    write_folder(work / "images", 60)
    config = download.DownloadConfig(source="folder", path=str(work / "images"))
    download.run(config, output=work / "raw")
    return work


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(cluster, "ROWS_PER_PART", 16)


KILLS_PER_RUN = 10


def extract(work, name, **changes):
    one = SetConfig(backbone="efficientnet_lite0", weights="none", image_size=32)
    config = ExtractConfig(sets={name: one}, **changes)
    summary = run(config, name, raw=work / "raw", pool=work / f"pool-{name}", output=work / name)
    return summary, FeatureSet.open(work / name, full=True)


@pytest.fixture(scope="module")
def alone(work):
    return extract(work, "alone")[1]


def test_workers_give_the_rows_of_one_process(work, alone):
    digests = set()
    for workers in (1, 2, 4) if RUN_ALL else (1, 2):
        summary, found = extract(work, f"workers{workers}", workers=workers)
        assert summary.computed == 180
        assert deviation(found.arrays()[0], alone.arrays()[0]) < TOLERANCE
        digests.add(found.digest)
    assert len(digests) == 1


@pytest.mark.fault(51, 53)
def test_killed_workers_lose_and_change_nothing(work, alone):
    kills, wanted = [], 100 if RUN_ALL else 5
    while len(kills) < wanted:
        name = f"killed{len(kills)}"
        stop = threading.Event()
        enough = min(wanted, len(kills) + KILLS_PER_RUN)
        killer = threading.Thread(target=kill, args=(kills, enough, stop, work / f"pool-{name}"))
        killer.start()
        try:
            _, found = extract(work, name, workers=2)
        finally:
            stop.set()
            killer.join()
        assert not found.examples.quarantined.any()
        assert deviation(found.arrays()[0], alone.arrays()[0]) < TOLERANCE


def kill(kills, enough, stop, pool):
    """Kill random workers of ours, working or starting, once the first rows are there."""
    while not stop.wait(random.uniform(0.05, 0.5)) and len(kills) < enough:
        if any(pool.rglob("shard-*")):
            kill_one(kills)


def kill_one(kills):
    workers = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(process.cmdline()):
                workers.append(process)
    if workers:
        victim = random.choice(workers)
        victim.kill()
        kills.append(victim.pid)


@pytest.mark.fault(51)
def test_a_worker_that_dies_while_it_starts_is_replaced(work):
    """Its nanny leaves it dead, which used to leave the client waiting."""
    kills = []

    def kill_the_first():
        while not kills:
            kill_one(kills)

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    summary, _ = extract(work, "stillborn", workers=1)
    killer.join()
    assert summary.computed == 180


POISON = """
import hashlib, os
from cryobase.stages.extraction import passes
from cryobase.stages.data.pixels import load as original  # a preload may run twice
def load(data, spec):
    if hashlib.sha256(data).hexdigest() == {digest!r}:
        os._exit(1)
    return original(data, spec)
passes.load = load
"""


@pytest.mark.fault(8, 52)
def test_an_image_that_kills_workers_is_found_and_quarantined(work, tmp_path):
    name = "red/0007.png"
    digest = hashlib.sha256((work / "images" / name).read_bytes()).hexdigest()
    preload = tmp_path / "poison.py"
    preload.write_text(POISON.format(digest=digest))
    settings = {
        "distributed.worker.preload": [str(preload)],
        "distributed.scheduler.allowed-failures": 0,
    }
    with dask.config.set(settings):
        summary, found = extract(work, "poison", workers=2)
    assert (summary.computed, summary.quarantined) == (179, 1)
    hidden = found.examples.ids[found.examples.quarantined]
    assert hidden.tolist() == [name.encode()]


@pytest.mark.fault(55)
@pytest.mark.parametrize("address", [
    "tcp://10.0.0.7:8786", "scheduler.example:8786", "tcp://127.0.0.1@10.0.0.7:8786",
    "tcp://127.0.0.1.example:8786", "ucx://10.0.0.7:8786",
])  # fmt: skip
def test_a_remote_scheduler_needs_tls(address):
    with pytest.raises(ConfigError, match="without TLS"):
        cluster.check_address(address, insecure=False)
    cluster.check_address(address, insecure=True)
    cluster.check_address("tls://10.0.0.7:8786", insecure=False)
    for here in ("tcp://127.0.0.1:8786", "localhost:8786", "tcp://[::1]:8786"):
        cluster.check_address(here, insecure=False)


@pytest.mark.fault(55)
@pytest.mark.parametrize("where", ["scheduler_address", "scheduler_file"])
def test_a_scheduler_is_refused_before_it_is_spoken_to(tmp_path, monkeypatch, where):
    monkeypatch.setattr(cluster, "Client", lambda *_: pytest.fail("spoken to"))
    path = tmp_path / "scheduler.json"
    path.write_text(json.dumps({"address": "tcp://10.0.0.7:8786"}))
    value = "tcp://10.0.0.7:8786" if where == "scheduler_address" else str(path)
    with (
        pytest.raises(ConfigError, match=r"10\.0\.0\.7:8786: .*without TLS"),
        cluster.connect(cluster.Cluster(**{where: value})),
    ):
        pass


@pytest.mark.fault(54)
def test_workers_of_other_versions_are_refused(work, monkeypatch):
    monkeypatch.setattr(cluster, "ALIKE", ("numpy", "pytest"))
    with pytest.raises(ConfigError, match="pytest None instead of"):
        extract(work, "skew", workers=1)


@pytest.mark.fault(54)
@pytest.mark.parametrize(
    "name",
    ["extractor", "cryobase", "keras", "numpy", "opencv-python-headless", "openvino", "pillow",
     "simplejpeg", "tensorflow"],
)  # fmt: skip
def test_all_that_decides_features_must_be_of_one_version(name):
    settings = SimpleNamespace(versions=cluster.versions() | {name: "0"}, nonce=".")
    with pytest.raises(ConfigError, match=f"a worker has {name} (?!None).* instead of 0; install"):
        cluster.Computer(settings)


WORKERS = {  # what a worker's own environment did before Cryobase came
    "variables": (
        "import os; os.environ.update(KERAS_BACKEND='torch', ONEDNN_DEFAULT_FPMATH_MODE='ANY',"
        " OV_CPU_MAX_ISA='SSE41', TF_ENABLE_ONEDNN_OPTS='0')",
        None,
        "",
    ),
    "library": (
        "import os; os.environ['OPENCV_IPP'] = 'disabled'; import cv2",
        ConfigError,
        "imported while OPENCV_IPP was set",
    ),
    "values": (
        "from cryobase.stages.extraction.openvino_engine import OpenVinoEngine as engine\n"
        "def drift(self, batch, was=engine.__call__): return [1.01 * x for x in was(self, batch)]\n"
        "engine.__call__ = drift",
        DriftError,
        "with openvino: the canary images' features differ",
    ),
}


@pytest.mark.parametrize("case", WORKERS)
def test_the_environment_of_a_worker_reaches_no_value(work, alone, tmp_path, case):
    pytest.importorskip("openvino")
    code, error, message = WORKERS[case]
    preload = tmp_path / "before.py"
    preload.write_text(code)
    with (
        dask.config.set({"distributed.worker.preload": [str(preload)]}),
        pytest.raises(error, match=message) if error else contextlib.nullcontext(),
    ):
        _, found = extract(work, f"env-{case}", workers=1, engine="openvino")
        assert np.array_equal(found.arrays()[0], alone.arrays()[0])
    if error:
        assert not list((work / f"pool-env-{case}").rglob("shard-*"))


def test_workers_that_do_not_see_the_pool_are_refused(work, monkeypatch):
    original = Path.touch
    monkeypatch.setattr(
        Path,
        "touch",
        lambda path, **kwargs: None if ".nonce-" in path.name else original(path, **kwargs),
    )
    monkeypatch.setattr(Path, "unlink", lambda path, **_: None)
    with pytest.raises(ConfigError, match="does not see"):
        extract(work, "blind", workers=1)


def test_a_scheduler_file_that_is_none_is_refused(work, tmp_path):
    path = tmp_path / "scheduler.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match="not a scheduler file"):
        extract(work, "file", scheduler_file=str(path))


POISONED_CODE = """
from cryobase.stages.extraction import passes
class OddError(Exception):
    def __init__(self, first, second):  # pickle makes it anew from one argument, and fails
        super().__init__(f"{first} and {second}")
        self.lock = __import__("threading").Lock()
def load(data, spec):
    raise OddError("one", "two") from ValueError("a cause")
passes.load = load
"""


def test_an_error_that_cannot_be_sent_ends_the_run_in_words(work, tmp_path):
    """It used to leave the client waiting."""
    preload = tmp_path / "poison.py"
    preload.write_text(POISONED_CODE)
    with (
        dask.config.set({"distributed.worker.preload": [str(preload)]}),
        pytest.raises(StageError, match="OddError: one and two"),
    ):
        extract(work, "odd", workers=1)


def test_an_engine_that_does_not_load_ends_the_run_in_words(work, tmp_path):
    preload = tmp_path / "engine.py"
    preload.write_text(
        "from cryobase.stages.extraction import passes\n"
        "passes.start_engine = lambda *_: [][0]  # as a library that is broken\n"
    )
    with (
        dask.config.set({"distributed.worker.preload": [str(preload)]}),
        pytest.raises(StageError, match="IndexError: list index out of range"),
    ):
        extract(work, "broken", workers=1)


@pytest.mark.timeout(3600)
def test_millions_of_images_are_planned_and_scheduled_in_little_memory(tmp_path):
    raw, pool = tmp_path / "raw", tmp_path / "pool"
    rows = listing.write_listing(raw, 10_000_000 if RUN_ALL else 200_000)
    command = [sys.executable, "-m", listing.__name__, str(raw), str(pool)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["rows"] == rows
    assert answer["peak"] < 1 << 30


def test_parts_and_halves_cover_every_row_once(monkeypatch):
    monkeypatch.setattr(cluster, "ROWS_PER_PART", 3)
    passes = [Pass((), np.arange(n), np.arange(n).astype("u2")) for n in (7, 1, 0, 3)]
    found = list(cluster.parts_of(passes))
    assert [(p.number, len(p.views)) for p in found] == [(0, 3), (0, 3), (0, 1), (1, 1), (3, 3)]
    for number, each in enumerate(passes):
        mine = [part for part in found if part.number == number]
        rows = [row for part in mine for half in part.halves() for row in half.positions]
        assert rows == each.positions.tolist()
    assert [half.number for half in cluster.Part(3, np.arange(2), np.zeros(2, "u2")).halves()] == [
        3,
        3,
    ]


class OddError(DataError):
    """Made of two arguments: pickle has one."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DataError("a.jpg: has changed"), DataError),
        (IntegrityError("a shard"), IntegrityError),
        (MissingWeightsError("no weights"), MissingWeightsError),
        (OddError("a", "b"), StageError),
        (OSError(28, "No space left", "/pool"), StageError),
        (ValueError(lambda: 0), StageError),
    ],
)
def test_an_error_becomes_one_that_can_be_sent(error, kind):
    error.__cause__ = OddError("no", "pickle")
    sent = copy.copy(cluster.portable(error))  # by the steps that pickle takes
    assert type(sent) is kind
    assert str(error) in str(sent)
    assert sent.__cause__ is None

"""What DVC does to a growing feature set: no crash, experiment, queue or clone computes twice."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cryobase.store import FeatureSet, Pool
from tests.e2e.conftest import SMALL, Project
from tests.images import write_folder

pytestmark = pytest.mark.e2e

# Rows of 2.5 MB, so that a hundred images fill several shards and a kill falls between two.
BIG = {
    "backbone": "efficientnet_lite0",
    "weights": "none",
    "image_size": 160,
    "resize": "bilinear",
    "aspect": "stretch",
    "output": "block1_expand:flatten",
    "dtype": "float32",
}
IMAGES = 96
SETS = {"big": BIG, **SMALL["extract"]["sets"]}
SUMMARY = re.compile(r"([\d,]+) rows? computed, ([\d,]+) reused, ([\d,]+) adopted")
PATIENCE = 300  # seconds, for what takes about ten


@pytest.fixture(scope="module", autouse=True)
def _pool_of_the_checkout() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CRYOBASE_POOL", raising=False)
        yield


@pytest.fixture(scope="module")
def extracted(project: Project) -> Iterator[Project]:
    """A project with both feature sets, committed; the small one is pushed."""
    images = write_folder(images_of(project), IMAGES // 3)
    project.params(
        download={"source": "folder", "path": str(images)},
        extract={"batch_size": 8, "sets": SETS},
    )
    output = project.run("dvc", "repro", "extract@big", "extract@small")
    assert counts(output) == [(IMAGES, 0, 0), (IMAGES, 0, 0)]
    remote = str(project.root.with_name("remote"))
    project.run("dvc", "remote", "add", "-d", "team", remote)
    project.run("dvc", "push", "data/raw", "features/small")
    project.commit()
    yield project
    for path in (str(project.root), remote):  # gigabytes that pytest would keep for three runs
        shutil.rmtree(path)


@pytest.fixture
def settled(extracted: Project) -> Iterator[Project]:
    """The project as committed; images and specs that a test adds go again."""
    before = _kept(extracted)
    yield extracted
    extracted.run("git", "checkout", "-q", ".")
    for path in _kept(extracted) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def clone(extracted: Project, tmp_path: Path) -> Project:
    """A colleague's clone that has pulled the images and the small features; its pool is empty."""
    made = Project(tmp_path / "colleague")
    extracted.run("git", "clone", "-q", ".", str(made.root))
    made.run("dvc", "pull", "data/raw", "features/small")
    return made


def images_of(project: Project) -> Path:
    return project.root.with_name("images")  # outside, so that clones share it


def pool_of(project: Project) -> Path:
    return project.root / ".cryobase" / "pool"


def _kept(project: Project) -> set[Path]:
    return {*pool_of(project).iterdir(), *images_of(project).rglob("*.png")}


def add_ten(project: Project) -> None:
    write_folder(images_of(project), 10, first=IMAGES, classes=("blue",))


def set_big(project: Project, **changed: str) -> None:
    project.params(extract={"batch_size": 8, "sets": {**SETS, "big": {**BIG, **changed}}})


def counts(output: str) -> list[tuple[int, ...]]:
    """The rows computed, reused and adopted, of each run of `extract` in an output."""
    found = [tuple(int(n.replace(",", "")) for n in line) for line in SUMMARY.findall(output)]
    assert found, output
    return found


def acknowledged(project: Project) -> dict[Path, int]:
    return {pool.directory: len(pool) for pool in Pool.all(pool_of(project))}


def crash(project: Project, *command: str) -> int:
    """Kill a command's process group once a shard is acknowledged; how many rows are safe."""
    before = acknowledged(project).keys()
    with subprocess.Popen(
        command,
        cwd=project.root,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            safe = _wait_for_rows(project, before, process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    with safe.lock():  # the writer is dead once its lock is free
        rows = len(safe)
    assert 0 < rows < IMAGES, "killed too late"
    return rows


def _wait_for_rows(project: Project, before: set[Path], process: subprocess.Popen) -> Pool:
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        for pool in Pool.all(pool_of(project)):
            if pool.directory not in before and len(pool):
                return pool
        time.sleep(0.01)
    raise AssertionError(f"no rows; exit code {process.poll()}")


def cached(project: Project) -> list[Path]:
    found = (project.root / ".dvc" / "cache" / "files").rglob("*")
    return [path for path in found if path.is_file()]


def cache_objects(project: Project) -> dict[Path, tuple[int, str]]:
    """Inode and SHA-256 of every file in DVC's cache."""
    return {
        path: (path.stat().st_ino, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in cached(project)
    }


def inodes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in directory.glob("shard-*")}


def assert_one_copy(project: Project) -> None:
    """Pool, output and DVC's cache share the inode of every shard."""
    published = inodes(project.root / "features" / "big")
    assert published
    [pool] = [path for path in pool_of(project).iterdir() if inodes(path).keys() & published.keys()]
    assert published == inodes(pool)
    assert set(published.values()) <= {path.stat().st_ino for path in cached(project)}


@pytest.mark.fault(45, 50)
def test_a_crash_then_repro_resumes(settled):
    before = cache_objects(settled)
    set_big(settled, resize="nearest")
    safe = crash(settled, "dvc", "repro", "extract@big")
    assert cache_objects(settled) == before
    output = settled.run("dvc", "repro", "extract@big")
    assert counts(output) == [(IMAGES - safe, safe, 0)]
    after = cache_objects(settled)
    assert {path: after[path] for path in before} == before


@pytest.mark.fault(45)
def test_a_crash_then_an_experiment_resumes(settled):
    set_big(settled, aspect="crop")
    safe = crash(settled, "dvc", "repro", "extract@big")
    output = settled.run("dvc", "exp", "run", "extract@big")
    assert counts(output) == [(IMAGES - safe, safe, 0)]


@pytest.mark.fault(45)
def test_a_crash_inside_a_temporary_experiment_resumes(settled):
    command = ("dvc", "exp", "run", "--temp", "-S", "extract.sets.big.aspect=pad", "extract@big")
    safe = crash(settled, *command)
    assert counts(settled.run(*command)) == [(IMAGES - safe, safe, 0)]


def test_two_queued_runs_compute_once(settled):
    change = ("-S", "extract.sets.big.aspect=pad", "-S", "extract.sets.big.resize=nearest")
    for epochs in (6, 7):
        other = ("-S", f"train.heads.linear.epochs={epochs}")
        settled.run("dvc", "exp", "run", "--queue", *change, *other, "extract@big")
    settled.run("dvc", "queue", "start", "-j", "2")
    found = counts(_output_of_queue(settled, 2))
    assert sum(computed for computed, _, _ in found) == IMAGES
    assert all(computed + reused == IMAGES for computed, reused, _ in found)


def _output_of_queue(project: Project, runs: int) -> str:
    """What the queued runs print, once all have succeeded."""
    logs = project.root / ".dvc" / "tmp" / "exps" / "run"
    end = time.monotonic() + PATIENCE
    codes: list[int | None] = []
    while time.monotonic() < end and codes.count(0) < runs and not any(codes):
        codes = [json.loads(path.read_text())["returncode"] for path in logs.glob("*/*.json")]
        time.sleep(0.2)
    output = "".join(path.read_text() for path in logs.glob("*/*.out"))
    if codes.count(0) < runs:
        project.run("dvc", "queue", "stop", "--kill")
        raise AssertionError(output)
    return output


def test_an_older_spec_computes_nothing(settled):
    new = {**SETS["small"], "dtype": "float32"}
    settled.params(extract={"sets": {**SETS, "small": new}})
    assert counts(settled.run("dvc", "repro", "extract@small")) == [(IMAGES, 0, 0)]
    settled.params(extract={"sets": SETS})
    output = settled.run("dvc", "repro", "extract@small")
    assert all(int(computed) == 0 for computed, *_ in SUMMARY.findall(output)), output
    assert FeatureSet.open(settled.root / "features" / "small").spec.dtype == "float16"


def test_a_clone_that_pulled_runs_nothing(clone):
    assert clone.repro("extract@small") == set()


@pytest.mark.parametrize("pool", ["its own", "CRYOBASE_POOL"])
def test_a_clone_computes_only_its_new_images(settled, clone, tmp_path, pool):
    variables = {} if pool == "its own" else {"CRYOBASE_POOL": str(tmp_path / "pool")}
    add_ten(settled)
    output = clone.run("dvc", "repro", "extract@small", **variables)
    assert counts(output) == [(10, IMAGES, IMAGES)]
    used = tmp_path / "pool" if variables else pool_of(clone)
    assert [len(pool) for pool in Pool.all(used)] == [IMAGES + 10]


@pytest.mark.fault(50)
def test_pool_output_and_cache_share_one_copy_while_the_set_grows(settled):
    settled.repro("extract@big")
    assert_one_copy(settled)
    before = cache_objects(settled)
    add_ten(settled)
    assert counts(settled.run("dvc", "repro", "extract@big")) == [(10, IMAGES, 0)]
    assert_one_copy(settled)
    after = cache_objects(settled)
    assert {path: after[path] for path in before} == before

"""The wheel alone, in a repository of somebody else's that has modules of the same names."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, SMALL, Project, clone
from tests.images import write_folder

pytestmark = pytest.mark.e2e

# What a repository needs beside the wheel: docs/adr/0022.
NEEDED = ("dvc.yaml", "params.yaml", ".dvcignore", ".cryobase-stages", "features", "models")
THEIRS = ("store.py", "stages/__init__.py", "pipeline/__init__.py", "tests/__init__.py")
STAGES = {"watch", "download", "split", "extract@small", "train@small", "evaluate@small", "report"}


@dataclass(frozen=True)
class Built:
    """The archives of one version, and the wheel that is made from the source archive."""

    wheel: Path
    sdist: Path
    wheel_of_sdist: Path


@dataclass(frozen=True)
class Foreign(Project):
    """Somebody's repository, and the environment that has the wheel."""

    prefix: Path

    def environment(self, **variables: str) -> dict[str, str]:
        environment = super().environment(**variables)
        environment["PATH"] = f"{self.prefix / 'bin'}{os.pathsep}{environment['PATH']}"
        environment.pop("PYTHONPATH", None)
        return environment

    def python(self, *arguments: str) -> str:
        return self.run(str(self.prefix / "bin" / "python"), *arguments)

    def dvc(self, *arguments: str) -> str:
        # Not from the directory: DVC is not ours to keep apart from somebody's modules.
        return self.python("-P", "-m", "dvc", *arguments)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built without a network from the tracked files, in a copy: a build leaves folders behind."""
    copy = clone(tmp_path_factory.mktemp("source") / "cryobase")
    out = tmp_path_factory.mktemp("dist")
    backend = f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})"
    copy.run(sys.executable, "-c", backend)
    [sdist] = out.glob("*.tar.gz")
    return Built(_wheel(copy, ".", out / "a"), sdist, _wheel(copy, str(sdist), out / "b"))


def _wheel(project: Project, source: str, out: Path) -> Path:
    options = (
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--quiet",
        "--wheel-dir",
        str(out),
    )
    project.run(sys.executable, "-m", "pip", "wheel", *options, source)
    [wheel] = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def foreign(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Foreign:
    """The wheel, and of this environment the libraries alone: no path leads to the checkout."""
    prefix = tmp_path_factory.mktemp("environment")
    venv.create(prefix, symlinks=True, with_pip=False)
    base = {"base": str(prefix), "platbase": str(prefix)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=base))
    libraries = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")  # their .pth are not read
    install = ("install", "--no-deps", "--no-index", "--quiet", "--ignore-installed")
    pip = [str(prefix / "bin" / "python"), "-m", "pip", *install, str(built.wheel)]
    subprocess.run(pip, check=True)
    made = Foreign(tmp_path_factory.mktemp("theirs"), prefix)
    for name in THEIRS:
        (made.root / name).parent.mkdir(exist_ok=True)
        (made.root / name).write_text(f"raise RuntimeError('{name} is not of Cryobase')\n")
    made.run("git", "init", "-q")
    made.run("git", "config", "user.email", "test@example.org")
    made.run("git", "config", "user.name", "Test")
    made.dvc("init", "-q")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", *NEEDED], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, tracked.split("\0")):
        (made.root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, made.root / name)
    write_folder(made.root / "images", 12)
    made.params(download={"source": "folder", "path": "images"}, **SMALL)
    return made


def test_both_archives_give_the_same_wheel_and_ship_no_tests(built):
    def files(wheel: Path) -> dict[str, int]:
        with zipfile.ZipFile(wheel) as archive:
            return {entry.filename: entry.CRC for entry in archive.infolist()}

    made = files(built.wheel)
    assert made == files(built.wheel_of_sdist)
    tops = {name.split("/")[0] for name in made}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"cryobase"}
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "store", "stages", "pipeline"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    expected = {
        f"cryobase/{name.removeprefix('pipeline/api/') if 'pipeline/api/' in name else name}"
        for name in filter(None, tracked.split("\0"))
        if (ROOT / name).exists()
    }
    assert {name for name in made if name.startswith("cryobase/")} == expected
    with tarfile.open(built.sdist) as archive:
        assert not [name for name in archive.getnames() if "/tests" in name]


def test_nothing_of_the_checkout_can_be_imported(foreign):
    code = (
        "import json, sys, cryobase, cryobase.store, cryobase.stages, cryobase.pipeline;"
        "modules = [cryobase, cryobase.store, cryobase.stages, cryobase.pipeline];"
        "print(json.dumps([[module.__file__ for module in modules], sys.path]))"
    )
    files, path = json.loads(foreign.python("-c", code))
    assert all(Path(file).is_relative_to(foreign.prefix) for file in files), files
    assert not [place for place in path if place and (Path(place) / "stages/watch.py").exists()]
    assert str(ROOT) not in path


def test_the_whole_pipeline_runs_beside_modules_of_the_same_names(foreign):
    output = foreign.dvc("repro")
    assert all(f"Running stage '{stage}'" in output for stage in STAGES), output
    heads = foreign.json("results/small/metrics.json")["heads"]
    assert set(heads) == set(SMALL["train"]["heads"])
    assert foreign.json("results/small/score.json")["best"] in heads
    assert (foreign.root / "report" / "index.html").exists()
    code = "import cryobase; print(len(cryobase.open('features/small')))"
    assert int(foreign.python("-c", code)) == len(list((foreign.root / "images").rglob("*.png")))


def test_an_upgrade_that_changes_features_makes_extract_stale(foreign):
    assert "Running stage 'extract@small'" not in foreign.dvc("repro", "extract@small")
    code = "from cryobase.stages.backbones import table; print(table.__file__)"
    table = Path(foreign.python("-c", code).strip())
    before = table.read_text()
    assert "EXTRACTOR_VERSION = 1\n" in before
    table.write_text(before.replace("EXTRACTOR_VERSION = 1\n", "EXTRACTOR_VERSION = 2\n"))
    try:
        assert "Running stage 'extract@small'" in foreign.dvc("repro", "extract@small")
    finally:
        table.write_text(before)

"""A project as a user has it: a clone of this checkout, or any folder and the installed wheel."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]

# Few pixels, no downloads: these tests check which work is done, not how well it classifies.
SMALL = {
    "split": {"train": 0.6, "validation": 0.2, "test": 0.2, "seed": 0},
    "extract": {
        "sets": {
            "small": {
                "backbone": "efficientnet_lite0",
                "weights": "none",
                "image_size": 32,  # as in other tests: its base is converted once
                "output": "avg",
                "dtype": "float16",
            }
        }
    },
    "train": {
        "heads": {
            "linear": {"kind": "linear", "learning_rate": 0.01, "epochs": 5},
            "mlp": {"kind": "mlp", "units": 64, "learning_rate": 0.001, "epochs": 3},
        }
    },
    "evaluate": {"final": "best"},
    "finetune": {"runs": {}},
    "report": {"title": "Test"},
}


@dataclass(frozen=True)
class Project:
    """A checkout to run commands in."""

    root: Path

    def environment(self, **variables: str) -> dict[str, str]:
        """The environment of a command: this environment's programs first in PATH."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, **variables}
        environment.pop("DVC_ROOT", None)
        return environment

    def run(self, *command: str, check: bool = True, **variables: str) -> str:
        """Run a command in `environment`; all that it prints."""
        result = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment(**variables),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if check and result.returncode != 0:
            raise AssertionError(f"{command} exited {result.returncode}:\n{result.stdout}")
        return result.stdout

    def repro(self, *arguments: str) -> set[str]:
        """`dvc repro`; the names of the stages that ran, but for `watch`, which always does."""
        output = self.run("dvc", "repro", *arguments)
        marks = [line for line in output.splitlines() if line.startswith("Running stage")]
        return {line.split("'")[1] for line in marks} - {"watch"}

    def params(self, **sections: Any) -> None:
        """Replace whole sections of params.yaml."""
        yaml = YAML()
        path = self.root / "params.yaml"
        document = yaml.load(path)
        document.update(sections)
        yaml.dump(document, path)

    def json(self, path: str) -> Any:
        return json.loads((self.root / path).read_text())

    def be_somebody(self) -> None:
        """Have a name in Git, which a machine need not have for all of its repositories."""
        self.run("git", "config", "user.email", "test@example.org")
        self.run("git", "config", "user.name", "Test")

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "state")


def clone(directory: Path) -> Project:
    """The tracked files of this checkout as a Git repository of its own, with its `.dvc`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name, follow_symlinks=False)
    project = Project(directory)
    project.run("git", "init", "-q", "-b", "main")
    project.be_somebody()
    project.commit()
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone set to the folder source `images/` and small features."""
    made = clone(tmp_path_factory.mktemp("project"))
    made.params(download={"source": "folder", "path": str(made.root / "images")}, **SMALL)
    (made.root / ".git" / "info" / "exclude").write_text("images/\n")
    return made


@dataclass(frozen=True)
class Built:
    """The archives of one version, and the wheel that is made from the source archive."""

    wheel: Path
    sdist: Path
    wheel_of_sdist: Path


@dataclass(frozen=True)
class Installed(Project):
    """Somebody's folder, and the environment that has the wheel."""

    prefix: Path

    def environment(self, **variables: str) -> dict[str, str]:
        environment = super().environment(**variables)
        environment["PATH"] = f"{self.prefix / 'bin'}{os.pathsep}{environment['PATH']}"
        environment.pop("PYTHONPATH", None)
        return environment

    def python(self, *arguments: str) -> str:
        return self.run(str(self.prefix / "bin" / "python"), *arguments)

    def dvc(self, *arguments: str) -> str:
        return self.run("dvc", *arguments)

    def git(self) -> None:
        """Make it a Git repository."""
        self.run("git", "init", "-q", "-b", "main")
        self.run("git", "config", "user.email", "test@example.org")
        self.run("git", "config", "user.name", "Test")


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def prefix(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, and of this environment the libraries alone: no path leads to the checkout."""
    made = tmp_path_factory.mktemp("environment")
    venv.create(made, symlinks=True, with_pip=False)
    base = {"base": str(made), "platbase": str(made)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=base))
    libraries = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")  # their .pth are not read
    install = ("install", "--no-deps", "--no-index", "--quiet", "--ignore-installed")
    python = made / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", *install, str(built.wheel)], check=True)
    program = made / "bin" / "dvc"  # as pip would have made it
    program.write_text(f"#!{python}\nimport sys\nfrom dvc.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    return made


@contextmanager
def other_extractor(installed: Installed) -> Iterator[None]:
    """Meanwhile the installed Cryobase computes other features than the one before."""
    code = "from cryobase.stages.backbones import table; print(table.__file__)"
    table = Path(installed.python("-c", code).strip())
    before = table.read_text()
    assert "EXTRACTOR_VERSION = 1\n" in before
    table.write_text(before.replace("EXTRACTOR_VERSION = 1\n", "EXTRACTOR_VERSION = 2\n"))
    try:
        yield
    finally:
        table.write_text(before)

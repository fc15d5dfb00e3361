"""A situation of which a message complains, and how the message is obeyed."""

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from typer.testing import CliRunner

from cryobase.pipeline.cli import app
from cryobase.stages.errors import StageError
from cryobase.store import StoreError
from tests.images import write_folder
from tests.integration.remedies.source import COMMAND
from tests.integration.store_checkout import SET

PARAMS: dict[str, Any] = {
    "download": {"source": "folder", "path": "images"},
    "split": {"train": 0.6, "validation": 0.2, "test": 0.2, "stratify": True},
    "extract": {"sets": {"small": {**SET, "weights": "own.weights.h5"}}},
    "train": {"heads": {"weak": {"kind": "ridge"}, "strong": {"kind": "ridge", "penalty": 9.0}}},
}
Build = Callable[[], object]
Obey = Callable[[str], object]


def write_params(document: dict[str, Any]) -> None:
    YAML().dump(document, Path("params.yaml"))


def set_param(key: str, value: object) -> None:
    document = YAML(typ="safe").load(Path("params.yaml"))
    *sections, last = key.split(".")
    inner = document
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[last] = value
    write_params(document)


def run(command: str) -> tuple[int, str]:
    """Run a command of ours in this process: its exit code, and all that it says."""
    result = CliRunner().invoke(app, shlex.split(command))
    error = result.exception
    run.said = result.output if error is None or isinstance(error, SystemExit) else str(error)
    return (0 if error is None else 1), run.said


def execute(command: str) -> None:
    """Run a command as a shell would; ours run in this process, which has the made features."""
    for part in command.split(" && "):
        if part.startswith("cryobase "):
            assert run(part.removeprefix("cryobase ")) == (0, run.said), command
        else:
            subprocess.run(part, shell=True, check=True, env=environment(), timeout=100)


def environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def obey(message: str) -> None:
    """Do what a message says: its first command, or else the key that it sets."""
    commands = COMMAND.findall(message)
    if commands:
        execute(commands[0])
        return
    found = re.findall(r"set ((?:split|download|extract)(?:\.\w+)?): (\{.*?\}|[\w.]+)", message)
    assert found, f"nothing to do: {message}"
    for key, value in found:
        set_param(key, YAML(typ="safe").load(io.StringIO(value)))


@dataclass(frozen=True)
class Situation:
    """What is wrong, which command complains of it in which words, and how these are obeyed."""

    texts: tuple[str, ...]
    build: Build
    probe: str | Build
    obey: Obey
    slow: bool = False


SITUATIONS: list[Situation] = []
asked = set[str]()  # what a probe has done once


def situation(
    *texts: str, probe: str | Build, obey: Obey = obey, slow: bool = False
) -> Callable[[Build], Build]:
    """The decorated function builds a situation.

    Args:
        texts: what the message is made of, as they stand in the source; see `source.remedies`.
        probe: a command that complains, or a function that raises.
        obey: does what the message says; by default its command, or what it sets.
        slow: tried under `make test-all` alone.
    """

    def add(build: Build) -> Build:
        SITUATIONS.append(Situation(texts, build, probe, obey, slow))
        return build

    return add


def complaint(probe: str | Build) -> tuple[int, str]:
    if isinstance(probe, str):
        return run(probe)
    try:
        probe()
    except (StageError, StoreError, ValueError) as error:
        return 1, str(error)
    return 0, ""


def change(path: str, work: Callable[[Path], object]) -> Build:
    def build() -> None:
        [found] = Path().glob(path)
        work(found)

    return build


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])


def link(path: Path) -> None:
    path.rename("elsewhere")
    path.symlink_to(Path("elsewhere").resolve())


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "within").touch()


def lose(path: Path) -> None:
    path.unlink()


def write_splits(ids, part) -> None:
    path = Path("data/splits/splits.npz")
    path.unlink()
    np.savez(path, ids=ids, part=part)


def set_split(**params: object) -> Build:
    def build() -> None:
        write_params(PARAMS | {"split": params})

    return build


def more_images() -> None:
    write_folder(Path("images"), 10, first=10)
    execute("cryobase download")


def mended_params(_: str) -> None:
    write_params(PARAMS)

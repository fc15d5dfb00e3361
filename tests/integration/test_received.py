"""Everything that somebody may send, met one by one: see `attacks` and the tables that it names.

No signal, at most a gigabyte more than before, at most ten seconds of processor time, one line, the
documented exit code, and nothing outside of the workspace is written.
"""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.integration.attacks import MEMORY, SECONDS, Ending, Server, table
from tests.scale import RUN_ALL, rounds
from tests.unit.test_texts import harmless

ATTACKS = table()
COSTLY = {  # seconds each, and another one of their kind is met in any case
    "a pattern: alternatives", "a pattern: backreference", "rows of extreme values: zeros",
    "a card of a tuned model: images of a truth value", "a picture: jpeg of fill bytes",
    "a tar of many: links", "a tar of many: fifos",
}  # fmt: skip
TRACED = ("openat", "open", "creat", "mkdir", "rename", "unlink", "symlink", "link", "chmod")


@pytest.fixture(scope="module")
def server():
    with Server() as one:
        yield one


@pytest.mark.fault(12, 27, 32, 56, 64, 65, 66)
@pytest.mark.parametrize("name", [name for name in ATTACKS if RUN_ALL or name not in COSTLY])
def test_what_was_received_ends_in_one_line(tmp_path, server, name):
    check(server.meet(name, tmp_path), ATTACKS[name].code)


def check(ending: Ending, code: int) -> None:
    assert ending.status == code, ending.errors
    said = [line for line in ending.errors.splitlines() if line.startswith("cryobase: ")]
    assert len(said) == (code != 0), ending.errors
    assert "Traceback" not in ending.errors
    assert all(map(harmless, (ending.errors + ending.output).split("\n")))
    assert all(len(line) < 1000 for line in said)
    assert ending.memory < MEMORY
    assert ending.seconds < SECONDS
    assert ending.touched == ()


def test_there_are_many():
    assert len(ATTACKS) > 500


def written(log: Path) -> set[str]:
    """The absolute paths that a trace says were opened for writing, made, moved or removed."""
    found = set[str]()
    for line in log.read_text().splitlines():
        call, paths = line.split("(")[0].split()[-1], re.findall(r'"([^"]*)"', line)
        opened = call.startswith(("open", "creat"))
        if call.startswith("symlink"):
            paths = paths[1:]  # the first is only what it says
        if ") = -1" not in line and (
            not opened or re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", line)
        ):
            found.update(path for path in paths if path.startswith("/"))
    # The names of threads, and the semaphores of joblib.
    return {path for path in found if not re.fullmatch("/proc/.*/comm|/dev/shm/sem[.].*", path)}


def outside(paths: set[str], places: list[Path]) -> list[str]:
    """Those that `attacks.inside` would report; the places are resolved once, as both are many."""
    kept = tuple(f"{(place / name).resolve()}/" for place in places for name in ("work", "own"))
    real = {
        folder: os.path.realpath(folder) for folder in {os.path.dirname(path) for path in paths}
    }
    return sorted(
        path
        for path in paths
        if not f"{real[os.path.dirname(path)]}/{os.path.basename(path)}/".startswith(
            (*kept, "/dev/null/", "/dev/tty/")
        )
    )


@pytest.mark.timeout(3600)
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_nothing_outside_is_written_by_any_library(tmp_path):
    """What Python's audit events do not tell: a sample, in which each kind has its turn."""
    log = tmp_path / "log"
    chosen = np.random.default_rng(0).permutation(list(ATTACKS))[: rounds(len(ATTACKS))].tolist()
    places = [tmp_path / str(number) for number in range(len(chosen))]
    calls = "|".join((*TRACED, *(f"{call}at" for call in TRACED[3:])))
    with Server(
        "strace", "-f", "-qq", "-o", f"{log}", "-e", f"/^({calls})", "--seccomp-bpf"
    ) as one:
        for name, place in zip(chosen, places, strict=True):
            place.mkdir()
            one.meet(name, place)
    found = written(log)
    assert found
    assert outside(found, places) == []


@pytest.mark.parametrize(
    ("run", "fact"),
    [
        ("die", "status"),
        ("grow", "memory"),
        ("write", "touched"),
        ("unpickle", "touched"),
        ("call", "touched"),
    ],
)
def test_the_harness_notices(tmp_path, server, run, fact):
    ending = server.meet(f"harness: {run}", tmp_path)
    with pytest.raises(AssertionError):
        check(ending, 0)
    assert getattr(ending, fact) not in (0, ())

"""Everything that somebody may send, met one by one: see `attacks` and the tables that it names.

No signal, at most a gigabyte more than before, at most ten seconds of processor time, one line, the
documented exit code, and nothing outside of the workspace is written.
"""

import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.integration.attacks import MEMORY, ROOT, SECONDS, Ending, Server, table
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
    assert len(ATTACKS) > 700


def test_every_code_is_documented():
    page = (ROOT / "docs" / "exit_codes.md").read_text("utf-8")
    codes = {int(code) for code in re.findall(r"^\| (\d) \| .+ \|$", page, re.MULTILINE)}
    assert {one.code for one in ATTACKS.values()} <= codes - {1}


REFUSED = Ending(3, "words\ncryobase: a reason\n", "", 0.1, 1 << 20, ())
KEPT = {"a refusal": (REFUSED, 3), "no refusal": (replace(REFUSED, status=0, errors=""), 0)}
BROKEN = {
    "a signal": {"status": -11},
    "another code": {"status": 4},
    "no line": {"errors": "words\n"},
    "two lines": {"errors": 2 * REFUSED.errors},
    "a trace": {"errors": f"Traceback (most recent call last):\n{REFUSED.errors}"},
    "a long line": {"errors": f"cryobase: {'a' * 1000}\n"},
    "an escape": {"errors": f"\x1b[2J{REFUSED.errors}"},
    "an escape on stdout": {"output": "\x1b[2J"},
    "a gigabyte": {"memory": 1 << 30},
    "ten seconds": {"seconds": 10.0},
    "a file outside": {"touched": ("open '/etc/x'",)},
}


@pytest.mark.parametrize("name", [*KEPT, *BROKEN])
def test_each_promise_is_checked(name):
    if name in KEPT:
        check(*KEPT[name])
        return
    with pytest.raises(AssertionError):
        check(replace(REFUSED, **BROKEN[name]), REFUSED.status)


def traced(log: Path) -> tuple[set[str], set[str]]:
    """The absolute paths of a trace: opened for writing, made, moved or removed; and only read."""
    written, read = set[str](), set[str]()
    with log.open(encoding="utf-8", errors="backslashreplace") as lines:
        for line in lines:
            call, paths = line.split("(")[0].split()[-1], re.findall(r'"([^"]*)"', line)
            opened = call.startswith(("open", "creat"))
            if call.startswith("symlink"):
                paths = paths[1:]  # the first is only what it says
                read.difference_update(paths)  # it was another file until now
            if ") = -1" in line:
                continue
            changes = not opened or re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", line)
            (written if changes else read).update(path for path in paths if path[:1] == "/")
    # The names of threads, and the semaphores of joblib.
    own = re.compile("/proc/.*/comm|/dev/shm/sem[.].*")
    return {path for path in written if not own.fullmatch(path)}, read


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


def led_out(paths: set[str], root: Path) -> list[str]:
    """Those that links lead out of a directory, or to the file beside a workspace.

    Not to a device, which is opened to see that it is one.
    """
    inside = f"{root.resolve()}/"
    found = {path: os.path.realpath(path) for path in paths if path.startswith(inside)}
    return sorted(
        path
        for path, real in found.items()
        if not real.startswith((inside, "/dev/zero")) or real.endswith("/beside")
    )


def test_a_trace_is_understood(tmp_path):
    """What the next test looks for in the traces of all attacks."""
    log, place = tmp_path / "log", tmp_path / "0"
    (place / "work").mkdir(parents=True)
    (place / "link").symlink_to("/etc/hostname")
    for name in ("next", "last"):
        (place / "work" / name).symlink_to("../beside")
    lines = [
        f'1 openat(AT_FDCWD, "{place}/work/a", O_WRONLY|O_CREAT, 0666) = 3',
        f'1 openat(AT_FDCWD, "{place}/b", O_RDWR) = 3',
        f'1 openat(AT_FDCWD, "{place}/c", O_RDWR) = -1 ENOENT (No such file or directory)',
        f'2 openat(AT_FDCWD, "{place}/link", O_RDONLY|O_CLOEXEC) = 3',
        f'2 openat(AT_FDCWD, "{place}/work/next", O_RDONLY|O_CLOEXEC) = 3',
        f'3 openat(AT_FDCWD, "{place}/work/last", O_RDONLY|O_CLOEXEC) = 3',
        f'3 symlink("../beside", "{place}/work/last") = 0',
        f'2 rename("{place}/work/a", "{place}/d") = 0',
        '3 symlink("/etc/passwd", "link") = 0',
        '3 openat(AT_FDCWD, "/etc/passwd", O_RDONLY) = 3',
        '3 unlink("/etc/shadow" <unfinished ...>',
        '3 openat(AT_FDCWD, "/dev/null", O_WRONLY) = 3',
    ]
    log.write_text("\n".join(lines))
    written, read = traced(log)
    assert outside(written, [place]) == ["/etc/shadow", *(f"{place}/{name}" for name in "bd")]
    assert led_out(read, tmp_path) == [f"{place}/link", f"{place}/work/next"]


@pytest.mark.timeout(3600)
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_nothing_outside_is_opened_or_written_by_any_library(tmp_path):
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
    written, read = traced(log)
    assert written
    assert read
    assert outside(written, places) == []
    assert led_out(read, tmp_path) == []


@pytest.mark.parametrize("run", ["grow", "grow in a child"])
def test_the_harness_notices_memory(tmp_path, server, run):
    ending = server.meet(f"harness: {run}", tmp_path)
    assert ending.memory > MEMORY
    check(replace(ending, memory=0, touched=()), 0)  # Python 3.13 starts a child by posix_spawn


@pytest.mark.parametrize(
    ("run", "event"), [("write", "open "), ("unpickle", "pickle.find_"), ("call", "os.system ")]
)
def test_the_harness_notices_what_is_touched(tmp_path, server, run, event):
    ending = server.meet(f"harness: {run}", tmp_path)
    assert any(one.startswith(event) for one in ending.touched)
    check(replace(ending, touched=()), 0)


def test_the_harness_notices_a_signal(tmp_path, server):
    assert server.meet("harness: die", tmp_path).status == -signal.SIGSEGV

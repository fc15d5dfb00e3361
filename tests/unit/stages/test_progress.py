"""A bar where somebody watches, lines where nobody does, and nothing that a log cannot hold."""

import os
import pty
import re
import subprocess
import sys
import termios
import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryobase.stages import progress as module
from cryobase.stages.progress import BYTES, Progress


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.mark.parametrize(
    ("unit", "total", "line"),
    [
        ("rows", 1000, "extract: 400 of 1,000 rows, 33 rows/s, 18 s left, slowest: forward"),
        ("images", None, "extract: 400 images, 33 images/s, slowest: forward"),
        (BYTES, 1000, "extract: 0.0 of 0.0 MB, 0.0 MB/s, 18 s left, slowest: forward"),
    ],
)
def test_a_line_has_rate_time_left_and_a_note(monkeypatch, caplog, unit, total, line):
    caplog.set_level("INFO")
    clock = Clock(monkeypatch)
    with Progress("extract", unit, total) as progress:
        for _ in range(3):
            clock.now += 6
            progress.advance(200, "slowest: forward")
    assert caplog.messages == [line]


def test_what_was_done_before_counts_and_has_no_rate(monkeypatch, caplog):
    caplog.set_level("INFO")
    clock = Clock(monkeypatch)
    with Progress("a\x1b[2Jb", BYTES, 90_000_000, done=30_000_000) as progress:
        for _ in range(2):
            clock.now += 10
            progress.advance(10_000_000)
    assert caplog.messages == [r"a\x1b[2Jb: 50.0 of 90.0 MB, 1.0 MB/s, 40 s left"]


@given(
    steps=st.lists(
        st.tuples(st.sampled_from([0.0, 1e-9, 0.3, 9.0, 600.0]), st.integers(1, 64)), max_size=30
    )
)
def test_no_line_has_an_absurd_rate(steps):
    """Batches that come in no time at all, after a long start, have no rate."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        clock, told = Clock(monkeypatch), []
        monkeypatch.setattr(module.logger, "info", lambda _, line: told.append(line))
        progress = Progress("extract", "rows", 10_000)
        for seconds, rows in steps:
            clock.now += seconds
            progress.advance(rows)
    rates = [int(re.search(r"([0-9,]+) rows/s", line)[1].replace(",", "")) for line in told]
    assert all(rate <= 64 * len(steps) / module.RATE_SECONDS for rate in rates)


@pytest.mark.parametrize("shell", ["ZMQInteractiveShell", "TerminalInteractiveShell", None])
def test_a_notebook_has_a_bar_of_its_kind_and_no_warning(monkeypatch, capsys, shell):
    """Without widgets that is a bar of text; a terminal's IPython is a terminal."""
    kind = type(shell, (), {}) if shell else None
    found = SimpleNamespace(get_ipython=lambda: kind() if kind else None)
    monkeypatch.setitem(sys.modules, "IPython", found)
    for name in ("CI", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "BAR_SECONDS", 0.0)
    monkeypatch.setattr(module.logger, "isEnabledFor", lambda _: True)
    with Progress("extract", "rows", 3) as progress:
        for _ in range(3):
            progress.advance(1)
    assert ("extract" in capsys.readouterr().err) == (shell == "ZMQInteractiveShell")
    assert not module._drawn


WORK = """
import logging, sys, time
from cryobase.pipeline import logs, tables
from cryobase.stages import progress
progress.BAR_SECONDS = 0.0
progress.LINE_SECONDS = 0.0
progress.RATE_SECONDS = 0.001
logs.configure(quiet="quiet" in sys.argv)
with progress.Progress("extract", "rows", 40) as bar:
    for number in range(40):
        bar.advance(1, "slowest: decode")
        time.sleep(0.02)
        if number == 20:
            logging.getLogger("cryobase").info("a line of the log")
            tables.line("a result")
print("tqdm" in sys.modules)
"""


def on_a_terminal(*arguments: str, size: tuple[int, int] = (24, 100), **variables: str) -> str:
    """All that a terminal gets, with its line ends as `\\n`."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, size)
    environ = {key: value for key, value in os.environ.items() if key not in ("CI", "NO_COLOR")}
    environ |= {"TERM": "xterm"} | variables
    shown = bytearray()

    def read() -> None:
        with suppress(OSError):  # the other end is closed
            while data := os.read(ours, 4096):
                shown.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    command = [sys.executable, "-c", WORK, *arguments]
    done = subprocess.run(command, stdout=theirs, stderr=theirs, env=environ, check=False)
    os.close(theirs)
    reader.join(timeout=20)
    os.close(ours)
    assert done.returncode == 0, shown.decode()
    return shown.decode().replace("\r\n", "\n")


# serial lines, and terminals of containers, do not know how large they are
@pytest.mark.parametrize("size", [(24, 100), (24, 0), (0, 120), (0, 0)])
def test_a_terminal_has_a_bar_that_goes_and_steps_aside_for_lines(size):
    shown = on_a_terminal(size=size)
    assert re.search(r"\rextract: +\d+%\|.*\| \d+/40 \[\d\d:\d\d<\d\d:\d\d, .* rows/s", shown)
    assert "slowest: decode" in shown
    for line in ("a line of the log", "a result"):
        (before,) = [part.rpartition("\r")[2] for part in shown.split("\n") if line in part]
        assert before == line
    *_, last, end = shown.split("\n")
    assert last.rpartition("\r")[2] == "True"
    assert end == ""
    assert "\x1b[3" not in shown, "no colours"


@pytest.mark.parametrize("variables", [{"CI": "true"}, {"TERM": "dumb"}])
def test_a_terminal_of_ci_has_lines(variables):
    shown = on_a_terminal(**variables)
    assert "\r" not in shown
    assert re.search(r"^extract: \d+ of 40 rows, .* s left, slowest: decode$", shown, re.MULTILINE)
    assert shown.endswith("False\n")


def test_quiet_has_neither():
    assert on_a_terminal("quiet") == "a result\nFalse\n"


def test_a_pipe_has_lines_and_tqdm_is_not_loaded():
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    assert "\r" not in done.stderr
    assert "rows/s" in done.stderr
    assert done.stdout == "a result\nFalse\n"

"""The tab key in bash and zsh, as these shells ask and answer."""

import os
import pty
import re
import shutil
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

PARAMS = """
extract: {sets: {lite0-160: {backbone: vgg16}, lite0-224: {backbone: vgg16}, "$(touch pwned)": {}}}
train:
  heads: {linear: {kind: linear, learning_rate: [0.1, 0.01]}, mlp: {kind: mlp}}
  pairs: {both: [lite0-160, lite0-224]}
finetune: {runs: {deep: {set: lite0-160}, top: {set: lite0-160}}}
"""
OFFERS = {  # what is typed -> what is offered
    "cryobase st": {"status", "store"},
    "cryobase store show lite": {"lite0-160", "lite0-224"},
    "cryobase extract ": {"lite0-160", "lite0-224", "old"},
    "cryobase train b": {"both"},
    "cryobase heads export lite0-160 linear-": {"linear-lr0.1", "linear-lr0.01"},
    "cryobase heads export both ": {"linear", "mlp"},
    "cryobase finetune ": {"deep", "top"},
    "cryobase recipe use mobilenetv2-f": {"mobilenetv2-flowers"},
    "cryobase predict --model models/": {
        "models/lite0-160/linear-lr0.1",
        "models/lite0-160/linear-lr0.01",
    },
    "cryobase predict --imagenet vgg": {"vgg16", "vgg19"},
    "cryobase heads export ../.. ": {"linear", "mlp"},
}  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    (work / "params.yaml").write_text(PARAMS)
    for head in ("linear-lr0.1", "linear-lr0.01", "$(touch pwned)"):
        (work / "models/lite0-160" / head).mkdir(parents=True)
    (work / "features/old").mkdir(parents=True)
    (work / "features/old/manifest-1.json").write_text("{}")
    monkeypatch.chdir(work)
    return work


def environment(home: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "HOME": str(home), "ZDOTDIR": str(home), "TERM": "dumb"}


def bash(script: str, home: Path, *options: str) -> str:
    done = subprocess.run(
        ["bash", *options, "-c", script], env=environment(home), capture_output=True, text=True,
        check=True, timeout=60,
    )  # fmt: skip
    return done.stdout


ASK = """
words=$1; COMP_WORDS=($words); [[ $words == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
function=$(complete -p cryobase | sed -E 's/.*-F ([^ ]+).*/\\1/')
$function cryobase; printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_bash_offers_names_once_completion_is_installed(place, tmp_path):
    said = bash("cryobase --install-completion", tmp_path)
    assert "bash completion installed" in said
    load = f"source {tmp_path}/.bashrc\nask() {{{ASK}}}\n"
    questions = "\n".join(f"echo '== {typed}'; ask '{typed}'" for typed in OFFERS)
    answers = re.split(r"^== (.*)\n", bash(load + questions, tmp_path), flags=re.MULTILINE)[1:]
    found = dict(zip(answers[::2], map(str.split, answers[1::2]), strict=True))
    assert {typed: set(names) for typed, names in found.items()} == OFFERS
    assert not list(place.glob("pwned"))


class Zsh:
    """An interactive zsh on a terminal of its own."""

    def __init__(self, home: Path) -> None:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(ours, (50, 200))
        self.terminal = ours
        self.process = subprocess.Popen(
            ["zsh", "-d", "-i"], stdin=theirs, stdout=theirs, stderr=theirs,
            env=environment(home) | {"TERM": "xterm"}, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        os.set_blocking(ours, False)

    def type(self, text: str, until: str, seconds: float = 60) -> str:
        """Type; all that is shown until a pattern is."""
        os.write(self.terminal, text.encode())
        shown, end = "", time.monotonic() + seconds
        while not re.search(until, shown):
            assert time.monotonic() < end, shown
            with suppress(BlockingIOError, OSError):
                shown += os.read(self.terminal, 4096).decode(errors="replace")
            time.sleep(0.02)
        return shown

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh")
def test_zsh_offers_and_fills_in_names_once_completion_is_installed(place, tmp_path):
    done = subprocess.run(
        ["zsh", "-d", "-c", "cryobase --install-completion; true"], env=environment(tmp_path),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "zsh completion installed" in done.stdout
    with (tmp_path / ".zshrc").open("a") as file:
        file.write("\nPS1='ready> '\n")
    shell = Zsh(tmp_path)
    try:
        shell.type("", r"ready> ")
        shell.type("cryobase recipe use mobilenetv2-f\t", r"mobilenetv2-f")
        time.sleep(3)  # the first tab of a session may load Typer's script alone
        shell.type("\x15", r"")
        shell.type("cryobase recipe use mobilenetv2-f\t", r"mobilenetv2-flowers")
        shell.type("\x15", r"")
        shell.type("cryobase store show \t", r"(?s)(?=.*lite0-160)(?=.*lite0-224).*old")
    finally:
        shell.close()
    assert not list(place.glob("pwned"))


@pytest.mark.parametrize("params", ["extract: [", None, "extract: {sets: 7}", "- a"])
def test_params_that_cannot_be_read_offer_what_is_published(place, tmp_path, params):
    Path("params.yaml").unlink()
    if params is not None:
        Path("params.yaml").write_text(params)
    asked = {
        "COMP_WORDS": "cryobase extract ",
        "COMP_CWORD": "2",
        "_CRYOBASE_COMPLETE": "complete_bash",
    }
    done = subprocess.run(
        ["cryobase"], env=environment(tmp_path) | asked, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("old\n", "")


def test_a_shell_waits_for_no_library(place, tmp_path):
    code = (
        "import contextlib, sys\nsys.argv = ['cryobase']\nfrom cryobase.pipeline.cli import main\n"
        "with contextlib.suppress(SystemExit): main()\nprint(*sys.modules, file=sys.stderr)"
    )
    asked = {"COMP_WORDS": "cryobase heads plan ", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=environment(tmp_path) | asked | {"_CRYOBASE_COMPLETE": "complete_bash"},
    )  # fmt: skip
    assert "both" in done.stdout.split()
    heavy = {"tensorflow", "keras", "numpy", "h5py", "dvc", "dask", "matplotlib", "tqdm"}
    assert not heavy & set(done.stderr.splitlines()[-1].split())

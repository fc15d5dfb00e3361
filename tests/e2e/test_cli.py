"""The command line: quick to start, clear when something is wrong."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Project, clone

pytestmark = pytest.mark.e2e

HEAVY = ("tensorflow", "keras", "dvc", "dask", "h5py", "pydantic", "matplotlib", "sklearn")


def loaded(code: str) -> set[str]:
    """The modules that a piece of code loads, in an interpreter of its own."""
    script = f"{code}\nimport sys; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(result.stdout.splitlines()[-1].split())


def test_store_loads_nothing_heavy():
    others = {"cryobase.stages", "cryobase.pipeline"}
    assert not loaded("import cryobase.store") & ({"tensorflow", "keras", "dvc", "dask"} | others)


def test_the_face_of_the_package_loads_nothing_of_it():
    assert not {name for name in loaded("import cryobase") if name.startswith("cryobase.")}


def test_help_loads_nothing_heavy():
    code = (
        "import contextlib, io, sys\nsys.argv = ['cryobase', '--help']\n"
        "from cryobase.pipeline.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main()"
    )
    assert not loaded(code) & set(HEAVY)


def test_checking_params_loads_no_keras():
    code = (
        "from pathlib import Path\nfrom cryobase.pipeline.params import load\n"
        "load(Path('params.yaml'))"
    )
    assert not loaded(code) & {"tensorflow", "keras", "dask", "matplotlib", "sklearn"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Project:
    return clone(tmp_path_factory.mktemp("bare"))


@pytest.mark.parametrize(
    ("command", "code", "found"),
    [
        (["no-such-command"], 2, "No such command"),
        (["extract", "nope"], 2, "extract.sets has no 'nope'; known: lite0-160"),
        (["split"], 3, "cryobase download"),
        (["train"], 4, "cryobase extract"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(bare, command, code, found):
    result = subprocess.run(
        [Path(sys.executable).parent / "cryobase", *command],
        cwd=bare.root,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stderr
    assert found in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("code", [2, 3, 4])
def test_debug_shows_the_trace_and_keeps_the_exit_code(bare, code):
    command = {2: ["extract", "nope"], 3: ["split"], 4: ["train"]}[code]
    result = subprocess.run(
        [Path(sys.executable).parent / "cryobase", "--debug", *command],
        cwd=bare.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("cryobase: ")


@pytest.mark.parametrize("name", ["store", "stages", "pipeline", "tests"])
def test_a_module_of_ones_own_is_left_alone(bare, tmp_path, name):
    (tmp_path / f"{name}.py").write_text("raise SystemExit('ran')\n")
    for variables in ({}, {"PYTHONPATH": str(tmp_path)}):
        result = subprocess.run(
            [Path(sys.executable).parent / "cryobase", "recipe", "ls"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": ""} | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"HOME": "/nonexistent"},
        {"HOME": "/dev/null"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    ],
)
def test_a_poor_environment_is_no_trace(bare, variables):
    result = subprocess.run(
        [Path(sys.executable).parent / "cryobase", "recipe", "ls"],
        cwd=bare.root,
        env=os.environ | variables,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


INTERRUPTED = """
import signal, sys, time
import cryobase.stages.split
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
def run(*_, **__):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("unwound", flush=True)
cryobase.stages.split.run = run
sys.argv = ["cryobase", "split"]
from cryobase.pipeline.cli import main
main()
"""


@pytest.mark.fault(46)
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_unwinds_and_gives_its_exit_code(bare, signum, code):
    with subprocess.Popen(
        [sys.executable, "-P", "-c", INTERRUPTED],
        cwd=bare.root,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signum)
        output, errors = process.communicate(timeout=60)
    assert output == "unwound\n"
    assert process.returncode == code
    assert "Traceback" not in errors

"""What somebody may send: a table of attacks, and the one way in which each of them is met.

An attack writes into a workspace and says what a user would then run there: a command of `cryobase`
or, where that would load TensorFlow first, the call that reads. `Server.meet` does both in
processes of their own, forked from one that has imported everything, and tells how that ended.
"""

import gc
import importlib
import json
import os
import pickle
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Self

import psutil

from tests.memory import peak_bytes

SECONDS = 10  # of processor time
MEMORY = 1 << 30  # bytes above what the process had before
HANG = 120  # seconds without an end; a machine under load takes long for little
ROOT = Path(__file__).parents[2]
PEAK = "peak "  # begins a line of a report
LOOK = 25  # every so many turns of waiting, children are looked at

Run = Callable[[], object]
Command = tuple[str, ...]


@dataclass(frozen=True)
class Attack:
    """What writes into a workspace and returns what meets it, and the exit code of that."""

    write: Callable[[Path], Run | Command]
    code: int


TABLES = (
    "received_data", "received_models", "received_text", "received_sets", "received_results",
    "received_exchange",
)  # fmt: skip
PRELOADED = (  # below `cryobase`
    "pipeline.cli", "pipeline.exits", "pipeline.mending", "pipeline.params",
    "pipeline.predictions", "stages.backbones.build", "stages.extraction.plan",
    "stages.backbones.lite0", "stages.download", "stages.evaluate", "stages.extract",
    "stages.report", "stages.split", "stages.train",
)  # fmt: skip
ATTACKS: dict[str, Attack] = {}


def attack(code: int, **variants: object) -> Callable[[Any], Any]:
    """Add a function to the table, once for each of its variants."""

    def add(function: Any) -> Any:
        name = function.__name__.replace("_", " ")
        for variant, value in variants.items() or {"": None}.items():
            key = f"{name}: {variant.replace('_', ' ')}" if variant else name
            write = function if not variant else lambda place, value=value: function(place, value)
            add_row(key, write, code)
        return function

    return add


def add_row(name: str, write: Callable[[Path], Run | Command], code: int) -> None:
    """Add one attack to the table."""
    assert name not in ATTACKS, name
    ATTACKS[name] = Attack(write, code)


@dataclass(frozen=True)
class Ending:
    """How an attack ended.

    Attributes:
        status: the exit code, or minus the signal.
        errors: what was written on stderr.
        output: what was written on stdout.
        seconds: of processor time, children included.
        memory: bytes that the process took at most, above what it had before, and all that its
            children took.
        touched: what was written, made, moved or removed outside of the workspace, what was
            unpickled, and which programs and addresses were called.
    """

    status: int
    errors: str
    output: str
    seconds: float
    memory: int
    touched: tuple[str, ...]


class Server:
    """A process that has imported everything, from which each attack gets its own.

    Args:
        wrapper: a program with arguments that is to start it.
    """

    def __init__(self, *wrapper: str) -> None:
        code = "from tests.integration.attacks import serve; serve()"
        self._process = subprocess.Popen(
            [*wrapper, sys.executable, "-B", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},  # for the children of what is tried
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def meet(self, name: str, place: Path) -> Ending:
        """Run an attack below a directory: its workspace is `work`, the user's own is `own`.

        Beside them is a file that no attack may reach.
        """
        (place / "beside").write_text("precious")
        pipe = self._process
        assert pipe.stdin
        assert pipe.stdout
        pipe.stdin.write(json.dumps([name, str(place)]) + "\n")
        pipe.stdin.flush()
        found = json.loads(pipe.stdout.readline())
        return Ending(**found | {"touched": tuple(found["touched"])})


def table() -> dict[str, Attack]:
    """All attacks, by name."""
    for name in TABLES:
        importlib.import_module(f"tests.integration.{name}")
    return ATTACKS


def serve() -> None:
    """Meet attacks by name and place, a line each on stdin; an ending each on stdout."""
    attacks = table() | {
        f"harness: {name}": Attack(lambda _, run=run: run, 0) for name, run in BROKEN.items()
    }
    for name in PRELOADED:
        importlib.import_module(f"cryobase.{name}")
    gc.freeze()  # else each child would copy what its garbage collector looks at
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, place = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            with os.fdopen(writing, "w") as answer:
                json.dump(asdict(_meet(attacks[name], Path(place))), answer)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            found = answer.read()
        os.waitpid(child, 0)
        answers.write(found + "\n")
        answers.flush()


def _meet(one: Attack, place: Path) -> Ending:
    """Write an attack, and meet it in a child."""
    for name in ("work", "own/tmp", "own/home", "own/cache"):
        (place / name).mkdir(parents=True)
    os.environ |= {
        "HOME": str(place / "own" / "home"),
        "CRYOBASE_CACHE": str(place / "own" / "cache"),
        "TMPDIR": str(place / "own" / "tmp"),
    }
    tempfile.tempdir = None
    os.chdir(place / "work")
    run = one.write(place / "work")
    os.chdir(place / "work")
    beside = _seen(place)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setpgid(0, 0)  # so that what it starts can be ended with it
        os.close(reading)
        _run(run, place, writing)
    os.close(writing)
    status, used, beneath = _wait(child)
    with os.fdopen(reading) as report:
        lines = report.read().splitlines()
    peaks = [int(line[len(PEAK) :]) for line in lines if line.startswith(PEAK)]
    own = peaks[1] if len(peaks) > 1 else 1024 * used.ru_maxrss  # of one that was killed
    touched = [line for line in lines if not line.startswith(PEAK)]
    touched += sorted(_seen(place) ^ beside)
    errors, output = ((place / "own" / name).read_text("utf-8") for name in ("errors", "output"))
    return Ending(
        status=os.waitstatus_to_exitcode(status),
        errors=errors,
        output=output,
        seconds=used.ru_utime + used.ru_stime,
        memory=own - peaks[0] + beneath,
        touched=tuple(dict.fromkeys(touched)),
    )


def _wait(child: int) -> tuple[int, resource.struct_rusage, int]:
    """The status of a child, what it has used, and the most that its own children had together.

    One that hangs is killed.
    """
    end, most, process = time.monotonic() + HANG, 0, psutil.Process(child)
    for turn in count():
        found, status, used = os.wait4(child, os.WNOHANG)
        if found:
            return status, used, most
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
        if turn % LOOK == 0:
            most = max(most, _beneath(process))
        time.sleep(0.002)
    raise AssertionError("it counts for ever")


def _beneath(process: psutil.Process) -> int:
    """The peaks of all that a process has started, in bytes.

    One that is about to run its program has the memory of the process that starts it until then.
    """
    peaks = 0
    with suppress(psutil.Error):  # it has ended
        forked, children = process.cmdline(), process.children(recursive=True)
        for one in children:
            with suppress(psutil.Error):
                peaks += peak_bytes(one.pid) if one.cmdline() != forked else 0
    return peaks


def _seen(place: Path) -> set[str]:
    """Everything beside the workspace and the user's own, with what would tell a change."""
    found = set()
    for at, folders, files in os.walk(place):
        if Path(at) == place:
            folders[:] = [name for name in folders if name not in ("work", "own")]
        for name in (*folders, *files):
            path = os.path.join(at, name)
            facts = os.lstat(path)
            found.add(f"{path} {facts.st_mode:o} {facts.st_size} {facts.st_ctime_ns}")
    return found


def _run(run: Run | Command, place: Path, report: int) -> None:
    """Run what meets an attack as the command line does, and end this process."""
    from cryobase.pipeline import cli, logs, tables
    from cryobase.pipeline.exits import exit_code

    for number, name in ((1, "output"), (2, "errors")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(place / "own" / name, flags, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _tell_peak(report)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (2 * SECONDS, 2 * SECONDS + 1))
    sys.addaudithook(lambda event, args: _note(event, args, place, report))
    code: Any = 1
    try:
        if isinstance(run, tuple):
            sys.argv = ["cryobase", *run]
            cli.main()
        logs.configure()
        run()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except Exception as error:
        tables.line(f"cryobase: {cli._one_line(error)}", error=True)
        code = exit_code(error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        _tell_peak(report)
        os._exit(code)


def _tell_peak(report: int) -> None:
    os.write(report, f"{PEAK}{peak_bytes()}\n".encode())


GROW = f"bytearray(b'x') * {MEMORY + (1 << 20)}"
BROKEN: dict[str, Run] = {  # each breaks one of the promises, so that tests of the harness can fail
    "die": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "grow": lambda: exec(GROW),
    "grow in a child": lambda: subprocess.run([sys.executable, "-c", GROW], check=True),
    "write": lambda: Path("../beside").write_text("x"),
    "unpickle": lambda: pickle.loads(pickle.dumps(Path)),
    "call": lambda: os.system("true"),
}

# Events of https://docs.python.org/3/library/audit_events.html that change something, and where
# their paths stand among the arguments.
CHANGES = {
    "os.chmod": 1, "os.link": 2, "os.mkdir": 1, "os.remove": 1, "os.rename": 2, "os.rmdir": 1,
    "os.symlink": 2, "os.truncate": 1, "os.utime": 1, "shutil.rmtree": 1, "os.chown": 1,
}  # fmt: skip
CALLS = ("os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class")
PROGRAMS = (sys.executable, "fc-list")  # matplotlib asks the second one for fonts
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _note(event: str, args: tuple[Any, ...], place: Path, report: int) -> None:
    """Tell of an event that changes something outside of the workspace, or calls something."""
    called, changed = "", ()
    if event == "open":
        path, _, flags = args
        changed = (path,) if isinstance(path, str | bytes) and flags & WRITING else ()
    elif event == "subprocess.Popen":
        called = "" if args[0] in PROGRAMS else str(args[:2])
    elif event in CALLS:
        called = str(args)
    else:
        paths = args[: CHANGES.get(event, 0)]
        changed = tuple(path for path in paths if isinstance(path, str | bytes))
    for told in (called, *(path for path in map(os.fsdecode, changed) if not inside(path, place))):
        if told:
            os.write(report, f"{event} {told!a}\n".encode())


def inside(path: str, place: Path) -> bool:
    """Whether a path is of the workspace, of the user's own, or nothing that is kept."""
    real = os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
    kept = [os.path.realpath(place / name) + "/" for name in ("work", "own")]
    return f"{real}/".startswith((*kept, "/dev/null/", "/dev/tty/"))


@contextmanager
def in_directory(path: Path) -> Iterator[None]:
    """Work in another directory for a while: the path of a socket must be short."""
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


def special(path: Path, kind: str, target: Path | None = None) -> None:
    """Put something that is no regular file in the place of a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 7 << 30)
    elif kind == "socket":
        with in_directory(path.parent), socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    elif kind == "link":
        path.symlink_to(target or "/etc/hostname")
    elif kind == "circle":
        path.symlink_to(path.name)
    else:
        path.symlink_to("/dev/zero")

"""Child processes: a new Python runs one of our modules on untrusted bytes or patterns."""

import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

# An editable installation finds packages through a hook, so they may be missing from `sys.path`.
ROOT = str(Path(__file__).resolve().parents[1])


def run_module(module: str, *arguments: str, **streams: Any) -> "subprocess.Popen[bytes]":
    """Run `python -m module arguments`. The child imports the same packages as this process.

    Args:
        module: full name of the module.
        arguments: the arguments in the child's `sys.argv`.
        streams: `stdin`, `stdout` and `stderr`, as for `subprocess.Popen`.
    """
    paths = [*sys.path, *([ROOT] if ROOT not in sys.path else [])]
    environment = {
        "PYTHONPATH": os.pathsep.join(paths),
        "OPENBLAS_NUM_THREADS": "1",  # else numpy starts a thread per core, each with own memory
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        env=os.environ | environment,
        process_group=0,  # Ctrl-C reaches the parent alone, which then ends the child
        **streams,
    )


def status_of(child: "subprocess.Popen[bytes]", seconds: float) -> int:
    """Wait for a child that has `seconds` of processor time, and end it after ten times as long.

    Returns:
        Its exit status; -SIGXCPU if either time is over, another negative number for a signal.
    """
    try:
        return child.wait(timeout=10 * seconds)
    except subprocess.TimeoutExpired:
        return -signal.SIGXCPU
    finally:
        child.kill()
        child.wait()


def limit_this_process(*, seconds: int, memory: int, output: int) -> None:
    """Called in a child: limit processor time, and bytes of memory and of each written file.

    When the time is over, SIGXCPU ends the process.
    """
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_FSIZE: output,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        with suppress(OSError, ValueError):  # macOS cannot limit memory
            resource.setrlimit(kind, (limit, limit + (kind == resource.RLIMIT_CPU)))

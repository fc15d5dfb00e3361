"""Child processes: a new Python runs one of our modules on untrusted bytes or patterns."""

import os
import subprocess
import sys
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

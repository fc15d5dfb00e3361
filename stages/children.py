"""Child processes: a new Python runs a module of ours on bytes or patterns of somebody else."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# An editable installation finds packages by a hook, so that they need not be on `sys.path`.
ROOT = str(Path(__file__).resolve().parents[1])


def run_module(module: str, *arguments: str, **streams: Any) -> "subprocess.Popen[bytes]":
    """Run `python -m module arguments`; it imports what this process would, from wherever it runs.

    Args:
        module: Its full name.
        arguments: What it finds in `sys.argv`.
        streams: `stdin`, `stdout` and `stderr`, as for `subprocess.Popen`.
    """
    paths = [*sys.path, *([ROOT] if ROOT not in sys.path else [])]
    environment = {
        "PYTHONPATH": os.pathsep.join(paths),
        "OPENBLAS_NUM_THREADS": "1",  # else numpy starts one per core, each with memory of its own
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        env=os.environ | environment,
        process_group=0,  # Ctrl-C is the parent's affair
        **streams,
    )

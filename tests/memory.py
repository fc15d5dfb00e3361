"""How much memory a process has used, and giving it back."""

import ctypes
import gc
import re
import resource
import sys
from pathlib import Path


def peak_bytes(process: int | None = None) -> int:
    """The most resident memory that this process had since it began, in bytes.

    On Linux not from `getrusage`, which begins with the peak of whoever started the process.

    Args:
        process: another one; 0 bytes where it is gone, or the system tells nothing of others.
    """
    try:
        status = Path(f"/proc/{process or 'self'}/status").read_text()
        return 1024 * int((re.findall(r"VmHWM:\s*(\d+) kB", status) or [0])[0])
    except OSError:
        if process:
            return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it


def give_back() -> None:
    """Return unused memory to the system; clear Keras' session first, which holds many objects."""
    if "cryobase.stages.backbones.frameworks" in sys.modules and "keras" in sys.modules:
        sys.modules["cryobase.stages.backbones.frameworks"].forget_names()
    gc.unfreeze()
    gc.collect()
    gc.freeze()  # what is left are libraries: Keras collects garbage with every model, without them
    if TRIM:
        TRIM(0)

"""What the machine has."""

import os
import re
from pathlib import Path

from cryobase.stages.errors import ConfigError

ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd")  # NVIDIA's and AMD's drivers


def cores() -> int:
    """The processors that this process may use; `$CRYOBASE_THREADS` sets another number.

    Raises:
        ConfigError: it sets none.
    """
    if own := os.environ.get("CRYOBASE_THREADS"):
        if not re.fullmatch(r"[1-9]\d{0,3}", own, re.ASCII):
            raise ConfigError(f"CRYOBASE_THREADS is {own!r:.40}, expected a number from 1 to 9999")
        return int(own)
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def has_accelerator() -> bool:
    """Whether there may be a GPU for TensorFlow; asked without loading it."""
    return any(Path(device).exists() for device in ACCELERATORS)

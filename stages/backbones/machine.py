"""What the machine has."""

import os
from pathlib import Path

ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd")  # NVIDIA's and AMD's drivers


def cores() -> int:
    """The processors that this process may use; `$CRYOBASE_THREADS` sets another number."""
    if own := os.environ.get("CRYOBASE_THREADS"):
        return int(own)
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def has_accelerator() -> bool:
    """Whether there may be a GPU for TensorFlow; asked without loading it."""
    return any(Path(device).exists() for device in ACCELERATORS)

"""Freeze the base once, reuse its features everywhere: what `import cryobase` offers.

The names here are the ones that stay: `docs/stability.md`. To import this module costs nothing;
each function imports what it needs.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryobase.pipeline.features import Features

__all__ = ["open"]


def open(path: "str | Path", *, full: bool = False) -> "Features":
    """Open a feature set, as `cryobase extract` or a colleague published it.

    Args:
        path: Its directory, such as `features/lite0-160`; `~` is the user's home.
        full: Check every byte, and not only the files that this machine has not checked yet. Do so
            once with whatever comes from elsewhere.

    Raises:
        StoreNotFoundError: no feature set is there.
        StorageError: it is damaged, or its files are not what its manifest says.
    """
    from cryobase.pipeline.features import Features

    return Features.open(Path(path).expanduser(), full=full)

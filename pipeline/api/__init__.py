"""Freeze the base once, reuse its features everywhere: what `import cryobase` offers.

The names here are the ones that stay: `docs/stability.md`. To import this module costs nothing;
each name imports what it needs when it is used.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryobase.pipeline.calls import extract, predict, train
    from cryobase.pipeline.features import Features

__all__ = ["extract", "open", "predict", "train"]


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


def __getattr__(name: str) -> Any:
    """`extract`, `train` and `predict`, which load what the stages are configured by."""
    if name == "__version__":
        from importlib.metadata import version

        return version("cryobase")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cryobase.pipeline import calls

    return getattr(calls, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

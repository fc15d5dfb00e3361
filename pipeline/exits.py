"""Exit codes, by which scripts tell errors apart (docs/exit_codes.md)."""

from cryobase.pipeline.params import ParamsError
from cryobase.stages.errors import (
    ConfigError,
    DriftError,
    MissingWeightsError,
    NetworkError,
    StageError,
)
from cryobase.store.errors import StoreError

UNWELL = 6  # `cryobase doctor` has something to fix

EXIT_CODES: tuple[tuple[type[Exception], int], ...] = (
    (ParamsError, 2),
    (ConfigError, 2),
    (MissingWeightsError, 5),
    (NetworkError, 5),
    (DriftError, 4),
    (StageError, 3),
    (StoreError, 4),
)


def exit_code(error: Exception) -> int:
    """The exit code of an error; 1 for an error of an unexpected type."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)

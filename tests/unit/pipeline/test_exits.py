"""Every error that is raised on purpose has an exit code of the table in docs/exit_codes.md."""

import pytest

from cryobase.pipeline.exits import exit_code
from cryobase.pipeline.params import ParamsError
from cryobase.stages.errors import (
    ConfigError,
    DataError,
    DriftError,
    MissingWeightsError,
    NetworkError,
    StageError,
)
from cryobase.store import IntegrityError, MissingRowsError, StoreError


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (ParamsError, 2),
        (ConfigError, 2),
        (DataError, 3),
        (StageError, 3),
        (DriftError, 4),
        (StoreError, 4),
        (IntegrityError, 4),
        (MissingRowsError, 4),
        (MissingWeightsError, 5),
        (NetworkError, 5),
        (RuntimeError, 1),
    ],
)
def test_exit_codes(kind, code):
    assert exit_code(kind.__new__(kind)) == code

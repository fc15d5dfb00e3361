"""Parts of a pass, and errors on their way back."""

import copy

import numpy as np
import pytest

from cryobase.stages.backbones import parts
from cryobase.stages.backbones.parts import Part, portable
from cryobase.stages.backbones.plan import Pass
from cryobase.stages.errors import DataError, MissingWeightsError, StageError
from cryobase.store.errors import IntegrityError


def test_parts_and_halves_cover_every_row_once(monkeypatch):
    monkeypatch.setattr(parts, "ROWS_PER_PART", 3)
    passes = [Pass((), np.arange(n), np.arange(n).astype("u2")) for n in (7, 1, 0, 3)]
    found = list(parts.parts_of(passes))
    assert [(p.number, len(p.views)) for p in found] == [(0, 3), (0, 3), (0, 1), (1, 1), (3, 3)]
    for number, each in enumerate(passes):
        mine = [part for part in found if part.number == number]
        rows = [row for part in mine for half in part.halves() for row in half.positions]
        assert rows == each.positions.tolist()
    assert [half.number for half in Part(3, np.arange(2), np.zeros(2, "u2")).halves()] == [3, 3]


class OddError(DataError):
    """Made of two arguments: pickle has one."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DataError("a.jpg: has changed"), DataError),
        (IntegrityError("a shard"), IntegrityError),
        (MissingWeightsError("no weights"), MissingWeightsError),
        (OddError("a", "b"), StageError),
        (OSError(28, "No space left", "/pool"), StageError),
        (ValueError(lambda: 0), StageError),
    ],
)
def test_an_error_becomes_one_that_can_be_sent(error, kind):
    error.__cause__ = OddError("no", "pickle")
    sent = copy.copy(portable(error))  # by the steps that pickle takes
    assert type(sent) is kind
    assert str(error) in str(sent)
    assert sent.__cause__ is None

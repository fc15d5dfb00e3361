"""docs/security.md and the code agree on the limits."""

import importlib
import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.+) \| ([\d,]+)(?: (\S+))? \| `(\S+)\.py` `(\S+)` \|$", TEXT, re.MULTILINE)
UNITS = {"": 1, "s": 1, "MiB": 1 << 20, "GiB": 1 << 30}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_limit_is_what_the_page_says(row):
    _, number, unit, module, name = row
    found = getattr(importlib.import_module(f"cryobase.{module.replace('/', '.')}"), name)
    assert found == int(number.replace(",", "")) * UNITS[unit]


def test_every_row_was_read():
    assert len(ROWS) == TEXT.count(".py` `") > 15

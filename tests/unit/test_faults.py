"""docs/faults.md and the tests agree on which faults are tested."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (\d+) \|.*\| (.+) \|$", flags=re.MULTILINE)
MARK = re.compile(r"mark\.fault\(([\d, \n]+)\)")


def test_every_fault_is_tested_or_has_a_reason():
    rows = {int(n): last for n, last in ROW.findall((ROOT / "docs" / "faults.md").read_text())}
    text = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    marks = {int(n) for found in MARK.findall(text) for n in re.findall(r"\d+", found)}
    assert set(rows) == set(range(1, 67))
    assert {number for number, last in rows.items() if last == "tested"} == marks
    assert all(len(last) > 20 for last in rows.values() if last != "tested")

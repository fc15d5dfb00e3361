"""The figures in README and docs are those of docs/performance.json, and can be measured anew."""

import json

from tests.benchmarks import tables
from tests.benchmarks.__main__ import chosen


def test_the_tables_say_what_was_measured():
    document = json.loads(tables.RESULTS.read_text(encoding="utf-8"))
    assert tables.PAGE.read_text(encoding="utf-8") == tables.page(document)
    assert tables.README.read_text(encoding="utf-8") == tables.readme(document["ratios"])


def test_every_row_can_be_measured_and_every_benchmark_has_a_row():
    assert set(tables.SIDES) == set(chosen([]))

"""The figures in README and docs are those of docs/performance.json, and can be measured anew."""

import json
import subprocess

import pytest

from tests.benchmarks import tables
from tests.benchmarks.__main__ import chosen, commit


def test_the_tables_say_what_was_measured():
    document = json.loads(tables.RESULTS.read_text(encoding="utf-8"))
    assert tables.PAGE.read_text(encoding="utf-8") == tables.page(document)
    assert tables.README.read_text(encoding="utf-8") == tables.readme(document["ratios"])


@pytest.mark.parametrize("key", [*tables.AT_LEAST, *tables.AT_MOST])
def test_what_was_measured_reaches_its_bar(key):
    ratio = json.loads(tables.RESULTS.read_text(encoding="utf-8"))["ratios"][key]
    assert tables.AT_LEAST.get(key, 0) <= ratio <= tables.AT_MOST.get(key, ratio)


def test_every_row_can_be_measured_and_every_benchmark_has_a_row():
    assert set(tables.SIDES) == set(chosen([]))


def test_what_a_measurement_writes_makes_no_commit_dirty(tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True)

    written = [tmp_path / path.relative_to(tables.ROOT) for path in tables.WRITTEN]
    source = tmp_path / "store" / "reader.py"
    for path in (*written, source):
        path.parent.mkdir(exist_ok=True)
        path.write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "state")
    clean = commit(tmp_path)
    assert len(clean) == 12
    for path in written:
        path.write_text("2")
    (tmp_path / "untracked").write_text("")
    assert commit(tmp_path) == clean
    source.write_text("2")
    assert commit(tmp_path) == f"{clean}-dirty"
    assert commit(source.parent) == f"{clean}-dirty"
    assert commit(tmp_path.parent) == "unknown"

"""The report names what is there, in order, and warns of what is not."""

import csv
import json
import shutil
import subprocess
import sys

import pytest

from cryobase.stages import report
from cryobase.stages.errors import DataError


def write_results(directory, document, picture="<svg/>"):
    directory.mkdir(parents=True)
    (directory / "metrics.json").write_text(json.dumps(document))
    (directory / "curves.svg").write_text(picture)
    return directory


def scores(accuracy):
    return {"accuracy": accuracy, "f1_macro": accuracy, "log_loss": 0.5}


@pytest.fixture
def sets(tmp_path):
    heads = {
        "worse": {"validation": scores(0.5)},
        "<b>": {"validation": scores(0.75), "test": scores(0.625)},
    }
    return {"s": write_results(tmp_path / "s", {"best": "<b>", "heads": heads})}


def test_heads_are_ordered_by_validation_and_escaped(tmp_path, sets):
    report.run(report.ReportConfig(title="T"), sets=sets, runs={}, output=tmp_path / "out")
    with (tmp_path / "out" / "heads.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["head"], row["test accuracy"]) for row in rows] == [
        ("<b>", "0.625"),
        ("worse", ""),
    ]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert 'src="data:image/svg+xml;base64,' in page
    assert "http" not in page.replace("http-equiv", "")  # self-contained: nothing is fetched


def test_a_tuned_model_stands_beside_its_start(tmp_path, sets):
    tuned = {
        "start": {"validation": scores(0.5)},
        "tuned": {"validation": scores(0.875)},
        "phase_1": {"validation": scores(0.75)},
        "kept_epoch": 12,
        "overfitting_from": 8,
    }
    runs = {"ft": write_results(tmp_path / "ft", tuned)}
    report.run(report.ReportConfig(), sets=sets, runs=runs, output=tmp_path / "out")
    with (tmp_path / "out" / "finetune.csv").open() as file:
        rows = list(csv.DictReader(file))
    told = [(row["model"], row["accuracy"], row["overfitting from"]) for row in rows]
    assert told == [("start", "0.5", ""), ("phase_1", "0.75", ""), ("tuned", "0.875", "8")]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<th>overfitting from</th>" in page
    assert "<td>8</td>" in page


def test_a_ladder_that_was_climbed_is_shown(tmp_path, sets):
    ladders = {"s": tmp_path / "ladder/s", "other": tmp_path / "ladder/other"}
    ladders["s"].mkdir(parents=True)
    (ladders["s"] / "ladder.svg").write_text("<svg/>")
    output = tmp_path / "out"
    report.run(report.ReportConfig(), sets=sets, runs={}, ladders=ladders, output=output)
    page = (output / "index.html").read_text()
    assert "ladder/s: ladder" in page
    assert "ladder/other" not in page
    assert (output / "pictures" / "ladder-s-ladder.svg").read_text() == "<svg/>"


def test_pictures_that_no_stage_declares_lie_where_dvc_looks(tmp_path, sets):
    name, directory = next(iter(sets.items()))
    output = tmp_path / "out"
    for deep in ("heads/linear/reliability.svg", "evidence/learning_curve.svg"):
        (directory / deep).parent.mkdir(parents=True, exist_ok=True)
        (directory / deep).write_text("<svg/>")
        report.run(report.ReportConfig(), sets=sets, runs={}, output=output)
        assert f"{name}: {deep[:-4].replace('/', ': ')}" in (output / "index.html").read_text()
    found = sorted(path.name for path in (output / "pictures").iterdir())
    assert found == [f"{name}-evidence-learning_curve.svg", f"{name}-heads-linear-reliability.svg"]
    (directory / "evidence" / "learning_curve.svg").unlink()
    report.run(report.ReportConfig(), sets=sets, runs={}, output=output)
    assert [p.name for p in (output / "pictures").iterdir()] == [
        f"{name}-heads-linear-reliability.svg"
    ]
    shutil.rmtree(directory / "heads" / "linear")
    report.run(report.ReportConfig(), sets=sets, runs={}, output=output)
    assert not any((output / "pictures").iterdir())  # `dvc plots` warns of a place that is missing


def test_what_is_missing_is_left_out_with_a_warning(tmp_path, sets, caplog):
    runs = {"ft": tmp_path / "nowhere"}
    report.run(report.ReportConfig(), sets=sets, runs=runs, output=tmp_path / "out")
    assert "cryobase finetune ft" in caplog.text
    with pytest.raises(DataError, match="no results"):
        report.run(report.ReportConfig(), sets={}, runs=runs, output=tmp_path / "out")


def test_reporting_loads_no_tensorflow(tmp_path, sets):
    script = f"""
import sys
from pathlib import Path
from cryobase.stages import report
report.run(report.ReportConfig(), sets={{"s": Path({str(sets["s"])!r})}}, runs={{}},
    output=Path({str(tmp_path / "out")!r}))
sys.exit("tensorflow" in sys.modules or "keras" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    assert (tmp_path / "out" / "index.html").exists()

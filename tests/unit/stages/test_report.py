"""The report names what is there, in order, and warns of what is not."""

import csv
import json

import pytest

from stages import report
from stages.errors import DataError


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
    tuned = {"start": {"validation": scores(0.5)}, "tuned": {"validation": scores(0.875)}}
    runs = {"ft": write_results(tmp_path / "ft", tuned)}
    report.run(report.ReportConfig(), sets=sets, runs=runs, output=tmp_path / "out")
    with (tmp_path / "out" / "finetune.csv").open() as file:
        rows = [(row["model"], row["accuracy"]) for row in csv.DictReader(file)]
    assert rows == [("start", "0.5"), ("tuned", "0.875")]


def test_what_is_missing_is_left_out_with_a_warning(tmp_path, sets, caplog):
    runs = {"ft": tmp_path / "nowhere"}
    report.run(report.ReportConfig(), sets=sets, runs=runs, output=tmp_path / "out")
    assert "cryobase finetune ft" in caplog.text
    with pytest.raises(DataError, match="no results"):
        report.run(report.ReportConfig(), sets={}, runs=runs, output=tmp_path / "out")

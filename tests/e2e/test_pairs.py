"""Two feature sets side by side as one head's input: through DVC, and through every command."""

import csv
import json

import pytest

from tests.e2e.conftest import SMALL, Project
from tests.images import write_folder

pytestmark = pytest.mark.e2e

BASE = SMALL["extract"]["sets"]["small"]
SETS = {
    "small": BASE,
    "early": {**BASE, "output": "block3_project_bn:avg"},
    "other": {**BASE, "backbone": "mobilenetv2"},
}
PAIRS = {"layers": ["small", "early"], "bases": ["small", "other"]}
HEADS = {"ridge": {"kind": "ridge", "penalty": 10.0}}  # trained without TensorFlow


@pytest.fixture(scope="module")
def paired(project: Project) -> Project:
    write_folder(project.root / "images", 20)
    project.params(extract={"sets": SETS}, train={"heads": HEADS, "pairs": PAIRS})
    ran = project.repro("report")
    assert {f"{stage}@{name}" for stage in ("train_pair", "evaluate_pair") for name in PAIRS} < ran
    return project


def test_a_pair_depends_on_its_two_sets_alone(paired):
    changed = {**SETS, "other": {**SETS["other"], "dtype": "float32"}}
    paired.params(extract={"sets": changed})
    assert paired.repro("evaluate_pair") == {
        "extract@other",
        "train_pair@bases",
        "evaluate_pair@bases",
    }
    paired.params(extract={"sets": SETS})
    paired.repro()


def test_the_report_and_the_leaderboard_have_sets_and_pairs(paired):
    with (paired.root / "report" / "heads.csv").open() as file:
        reported = {row["set"] for row in csv.DictReader(file)}
    listed = json.loads(paired.run("cryobase", "--quiet", "heads", "ls", "--json"))
    assert reported == {row["set"] for row in listed} == {*SETS, *PAIRS}


def test_a_pair_is_planned_at_the_width_of_both(paired):
    widths = {}
    for name in ("small", "other", "bases"):
        head = paired.root / "models" / name / "ridge" / "head.json"
        widths[name] = [shape[0] for shape in json.loads(head.read_text())["shapes"]]
    assert widths["bases"] == widths["small"] + widths["other"]
    linear = {"linear": {"kind": "linear", "epochs": 5}}
    paired.params(train={"heads": linear, "pairs": PAIRS})
    [line] = json.loads(paired.run("cryobase", "--quiet", "heads", "plan", "bases", "--json"))
    paired.params(train={"heads": HEADS, "pairs": PAIRS})
    assert line["names"] == "linear"


def test_plain_commands_give_a_pair_the_same_scores(paired):
    with_dvc = paired.json("results/bases/metrics.json")["heads"]["ridge"]["validation"]
    paired.run("rm", "-rf", "models/bases", "results/bases", ".cryobase/heads")
    paired.run("cryobase", "train", "bases")
    paired.run("cryobase", "evaluate", "bases")
    assert paired.json("results/bases/metrics.json")["heads"]["ridge"]["validation"] == with_dvc


def test_evidence_export_and_predictions_of_a_pair(paired):
    paired.run("cryobase", "heads", "evidence", "layers", "--folds", "2")
    assert (paired.root / "results/layers/evidence/folds.csv").exists()
    for name in PAIRS:
        paired.run("cryobase", "heads", "export", name)
        exported = paired.root / "export" / name / "ridge"
        assert (exported / "model.keras").exists()
        assert f"evaluate_pair@{name}" in (exported / "README.md").read_text()
    with (paired.root / "results/bases/heads/ridge/predictions.csv").open() as file:
        stored = {row["id"]: row["predicted"] for row in csv.DictReader(file)}
    command = ("cryobase", "--quiet", "predict", "images", "--model", "models/bases/ridge")
    predictions = json.loads(paired.run(*command, "--json"))["predictions"]
    found = {row["file"].removeprefix("images/"): row["classes"][0]["class"] for row in predictions}
    assert {name: found[name] for name in stored} == stored


def test_an_unknown_pair_is_an_error_of_one_line(paired):
    output = paired.run("cryobase", "train", "both", check=False)
    known = "known: small, early, other"
    assert f"extract.sets, train.pairs or train.foreign has no 'both'; {known}" in output
    assert "Traceback" not in output

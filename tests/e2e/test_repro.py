"""The main job: `dvc repro` does what is needed and nothing else."""

import hashlib

import pytest

from tests.e2e.conftest import SMALL, Project
from tests.images import write_folder

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def reproduced(project: Project) -> Project:
    write_folder(project.root / "images", 20)
    ran = project.repro()
    assert ran == {
        "download",
        "split",
        "extract@small",
        "train@small",
        "evaluate@small",
        "report",
    }
    return project


def test_a_trained_head_and_a_report_exist(reproduced):
    metrics = reproduced.json("results/small/metrics.json")
    assert set(metrics["heads"]) == {"linear", "mlp"}
    assert metrics["heads"]["linear"]["validation"]["accuracy"] > 0.6
    assert "linear" in (reproduced.root / "report" / "index.html").read_text()


def test_nothing_runs_twice(reproduced):
    assert reproduced.repro() == set()


def test_a_head_edit_never_extracts(reproduced):
    heads = {**SMALL["train"]["heads"], "linear": {"kind": "linear", "learning_rate": 0.02}}
    reproduced.params(train={"heads": heads})
    assert reproduced.repro() == {"train@small", "evaluate@small", "report"}


def test_a_new_split_never_extracts(reproduced):
    reproduced.params(split={**SMALL["split"], "seed": 1})
    assert reproduced.repro() == {"split", "train@small", "evaluate@small", "report"}


def test_ten_new_images_are_ten_new_rows(reproduced):
    write_folder(reproduced.root / "images", 10, first=20, classes=("blue",))
    output = reproduced.run("dvc", "repro")
    assert "10 rows computed, 60 reused" in output, output


def test_commands_write_over_what_dvc_has_linked_and_leave_its_cache_alone(reproduced):
    def cached() -> dict[str, str]:
        files = sorted((reproduced.root / ".dvc" / "cache").rglob("*"))
        return {str(p): hashlib.md5(p.read_bytes()).hexdigest() for p in files if p.is_file()}

    before, metrics = cached(), reproduced.json("results/small/metrics.json")
    params = (reproduced.root / "params.yaml").read_text()
    reproduced.params(train={"heads": {"other": {"kind": "linear", "epochs": 1}}})
    for command in ("train", "evaluate", "report"):
        reproduced.run("cryobase", command)
    assert reproduced.json("results/small/metrics.json") != metrics
    assert cached() == before
    (reproduced.root / "params.yaml").write_text(params)
    reproduced.run("dvc", "checkout", "--force")


def test_the_commands_give_the_same_without_dvc(reproduced):
    with_dvc = reproduced.json("results/small/metrics.json")
    for directory in ("data", "features", "models", "results", "report", ".cryobase"):
        reproduced.run("rm", "-rf", directory)
    for command in ("download", "split", "extract", "train", "evaluate", "report"):
        reproduced.run("cryobase", command)
    assert reproduced.json("results/small/metrics.json") == with_dvc

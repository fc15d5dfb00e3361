"""What stops DVC does not stop `dvc repro`, and what DVC shows can be read."""

import json
import os
import re
import shutil

import pytest

from tests.e2e.conftest import SMALL, Project
from tests.images import write_folder

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def reproduced(project: Project) -> Project:
    """A project whose images have a broken link and a file name that is no UTF-8 among them."""
    images = write_folder(project.root / "images", 12)
    (images / "blue" / "gone.png").symlink_to("/nonexistent")
    (images / "blue" / "0000.png").rename(images / "blue" / os.fsdecode(b"caf\xe9.png"))
    assert "report" in project.repro()
    return project


def test_nothing_new_runs_watch_alone(reproduced):
    assert reproduced.repro() == set()
    assert reproduced.run("dvc", "status").split() == ["watch:", "always", "changed"]


def test_metrics_fit_a_terminal(reproduced):
    lines = reproduced.run("dvc", "metrics", "show").splitlines()
    assert any("accuracy.test" in line for line in lines)
    assert max(map(len, lines)) <= 120


def test_the_best_head_is_told_with_its_interval(reproduced):
    told = reproduced.run("cryobase", "heads", "best")
    score = json.loads((reproduced.root / "results/small/score.json").read_text())
    assert f"small/{score['best']}: accuracy {score['accuracy']['test']} on test" in told
    assert re.search(
        r" on test, 95 % interval 0\.\d+ to [01]\.\d+ \(\d+ images?\)$", told, re.MULTILINE
    )
    assert "report/index.html" in told


def test_a_source_that_is_away_stops_dvc_with_a_line_and_can_be_allowed(reproduced):
    images = reproduced.root / "images"
    images.rename(images.with_name("away"))
    try:
        output = reproduced.run("dvc", "repro", check=False)
        assert "images: no such file or folder; put the images there" in output
        assert "Traceback" not in output
        [mend] = re.findall(r"or run `(.*?)` to go on without it", output)
        assert mend == "dvc repro --allow-missing"
        output = reproduced.run("sh", "-c", mend)
        assert re.findall("Running stage '(.*)'", output) == ["watch"]
        assert "set download.path" in reproduced.run("cryobase", "watch", check=False)
    finally:
        images.with_name("away").rename(images)
    assert reproduced.repro() == set()


def test_sections_that_are_missing_mean_the_same_to_dvc(reproduced):
    params = json.loads(json.dumps(SMALL))
    params["download"] = {"source": "folder", "path": str(reproduced.root / "images")}
    del params["finetune"]
    (reproduced.root / "params.yaml").write_text(json.dumps(params))
    assert reproduced.repro() == set()
    reproduced.run("cryobase", "report")


def test_symbolic_links_of_dvc_are_named_with_a_mend_that_mends(reproduced):
    reproduced.run("dvc", "config", "--local", "cache.type", "symlink")
    reproduced.run("dvc", "checkout", "--relink")
    output = reproduced.run("cryobase", "split", check=False)
    [mend] = re.findall(r"to have it put the files themselves, run `(.*)`", output)
    reproduced.run("sh", "-c", mend)
    reproduced.run("cryobase", "split")
    assert not [path for path in (reproduced.root / "data").rglob("*") if path.is_symlink()]


def test_what_dvc_has_comes_back_by_the_command_that_is_named(reproduced, tmp_path):
    """A colleague's clone: no cache, no outputs, images that Git knows by their .dvc file alone."""
    photos = write_folder(reproduced.root / "my photos", 3)
    reproduced.run("dvc", "remote", "add", "--local", "--default", "there", str(tmp_path))
    reproduced.run("dvc", "add", "my photos")
    reproduced.run("dvc", "push")
    shutil.rmtree(reproduced.root / ".dvc/cache")
    shutil.rmtree(photos)
    shutil.rmtree(reproduced.root / "features/small")
    said = reproduced.run("cryobase", "train", check=False)
    _, mend = re.findall("`(.*?)`", said)
    reproduced.run("sh", "-c", mend)
    reproduced.run("cryobase", "train")
    shutil.rmtree(photos)
    before = (reproduced.root / "params.yaml").read_text()
    reproduced.params(download={"source": "folder", "path": "my photos"})
    [mend] = re.findall("`(.*?)`", reproduced.run("cryobase", "watch", check=False))
    assert mend.startswith("dvc pull ")
    reproduced.run("sh", "-c", mend)
    reproduced.run("cryobase", "watch")
    (reproduced.root / "params.yaml").write_text(before)


def test_before_the_first_run_heads_name_the_command_that_runs_all(reproduced):
    for name in ("features/small", "models/small", "results/small"):
        shutil.rmtree(reproduced.root / name)
    for command in ("best", "ls", "plan small", "export small", "evidence small"):
        told = reproduced.run("cryobase", "heads", *command.split(), check=False)
        assert re.findall("`(.*?)`", told) == ["dvc repro"]
    reproduced.run("dvc", "repro")
    assert "accuracy" in reproduced.run("cryobase", "heads", "best")


def test_without_results_predict_names_a_command_that_makes_them(reproduced):
    image = str(reproduced.root / "images/red/0001.png")
    shutil.rmtree(reproduced.root / "results")
    [mend] = re.findall("`(.*?)`", reproduced.run("cryobase", "predict", image, check=False))
    reproduced.run("sh", "-c", mend)
    assert "red" in reproduced.run("cryobase", "predict", image)

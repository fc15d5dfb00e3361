"""`cryobase init` with the wheel alone: from a folder of photographs to a report."""

import csv
from pathlib import Path

import pytest

from tests.e2e.conftest import SMALL, Installed, other_extractor
from tests.images import write_folder

pytestmark = pytest.mark.e2e

CLASSES = ("blue", "green grass", "red")
THEIRS = {
    "dvc.yaml": "stages:\n  theirs:\n    cmd: exit 1\n    outs: [model.bin]\n",
    "params.yaml": "learning_rate: 1\n",
    "store.py": "raise RuntimeError('not of Cryobase')\n",
    "stages/__init__.py": "raise RuntimeError('not of Cryobase')\n",
    "tests/__init__.py": "raise RuntimeError('not of Cryobase')\n",
    "data/table.csv": "a,b\n1,2\n",
    ".gitignore": "models/\n*.log\n",
}


def photographs(root: Path) -> Path:
    """A folder as people have them: with what a system, a camera and a website leave there."""
    write_folder(root, 8, classes=CLASSES)
    (root / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (root / "LICENSE.txt").write_text("Free for all.\n")
    (root / "red" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (root / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (root / "red" / "0000.png").rename(root / "red" / "the first one.png")
    (root / ".thumbnails" / "normal").mkdir(parents=True)
    (root / ".thumbnails" / "normal" / "0000.png").write_bytes(b"\x89PNG")
    return root


def paths(table: Path) -> set[str]:
    """The first column of a table of data/raw."""
    with table.open(newline="", encoding="utf-8") as lines:
        return {row[0] for row in csv.reader(lines)}


def test_two_commands_make_a_report_of_a_folder_with_a_mess_in_it(prefix, tmp_path):
    """Neither Git nor DVC have been here, and the base is the one that `init` proposes."""
    project = Installed(tmp_path, prefix)
    photographs(tmp_path / "photos")
    output = project.run("sh", "-c", "cryobase init --images photos && dvc repro")
    assert "25 images of 3 classes: red 9, blue 8, green grass 8" in output
    assert "dvc init --no-scm" in output
    assert project.json("results/lite0-96/score.json")["best"]
    assert (tmp_path / "report" / "index.html").is_file()
    assert "red/broken.jpg" in paths(tmp_path / "data" / "raw" / "quarantined.csv")
    left_out = paths(tmp_path / "data" / "raw" / "left_out.csv")
    assert {"LICENSE.txt", "Thumbs.db", "red/.DS_Store", ".thumbnails/"} <= left_out
    assert "Running stage" not in project.dvc("repro").replace("Running stage 'watch'", "")


def test_somebody_elses_repository_gets_a_folder_and_keeps_all_that_is_its_own(prefix, tmp_path):
    theirs = Installed(tmp_path, prefix)
    for name, text in THEIRS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    theirs.git()
    theirs.dvc("init", "-q")
    theirs.commit()
    photographs(tmp_path / "photos")
    (tmp_path / ".git" / "info" / "exclude").write_text("photos/\n")
    refusal = theirs.run("sh", "-c", "cryobase init --images photos; echo exit $?")
    assert "exit 2" in refusal
    theirs.run("sh", "-c", refusal.split("`")[1])
    ours = Installed(tmp_path / "cryobase", prefix)
    ours.params(**SMALL)
    theirs.run("sh", "-c", "cd cryobase && dvc repro")
    assert ours.json("results/small/score.json")["best"]
    changed = theirs.run("git", "status", "--porcelain", "--untracked-files=all").split("\n")
    assert {line[3:] for line in changed if line[:2] == " M"} == {".gitignore", ".dvcignore"}
    added = {line[3:].removeprefix("cryobase/") for line in changed if line[:2] == "??"}
    assert added >= {"dvc.yaml", "dvc.lock", "params.yaml", "models/none/none/README"}
    assert not [name for name in added if name.startswith(("data/", ".cryobase/", "results/"))]
    assert {name: (tmp_path / name).read_text() for name in THEIRS if name != ".gitignore"} == {
        name: text for name, text in THEIRS.items() if name != ".gitignore"
    }
    assert (tmp_path / ".gitignore").read_text().startswith(THEIRS[".gitignore"])


def test_a_sub_folder_of_a_monorepo_has_its_own_dvc_and_notices_an_upgrade(prefix, tmp_path):
    mono = Installed(tmp_path, prefix)
    mono.git()
    photographs(tmp_path / "team" / "photos")
    output = mono.run("cryobase", "init", "team/vision", "--images", "team/photos")
    vision = Installed(tmp_path / "team" / "vision", prefix)
    vision.params(**SMALL)
    mono.run("sh", "-c", output.splitlines()[-1].removeprefix("next: "))
    assert vision.dvc("root").strip() == "."
    assert vision.json("results/small/score.json")["best"]
    vision.run("cryobase", "extract")  # by hand it finds what DVC's stage has computed
    assert not (tmp_path / ".cryobase").exists()
    assert "extract@small" not in vision.repro()
    with other_extractor(vision):
        assert "extract@small" in vision.repro("extract@small")
        vision.run("cryobase", "init", "--upgrade")
    assert {path.name for path in tmp_path.iterdir()} == {".git", "team"}

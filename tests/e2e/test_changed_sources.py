"""`dvc repro` notices what changed at a source, and a mere rename computes no row."""

import hashlib

import pytest

from tests.e2e.conftest import SMALL, Project, clone
from tests.images import write_folder
from tests.unit.stages.sources.test_unpack import tar_of

pytestmark = pytest.mark.e2e

HEADS = {"heads": {"linear": {"kind": "linear", "epochs": 2}}}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    made = clone(tmp_path_factory.mktemp("project"))
    made.params(**{**SMALL, "train": HEADS})
    (made.root / ".git" / "info" / "exclude").write_text("images/\n*.tgz\n")
    return made


def features(project: Project) -> set[str]:
    """`dvc repro` up to the features; the stages that ran."""
    return project.repro("extract@small")


@pytest.mark.parametrize("in_place", [False, True])
def test_a_changed_folder_is_noticed_and_a_rename_computes_no_row(project, in_place):
    images = project.root / "images" / str(in_place)
    first = 100 * in_place  # other pictures, or the pool would have their rows
    write_folder(images, 8, first=first)
    project.params(download={"source": "folder", "path": str(images), "in_place": in_place})
    assert "download" in features(project)
    write_folder(images, 3, first=first + 8, classes=("blue",))
    assert "3 rows computed, 24 reused" in project.run("dvc", "repro", "extract@small")
    (images / "blue" / f"{first:04}.png").rename(images / "green" / "renamed.png")
    output = project.run("dvc", "repro", "extract@small")
    assert "Running stage 'download'" in output
    assert "0 rows computed, 27 reused" in output


def test_a_changed_archive_is_noticed(project):
    images = project.root / "images" / "archived"
    path = project.root / "images.tgz"
    for number in (8, 10):
        write_folder(images, number)
        files = sorted(images.glob("*/*"))
        data = tar_of([(str(f.relative_to(project.root)), f.read_bytes()) for f in files])
        path.write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        project.params(download={"source": "archive", "path": str(path), "sha256": sha256})
        assert "download" in features(project)
    path.write_bytes(data[:-1])
    output = project.run("dvc", "repro", "extract@small", check=False)
    assert "Running stage 'download'" in output
    assert "download.sha256 says" in output

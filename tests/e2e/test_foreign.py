"""Features of another program in a DVC pipeline: heads, scores and report follow the import."""

import csv
import shutil

import numpy as np
import pytest

from cryobase.stages.data.raw import RawImages
from tests.e2e.conftest import Project
from tests.images import write_folder

pytestmark = pytest.mark.e2e

ORIGIN = "dinov2-small@3f2a91c"
HEADS = {"ridge": {"kind": "ridge", "penalty": 10.0}}  # trained without TensorFlow
STAGES = {"train_foreign@dino", "evaluate_foreign@dino", "report"}


def imported(project: Project, seed: int) -> None:
    """Import vectors of the project's images, in place of those that were there."""
    images = RawImages.open(project.root / "data" / "raw").examples
    rows = np.random.default_rng(seed).normal(size=(len(images), 16)).astype(np.float32)
    ids = np.array([bytes(name).decode() for name in images.ids])
    np.savez(project.root / "vectors.npz", features=rows, ids=ids)
    shutil.rmtree(project.root / "features" / "dino", ignore_errors=True)
    project.run(
        "cryobase", "store", "import", "vectors.npz", "dino", "--foreign", ORIGIN, "--images"
    )


def test_heads_of_foreign_features_are_stages_that_follow_the_import(project):
    write_folder(project.root / "images", 20)
    project.params(extract={"sets": {}}, train={"heads": HEADS, "foreign": {"dino": ORIGIN}})
    project.repro("split")
    imported(project, 0)
    assert project.repro() == STAGES
    with (project.root / "report" / "heads.csv").open() as file:
        assert {row["set"] for row in csv.DictReader(file)} == {"dino"}
    imported(project, 0)
    assert project.repro() == set(), "equal features are an equal set"
    imported(project, 1)
    assert project.repro() == STAGES

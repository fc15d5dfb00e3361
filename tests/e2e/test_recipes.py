"""Params files that ship with Cryobase are ones that DVC takes."""

import pytest

from cryobase.pipeline import recipes
from tests.e2e.conftest import Project, clone

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Project:
    return clone(tmp_path_factory.mktemp("bare"))


def test_the_default_params_bring_in_the_sample(bare):
    assert bare.repro("split") == {"download", "split"}
    assert bare.repro("split") == set()


@pytest.mark.parametrize("name", recipes.names())
def test_dvc_makes_a_stage_of_every_run(bare, name):
    recipe = recipes.read(name)
    (bare.root / "params.yaml").write_text(recipe.text, encoding="utf-8")
    stages = set(bare.run("dvc", "stage", "list", "--name-only").split())
    params = recipe.params()
    expected = {"watch", "download", "split", "report"}
    for key in params.extract.sets:
        expected |= {f"{stage}@{key}" for stage in ("extract", "train", "evaluate")}
    assert stages == expected | {f"finetune@{run}" for run in params.finetune.runs}

"""Every recipe runs from images to a tuned model, at its real sizes.

One has its real base, others a small one; all have their own where all tests run.
"""

import json

import pytest

from cryobase.pipeline import recipes
from cryobase.pipeline.params import load
from cryobase.stages import download, evaluate, extract, finetune, split, train
from tests.bases import thin_bases  # noqa: F401 - a fixture
from tests.memory import give_back
from tests.scale import RUN_ALL

EPOCHS = recipes.SMOKE_EPOCHS if RUN_ALL else 1
VARIANTS = 9 if RUN_ALL else 1  # runs of a recipe that differ in rates and layers alone
WHOLE = set(recipes.names()) if RUN_ALL else {"vgg16-dogs-vs-cats-finetune"}
COUNTS = recipes.SMOKE_COUNTS if RUN_ALL else {"train": 2, "validation": 1, "test": 1}


@pytest.fixture(autouse=True)
def _one_base_at_a_time():
    yield
    give_back()


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_runs(name, tmp_path, monkeypatch, request):
    if name not in WHOLE:
        request.getfixturevalue("thin_bases")
    monkeypatch.setattr(recipes, "SMOKE_COUNTS", COUNTS)
    if name.startswith("keras-book-xception") and not name.endswith("applications"):
        pytest.importorskip("keras_hub", reason="the extra keras-hub is not installed")
    recipe = recipes.read(name)
    recipes.generate_images(tmp_path / "images", recipe.classes)
    (tmp_path / "params.yaml").write_text(recipe.smoke(str(tmp_path / "images"), EPOCHS))
    params = load(tmp_path / "params.yaml")
    raw, splits = tmp_path / "raw", tmp_path / "splits"
    download.run(params.download, output=raw)
    split.run(params.split, raw=raw, output=splits)
    for key in params.extract.sets:
        scores = features_and_heads(params, key, tmp_path)
        assert set(scores) == set(params.train.heads)
    for key in list(params.finetune.runs)[-VARIANTS:]:
        run = params.finetune.runs[key]
        found = tuned(run, key, tmp_path)
        assert found["epochs"] == EPOCHS * len(run.phases)
        parts = {"validation", "test"} if run.final else {"validation"}
        assert set(found["start"]) == set(found["tuned"]) == parts


def features_and_heads(params, key, root):
    features, models = root / "features" / key, root / "models" / key
    extract.run(params.extract, key, raw=root / "raw", pool=root / "pool", output=features)
    train.run(
        params.train,
        key,
        features=features,
        splits=root / "splits",
        cache=root / "heads",
        output=models,
    )
    document = evaluate.run(
        params.evaluate,
        key,
        features=features,
        splits=root / "splits",
        models=models,
        output=root / "results" / key,
    )
    return document["heads"]


def tuned(run, key, root):
    results = root / "results/tuned" / key
    finetune.run(
        run, raw=root / "raw", splits=root / "splits", output=root / "tuned" / key, results=results
    )
    assert {path.name for path in results.glob("*.svg")} == {
        "curves.svg", "mistakes.svg", "predictions.svg", "views.svg"
    }  # fmt: skip
    asked = {"imagenet.csv": run.imagenet_labels > 0, "tensorboard": run.tensorboard}
    for name, wanted in asked.items():
        assert (root / "tuned" / key / name).exists() == wanted
    return json.loads((results / "metrics.json").read_text())

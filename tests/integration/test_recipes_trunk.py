"""Fine-tuning on stored outputs of the frozen trunk is the same training, without the trunk."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from cryobase.pipeline import cli, recipes
from cryobase.stages import finetune
from cryobase.stages.data.augment import Augmentation
from cryobase.stages.data.splits import Splits
from cryobase.stages.extract import SetConfig
from cryobase.stages.finetune import FinetuneRun, PhaseConfig
from cryobase.stages.tuning import course, outcome
from cryobase.stages.tuning.config import NewHead
from cryobase.stages.tuning.saved import TunedModel
from tests.bases import SHARE, thin_bases  # noqa: F401 - a fixture
from tests.closeness import BETWEEN_ENGINES, assert_close, rounding
from tests.unit.stages.tuning.tuning_data import prepare

BASE = SetConfig(backbone="vgg16", weights="none", image_size=32, output="flatten")
pytestmark = pytest.mark.usefixtures("thin_bases")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("trunk"), per_class=12)


def tuned(root, name, **options):
    """Training and validation losses by epoch, and the weights in the end."""
    run = FinetuneRun(
        start="fresh",
        base=BASE,
        new_head=NewHead(units=16),
        unfreeze={"from": "block5_conv1"},
        learning_rate=1e-4,
        epochs=3,
        keep="last",
        batch_size=8,
        **options,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome, "_draw", lambda *_, **__: None)  # nobody looks at pictures here
        finetune.run(
            run,
            raw=root / "raw",
            splits=root / "splits",
            output=root / "tuned" / name,
            results=root / "results" / name,
            pool=root / "pool",
        )
    table = (root / "results" / name / "history.csv").read_text().splitlines()
    rows = list(csv.DictReader(table))
    found = [float(row[key]) for row in rows for key in ("loss", "val_loss") if row[key]]
    return np.array(found), TunedModel.load(root / "tuned" / name).model.get_weights()


def test_a_stored_trunk_gives_the_same_trajectory(root):
    whole, _ = tuned(root, "whole")
    stored, weights = tuned(root, "stored", trunk="block4_pool", trunk_dtype="float32")
    assert_close(stored, whole, within=BETWEEN_ENGINES)  # the rows might come from any engine
    chosen, same = tuned(root, "auto", trunk="auto", trunk_dtype="float32")
    assert_close(chosen, whole, within=BETWEEN_ENGINES)
    for found, expected in zip(same, weights, strict=True):
        assert np.array_equal(found, expected)  # `auto` takes the same place
    told = json.loads((root / "results/stored/metrics.json").read_text())["trunk"]["phase_1"]
    assert (told["layer"], told["dtype"]) == ("block4_pool", "float32")
    assert told["bytes"] == 36 * 8192 // SHARE
    assert told["logits_differ_by"] < 1e-3
    assert "trunk" not in json.loads((root / "results/whole/metrics.json").read_text())
    assert len(list((root / "pool").glob("*/*.h5"))) >= 1


def test_what_half_precision_changes_is_reported(root):
    tuned(root, "half", trunk="block4_pool", trunk_dtype="float16")
    told = json.loads((root / "results/half/metrics.json").read_text())["trunk"]["phase_1"]
    assert 0 < told["logits_differ_by"] < 0.05


def test_rows_are_float32_also_where_training_is_not(root, monkeypatch):
    import keras

    seen = []
    original = course.store_trunk

    def watched(*arguments, **options):
        seen.append(keras.config.dtype_policy().name)
        return original(*arguments, **options)

    monkeypatch.setattr(course, "store_trunk", watched)
    tuned(root, "mixed", trunk="block4_pool", precision="mixed_bfloat16")
    assert seen == ["float32"]


def test_a_plan_says_what_each_place_costs(root):
    run = FinetuneRun(
        start="fresh",
        base=BASE,
        unfreeze={"from": "block5_conv1"},
        then=(PhaseConfig(unfreeze={"from": "block3_conv1"}),),
    )
    rows = finetune.plan(run, raw=root / "raw", splits=root / "splits")
    last = {row["phase"]: row for row in rows}
    assert (last[1]["layer"], last[2]["layer"]) == ("block4_pool", "block2_pool")
    assert last[1]["bytes"] == 36 * 2 * 2 * 512 * 2 // SHARE  # images, map, float16
    assert last[1]["speedup"] > last[2]["speedup"] > 1
    train = len(Splits.open(root / "splits").ids("train"))
    assert [row["taken"] for row in rows].count("yes") == 2
    assert last[1]["taken"] == last[2]["taken"] == "yes"
    small = dataclasses.replace(run, trunk_gigabytes=1e-9)
    rows = finetune.plan(small, raw=root / "raw", splits=root / "splits")
    assert not any(row["taken"] for row in rows)
    assert last[1]["break_even"] == pytest.approx(36 / train, abs=0.2)  # all images get rows


def test_stored_views_stand_in_for_live_augmentation(root):
    policy = Augmentation(rotation=30, horizontal_flip=True)
    views, _ = tuned(root, "views", trunk="block4_pool", augmentation=policy, views=2)
    plain, _ = tuned(root, "plain", trunk="block4_pool")
    first = abs(views[0] - plain[0])
    assert first <= rounding(36) * plain[0]  # a mean over images; what judges is never augmented
    assert abs(views[1] - plain[1]) > 10 * first


def test_the_command_line_shows_the_plan(tmp_path, monkeypatch):
    recipe = recipes.read("vgg16-dogs-vs-cats-finetune")
    (tmp_path / "params.yaml").write_text(recipe.smoke("images"))
    prepare(tmp_path / "data", per_class=12, classes=("cat", "dog"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, ["finetune", "--plan"])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["run", "phase", "layer", "bytes", "speedup", "break_even", "taken"]
    # 150 pixels halved four times, an eighth of 512 channels of float16, of every image
    (cut,) = [line for line in lines if line[1:3] == ["2", "block4_pool"]]
    assert cut[3] == f"{24 * 9 * 9 * 512 * 2 // SHARE:,}"
    assert ["2", "block5_conv1"] not in [line[1:3] for line in lines]

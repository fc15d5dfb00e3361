"""Fine-tuning on stored outputs of the frozen trunk is the same training, without the trunk."""

import csv

import numpy as np
import pytest

from stages import finetune
from stages.data.augment import Augmentation
from stages.extract import SetConfig
from stages.finetune import FinetuneRun
from stages.heads.starts import NewHead
from stages.heads.tuned import TunedModel
from tests.unit.stages.heads.tuning_data import prepare

BASE = SetConfig(backbone="vgg16", weights="none", image_size=32, output="flatten")


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
    assert stored == pytest.approx(whole, abs=1e-3)
    chosen, same = tuned(root, "auto", trunk="auto", trunk_dtype="float32")
    assert chosen == pytest.approx(whole, abs=1e-3)
    assert len(weights) == len(same)
    assert len(list((root / "pool").glob("*/*.h5"))) >= 1


def test_stored_views_stand_in_for_live_augmentation(root):
    policy = Augmentation(rotation=30, horizontal_flip=True)
    views, _ = tuned(root, "views", trunk="block4_pool", augmentation=policy, views=2)
    plain, _ = tuned(root, "plain", trunk="block4_pool")
    assert views[0] == pytest.approx(plain[0], abs=1e-6)  # what judges is never augmented
    assert views[1] != pytest.approx(plain[1], abs=1e-6)

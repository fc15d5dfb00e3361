"""The ladder climbs all its rungs and says what each bought."""

import csv
import json

import numpy as np
import pytest

from stages import ladder
from stages.data.raw import RawImages
from stages.data.splits import Splits
from stages.extract import SetConfig
from stages.ladder import LadderConfig
from stages.tuning import convnets
from tests.unit.stages.tuning.tuning_data import TINY, prepare


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("ladder"), per_class=16)


def test_every_rung_is_climbed(root, tmp_path, monkeypatch):
    monkeypatch.setitem(convnets.CONVNETS, "tiny", TINY)
    config = LadderConfig(
        base=SetConfig(backbone="mobilenetv2", weights="none", image_size=32),
        network="tiny",
        views=1,
        head_epochs=3,
        scratch_epochs=2,
        tuning_epochs=1,
        train=12,
    )
    rungs = ladder.run(
        config,
        raw=root / "raw",
        splits=root / "splits",
        work=tmp_path / "work",
        output=tmp_path / "ladder",
    )
    assert [rung.rung for rung in rungs] == list(ladder.RUNGS)
    frozen = rungs[2].seconds
    for rung in rungs[:2]:
        assert rung.seconds >= frozen - 0.01
        assert 0 <= rung.at_frozen_seconds <= rung.accuracy
    best = 0.0
    for number, rung in enumerate(rungs):
        assert rung.bought == pytest.approx(rung.accuracy - best if number else 0.0, abs=1e-6)
        best = max(best, rung.accuracy)
    table = list(csv.DictReader((tmp_path / "ladder/ladder.csv").read_text().splitlines()))
    assert [row["rung"] for row in table] == list(ladder.RUNGS)
    assert len(json.loads((tmp_path / "ladder/ladder.json").read_text())) == len(ladder.RUNGS)
    assert (tmp_path / "ladder/ladder.svg").exists()
    used = RawImages.open(tmp_path / "work/raw")
    assert len(used) == 12 + len(Splits.open(root / "splits").ids("validation"))


def test_a_subset_takes_as_many_of_each_class(root):
    images, splits = RawImages.open(root / "raw"), Splits.open(root / "splits")
    subset = ladder._subset(images, splits, 9)
    labels = images.examples.labels[images.examples.positions(subset.ids("train"))]
    assert np.bincount(labels).tolist() == [3, 3, 3]
    assert np.array_equal(subset.ids("validation"), splits.ids("validation"))
    assert len(subset.ids("test")) == 0

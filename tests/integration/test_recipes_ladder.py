"""The ladder climbs all its rungs and says what each bought."""

import csv
import json

import numpy as np
import pytest

from cryobase.stages import ladder
from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import Splits
from cryobase.stages.extract import SetConfig
from cryobase.stages.ladder import LadderConfig
from cryobase.stages.tuning import convnets
from cryobase.stages.tuning.config import Network, NewHead
from cryobase.stages.tuning.phase import Phase
from tests.bases import tiny_base  # noqa: F401 - a fixture
from tests.unit.stages.tuning.tuning_data import TINY, prepare


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("ladder"), per_class=16)


def test_every_rung_is_climbed(root, tmp_path, monkeypatch):
    monkeypatch.setitem(convnets.CONVNETS, "tiny", TINY)
    config = LadderConfig(
        base=SetConfig(backbone="tiny", weights="none", image_size=32),
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


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def passing(self, seconds, answer=None):
        """A function that takes so long."""

        def called(*_, **__):
            self.now += seconds
            return answer

        return called


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(ladder, "time", clock)
    return clock


def climb(root, work):
    base = SetConfig(backbone="mobilenetv2", weights="none", image_size=32)
    return ladder._Climb(LadderConfig(base=base, network="tiny"), root / "raw", work)


def test_the_frozen_rung_is_charged_for_its_extraction(root, tmp_path, monkeypatch, clock):
    document = {"heads": {ladder.HEAD: {"validation": {"accuracy": 0.75}}}}
    monkeypatch.setattr(ladder.extract, "run", clock.passing(100))
    monkeypatch.setattr(ladder.train, "run", clock.passing(7))
    monkeypatch.setattr(ladder.evaluate, "run", clock.passing(1000, document))
    rung = climb(root, tmp_path).head_on(0)
    assert (rung.seconds, rung.accuracy) == (107, 0.75)


@pytest.mark.parametrize(("seconds", "epochs", "expected"), [(45, 2, 5), (5, 2, 2)])
def test_a_network_from_nothing_gets_the_seconds_of_the_frozen_rung(
    root, tmp_path, monkeypatch, clock, seconds, epochs, expected
):
    """Ten seconds an epoch: it goes on until it has had as many, and never stops before."""
    monkeypatch.setitem(convnets.CONVNETS, "tiny", TINY)
    epoch = Phase.epoch

    def slow(self, number):
        clock.now += 10
        return epoch(self, number)

    monkeypatch.setattr(Phase, "epoch", slow)
    found = ladder.from_nothing(
        Network(kind="tiny"),
        NewHead(),
        raw=root / "raw",
        splits=root / "splits",
        augmentation=None,
        epochs=epochs,
        seconds=seconds,
        seed=0,
    )
    assert [second for second, _ in found] == [10 * k for k in range(expected + 1)]


def test_equal_seconds_count_no_epoch_that_ended_later(root, tmp_path, monkeypatch):
    seen = [(1.0, 0.25), (20.0, 0.75), (31.0, 0.875)]
    monkeypatch.setattr(ladder, "from_nothing", lambda *_, **__: seen)
    monkeypatch.setitem(convnets.CONVNETS, "tiny", TINY)
    rung = climb(root, tmp_path).scratch(None, 30.0)
    assert (rung.at_frozen_seconds, rung.accuracy, rung.seconds) == (0.75, 0.875, 31.0)
    assert climb(root, tmp_path).scratch(None, 0.5).at_frozen_seconds == 0


def test_a_subset_takes_as_many_of_each_class(root):
    images, splits = RawImages.open(root / "raw"), Splits.open(root / "splits")
    subset = ladder._subset(images, splits, 9)
    labels = images.examples.labels[images.examples.positions(subset.ids("train"))]
    assert np.bincount(labels).tolist() == [3, 3, 3]
    assert np.array_equal(subset.ids("validation"), splits.ids("validation"))
    assert len(subset.ids("test")) == 0

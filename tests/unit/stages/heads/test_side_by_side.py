import dataclasses

import numpy as np
import pytest

from cryobase.stages import evaluate, train
from cryobase.stages.data.splits import Splits
from cryobase.stages.errors import DataError
from cryobase.stages.evaluate import EvaluateConfig
from cryobase.stages.heads.config import HeadConfig
from cryobase.stages.heads.graft import graft_onto
from cryobase.stages.heads.head import Head
from cryobase.stages.heads.side_by_side import SideBySide
from cryobase.stages.train import TrainConfig
from tests.unit.stages.heads.sets import SPEC, blobs, publish, split
from tests.unit.stages.heads.test_head import make_head

CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two sets of the same images; each tells other classes apart, both together all of them."""
    roots = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    _, labels = blobs(300, 6, 3)
    random = np.random.default_rng(0)
    noise = random.normal(size=(300, 6)).astype("f4")
    one = publish(roots[0], noise + 6 * (labels == 0)[:, None], labels, classes=CLASSES)
    wide = noise[:, :4].reshape(300, 2, 2) + 6 * (labels == 1)[:, None, None]
    publish(roots[1], wide.astype("f4"), labels, classes=CLASSES)
    split(roots[0], one)
    return roots


def test_features_stand_side_by_side_in_the_order_of_the_sets(two):
    both = SideBySide.open([root / "features" for root in two])
    parts = [SideBySide.open(root / "features") for root in two]
    ids = both.examples.ids[[5, 2, 7]]
    features, labels = both.arrays(ids)
    assert np.array_equal(features, np.hstack([part.arrays(ids)[0] for part in parts]))
    assert np.array_equal(labels, both.examples.labels[[5, 2, 7]])
    assert both.shapes == ((6,), (2, 2))
    assert both.feature_shape == (10,)
    assert len({both.digest, parts[0].digest, parts[1].digest}) == 3
    assert len(both) == 300


def test_a_head_on_both_sets_knows_more_than_one_on_either(two, tmp_path):
    accuracies = {}
    for name, chosen in {"one": two[:1], "two": two[1:], "both": two}.items():
        features = [root / "features" for root in chosen]
        arguments = {"features": features, "splits": two[0] / "splits"}
        models = tmp_path / name / "models"
        train.run(
            TrainConfig(heads={"ridge": HeadConfig(kind="ridge")}),
            name,
            cache=tmp_path / "cache",
            output=models,
            **arguments,
        )
        document = evaluate.run(
            EvaluateConfig(), name, models=models, output=tmp_path / name / "results", **arguments
        )
        accuracies[name] = document["heads"]["ridge"]["test"]["accuracy"]
    assert accuracies["both"] > 0.95
    assert max(accuracies["one"], accuracies["two"]) < 0.85
    head = Head.load(tmp_path / "both" / "models" / "ridge")
    assert len(head.specs) == 2
    with pytest.raises(DataError, match="2 feature sets side by side"):
        _ = head.spec


def test_sets_of_other_images_are_refused(two, tmp_path):
    publish(tmp_path, *blobs(299, 6, 3), classes=CLASSES)
    with pytest.raises(DataError, match="other images or labels"):
        SideBySide.open([two[0] / "features", tmp_path / "features"])


def test_what_one_set_lacks_takes_no_part(two, tmp_path):
    """An image that one backbone has no feature of is in neither split, training nor scores."""
    _, labels = blobs(300, 6, 3)
    features = np.zeros((300, 6), "f4")
    lacking = publish(tmp_path, features, labels, classes=CLASSES, quarantined=[7, 8])
    both = SideBySide.open([two[0] / "features", tmp_path / "features"])
    assert len(both) == len(lacking) == 298
    assert both.arrays()[0].shape == (298, 12)
    splits = Splits.open(two[0] / "splits")
    task = train.task_of(both, splits)
    taking_part = len(task.train) + len(task.validation) + len(both.having(splits.ids("test")))
    assert taking_part == 298
    assert not {7, 8} & {*task.train.tolist(), *task.validation.tolist()}


def test_a_head_on_an_image_in_quarantine_is_scored_on_the_others(tmp_path):
    rows = publish(tmp_path, *blobs(300, 6, 3), classes=CLASSES, quarantined=range(0, 300, 10))
    split(tmp_path, rows, ids=rows.examples.ids)
    arguments = {"features": tmp_path / "features", "splits": tmp_path / "splits"}
    train.run(
        TrainConfig(heads={"ridge": HeadConfig(kind="ridge")}),
        "set",
        cache=tmp_path / "cache",
        output=tmp_path / "models",
        **arguments,
    )
    document = evaluate.run(
        EvaluateConfig(),
        "set",
        models=tmp_path / "models",
        output=tmp_path / "results",
        **arguments,
    )
    assert document["heads"]["ridge"]["test"]["accuracy"] > 0.8
    predictions = (tmp_path / "results/heads/ridge/predictions.csv").read_text()
    assert "image-00011" in predictions or "image-00012" in predictions
    assert "image-00010" not in predictions


def test_a_pair_that_sees_images_in_two_ways_has_no_model():
    first, second = (dataclasses.replace(SPEC, image_size=size) for size in (32, 64))
    head = make_head(kind="linear", shape=(12,))
    head = dataclasses.replace(head, specs=(first, second), shapes=((6,), (6,)))
    with pytest.raises(DataError, match=r"image_size=32.*image_size=64.*extract both"):
        graft_onto(head, "none")

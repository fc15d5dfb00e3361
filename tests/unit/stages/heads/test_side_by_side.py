import numpy as np
import pytest

from stages import evaluate, train
from stages.errors import DataError
from stages.evaluate import EvaluateConfig
from stages.heads.config import HeadConfig
from stages.heads.head import Head
from stages.heads.side_by_side import SideBySide
from stages.train import TrainConfig
from tests.unit.stages.heads.sets import blobs, publish, split

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

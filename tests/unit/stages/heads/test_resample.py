import numpy as np
import pytest

from cryobase.stages.heads.config import HeadConfig, expand
from cryobase.stages.heads.resample import cross_validate, folds, learning_curve, refit
from cryobase.stages.heads.rows import ArrayRows
from tests.unit.stages.heads.sets import blobs
from tests.unit.stages.heads.test_leaks import digests_of

CLASSES = ("a", "b", "c")
HEADS = expand(
    {
        "linear": HeadConfig(learning_rate=0.01, epochs=8),
        "ridge": HeadConfig(kind="ridge"),
    }
)


@pytest.fixture(scope="module")
def rows():
    features, labels = blobs(400, 12, 3)
    return ArrayRows(features, labels=labels, classes=CLASSES)


def test_folds_spread_the_classes_evenly_and_keep_equal_images_together():
    labels = np.repeat([0, 1, 2], [300, 150, 53]).astype(np.int32)
    digests = digests_of(503)
    digests[10:20] = digests[100:110]
    fold = folds(labels, digests, 5)
    for label in range(3):
        counts = np.bincount(fold[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 10 * (label == 0) + 1
    assert np.array_equal(fold[10:20], fold[100:110])
    assert not np.array_equal(fold, folds(labels, digests, 5, seed=1))


def test_every_row_is_answered_for_by_heads_that_never_saw_it(rows):
    """With random labels a head that saw a row knows it; one that did not can only guess."""
    labels = np.random.default_rng(0).integers(3, size=400).astype(np.int32)
    memorable = ArrayRows(
        np.random.default_rng(1).normal(size=(400, 300)).astype("f4"),
        labels=labels,
        classes=CLASSES,
    )
    fold = folds(labels, digests_of(400), 5)
    heads = expand({"ridge": HeadConfig(kind="ridge", penalty=1e-3)})
    found = cross_validate(memorable, np.arange(400), fold, heads)
    assert found.accuracies("ridge").mean() < 0.45
    trained = refit(memorable, np.arange(400), heads)["ridge"]
    x = (memorable.take(np.arange(400)) - trained.mean) / trained.scale
    assert ((x @ trained.layers[0][0] + trained.layers[0][1]).argmax(1) == labels).mean() > 0.9


def test_out_of_fold_answers_are_good_where_there_is_something_to_learn(rows):
    fold = folds(rows.labels, digests_of(400), 4)
    found = cross_validate(rows, np.arange(400), fold, HEADS)
    for name in HEADS:
        assert len(found.accuracies(name)) == 4
        assert found.accuracies(name).mean() > 0.75
        assert found.probabilities[name].sum(1) == pytest.approx(1)


def test_refitting_takes_the_epochs_that_were_best(rows):
    trained = refit(rows, np.arange(300), HEADS)["linear"]
    assert 1 <= len(trained.history) <= 8
    assert np.isnan(trained.history.curves["val_loss"]).all()


def test_the_learning_curve_rises_with_the_data(rows):
    curve = list(
        learning_curve(rows, np.arange(300), np.arange(300, 400), HEADS["ridge"], (0.02, 0.3, 1))
    )
    assert [count for count, _ in curve] == [6, 90, 300]
    assert curve[0][1] < curve[-1][1]


def test_one_sigmoid_unit_is_resampled_too():
    features, labels = blobs(200, 8, 2)
    rows = ArrayRows(features, labels=labels, classes=("a", "b"))
    heads = expand({"s": HeadConfig(output="sigmoid", learning_rate=0.05, epochs=10)})
    found = cross_validate(rows, np.arange(200), folds(labels, digests_of(200), 2), heads)
    assert found.accuracies("s").mean() > 0.9

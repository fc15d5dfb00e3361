import numpy as np
import pytest

from cryobase.stages.heads.metrics import (
    Predictions,
    calibration_error,
    class_table,
    confusion,
    reliability,
    scores,
    wilson_interval,
)

CLASSES = ("a", "b", "c")
PREDICTIONS = Predictions(
    ids=np.array([b"1", b"2", b"3", b"4"]),
    labels=np.array([0, 0, 1, 1], np.int32),
    probabilities=np.array([[0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6]]),
    classes=CLASSES,
)


def test_scores_by_hand():
    found = scores(PREDICTIONS, 2)
    assert found["accuracy"] == 0.5
    assert found["top_2"] == 0.75
    # F1: a 2/3, b 1/2, c 0
    # six decimals are told
    assert found["f1_macro"] == pytest.approx((2 / 3 + 1 / 2) / 3, abs=1e-6)
    expected = -np.log([0.8, 0.3, 0.7, 0.3]).mean()
    assert found["log_loss"] == pytest.approx(expected, abs=1e-6)


def test_top_k_needs_more_classes_than_k():
    assert "top_3" not in scores(PREDICTIONS, 3)


def test_a_class_without_images_breaks_nothing():
    assert class_table(PREDICTIONS)[2] == {
        "class": "c",
        "images": 0,
        "precision": 0,
        "recall": 0,
        "f1": 0,
    }


def test_confusion_has_true_rows():
    assert confusion(PREDICTIONS).tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_calibration_error_by_hand():
    # confidences 0.8, 0.4, 0.7, 0.6 in bins of their own; right, wrong, right, wrong
    assert calibration_error(PREDICTIONS) == pytest.approx((0.2 + 0.4 + 0.3 + 0.6) / 4)
    assert sum(row["images"] for row in reliability(PREDICTIONS)) == 4


def test_certainty_falls_into_the_last_bin():
    sure = Predictions(np.array([b"1"]), np.array([0]), np.array([[1.0, 0.0]]), ("a", "b"))
    assert calibration_error(sure) == 0


def test_a_calibrated_head_has_a_small_error_and_an_overconfident_one_a_large():
    random = np.random.default_rng(0)
    p = random.uniform(0.5, 1, 20_000)
    labels = (random.uniform(size=20_000) > p).astype(np.int32)
    ids = np.arange(20_000).astype("S")
    honest = Predictions(ids, labels, np.stack([p, 1 - p], 1), ("a", "b"))
    sharp = p**4 / (p**4 + (1 - p) ** 4)
    boastful = Predictions(ids, labels, np.stack([sharp, 1 - sharp], 1), ("a", "b"))
    assert calibration_error(honest) < 0.02
    assert calibration_error(boastful) > 0.1


@pytest.mark.parametrize(
    ("right", "images", "interval"),
    [  # Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_the_interval_is_that_of_published_examples(right, images, interval):
    answers = np.arange(images) < right
    assert wilson_interval(answers) == pytest.approx(interval, abs=5e-5)
    low, high = wilson_interval(~answers)
    assert (1 - high, 1 - low) == pytest.approx(interval, abs=5e-5)


@pytest.mark.parametrize("images", [1, 26, 50_000])
def test_the_interval_of_a_perfect_score_depends_on_the_images(images):
    low, high = wilson_interval(np.ones(images, bool))
    assert high == pytest.approx(1, abs=1e-12)
    assert high <= 1
    assert 1 - low == pytest.approx(3.8415 / (images + 3.8415), rel=1e-4)

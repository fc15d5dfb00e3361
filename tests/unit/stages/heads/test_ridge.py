import functools
import operator

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stages.errors import ConfigError
from stages.heads import ridge
from stages.heads.config import HeadConfig, expand
from stages.heads.ridge import Gram, accumulate, temperature
from stages.heads.rows import ArrayRows, Task, weigh_classes
from stages.heads.table import train
from tests.unit.stages.heads.sets import blobs

CLASSES = ("a", "b", "c", "d")
PENALTIES = tuple(float(penalty) for penalty in np.geomspace(1e-3, 1e5, 9))


def task_of(classes=4, validation=0):
    features, labels = blobs(900, 30, classes, spread=3)
    labels[:300] = 0  # unequal classes
    rows = ArrayRows(features * 2 + 50, labels=labels, classes=CLASSES[:classes])
    return Task(rows, np.arange(900 - validation), np.arange(900 - validation, 900))


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("classes", [2, 4])
def test_every_penalty_gives_scikit_learns_solution(classes, standardize, class_weights):
    task = task_of(classes)
    config = HeadConfig(
        kind="ridge", penalty=PENALTIES, standardize=standardize, class_weights=class_weights
    )
    heads = expand({"r": config})
    trained = train(task, heads)
    x, y = task.rows.take(task.train), task.rows.labels[task.train]
    for name, params in heads.items():
        weights = None if class_weights == "none" else class_weights
        model = RidgeClassifier(alpha=params.penalty, class_weight=weights)
        if standardize:
            model = make_pipeline(StandardScaler(), model)
        expected = model.fit(x.astype(np.float64), y).decision_function(x)
        one = trained[name]
        z = (x - one.mean) / one.scale if standardize else x
        found = z @ one.layers[0][0] + one.layers[0][1]
        found = found[:, 1] if classes == 2 else found
        assert found == pytest.approx(expected, abs=1e-4)


def test_partitions_add_up_to_the_whole():
    task = task_of()
    (whole,) = accumulate(task, {"": "none"}).values()
    weights = np.ones(4, np.float32)
    parts = []
    for start in range(0, 900, 300):
        part = Gram.zeros(whole.shift, 4)
        part.add(
            (task.rows.take(np.arange(start, start + 300)), task.rows.labels[start : start + 300]),
            weights,
        )
        parts.append(part)
    merged = parts[2] + parts[0] + parts[1]
    for (kernel, bias), (expected, origin) in zip(
        merged.solve(PENALTIES, *merged.scale()),
        whole.solve(PENALTIES, *whole.scale()),
        strict=True,
    ):
        assert kernel == pytest.approx(expected, abs=1e-8)
        assert bias == pytest.approx(origin, abs=1e-8)
    with pytest.raises(ValueError, match="different shifts"):
        Gram.zeros(np.zeros(30), 4) + whole


def test_dask_partitions_merge_to_the_same_solution():
    import dask

    task = task_of()
    (whole,) = accumulate(task, {"": "balanced"}).values()
    weights = weigh_classes("balanced", task.rows.labels, CLASSES)

    def partition(start):
        gram = Gram.zeros(whole.shift, 4)
        positions = np.arange(start, start + 100)
        gram.add((task.rows.take(positions), task.rows.labels[positions]), weights)
        return gram

    parts = [dask.delayed(partition)(start) for start in range(0, 900, 100)]
    merged = dask.delayed(lambda grams: functools.reduce(operator.add, grams))(parts)
    merged = merged.compute(scheduler="threads")
    for found, expected in zip(
        merged.solve(PENALTIES, *merged.scale()),
        whole.solve(PENALTIES, *whole.scale()),
        strict=True,
    ):
        assert found[0] == pytest.approx(expected[0], abs=1e-8)


def test_all_penalties_and_weights_come_from_one_scan(monkeypatch):
    task = task_of()
    read = []
    take = task.rows.take
    monkeypatch.setattr(
        task.rows, "take", lambda positions: (read.append(len(positions)), take(positions))[1]
    )
    heads = expand(
        {
            "a": HeadConfig(kind="ridge", penalty=PENALTIES),
            "b": HeadConfig(kind="ridge", class_weights="balanced", standardize=False),
        }
    )
    train(task, heads)
    assert sum(read) <= 900 + 1024  # the shift comes from the first rows


def test_the_temperature_changes_no_answer_and_improves_the_probabilities():
    bare, judged = task_of(), task_of(validation=200)
    heads = expand({"r": HeadConfig(kind="ridge")})
    one = train(judged, heads)["r"]
    plain = train(Task(judged.rows, judged.train, np.arange(0)), heads)["r"]
    ratio = one.layers[0][0] / plain.layers[0][0]
    assert ratio.min() > 1
    assert ratio.max() - ratio.min() < 1e-3
    assert len(bare.validation) == 0


def test_the_temperature_is_where_the_loss_is_lowest():
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 3))
    p = np.exp(7 * logits)
    p /= p.sum(1, keepdims=True)
    labels = (p.cumsum(1) < random.uniform(size=(4000, 1))).sum(1).astype(np.int32)
    assert temperature(logits, labels) == pytest.approx(7, rel=0.1)


def test_features_too_wide_for_memory_are_refused_before_reading(monkeypatch):
    monkeypatch.setattr(ridge, "memory_limit", lambda: 3 * 8 * 30**2 - 1)
    with pytest.raises(ConfigError, match=r"Gram matrix.*output: avg"):
        train(task_of(), expand({"r": HeadConfig(kind="ridge")}))

import sys

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cryobase.stages.errors import ConfigError
from cryobase.stages.heads import ridge
from cryobase.stages.heads.config import HeadConfig, expand
from cryobase.stages.heads.kinds import train
from cryobase.stages.heads.ridge import Gram, accumulate, temperature
from cryobase.stages.heads.rows import ArrayRows, StoredRows, Task
from cryobase.stages.heads.side_by_side import SideBySide
from tests.closeness import assert_close, rounding
from tests.unit.stages.heads.sets import blobs, publish

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
        # 30 products and a bias in single precision, which cancel each other out
        terms = np.abs(z) @ np.abs(one.layers[0][0]) + np.abs(one.layers[0][1])
        assert_close(found, expected, within=rounding(31), scale=terms.max())


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
        # sums of 900 rows, and a Gram matrix whose condition is below 100
        assert_close(kernel, expected, within=rounding(900 * 100, "float64"))
        assert_close(bias, origin, within=rounding(900 * 100, "float64"))
    with pytest.raises(ValueError, match="different shifts"):
        Gram.zeros(np.zeros(30), 4) + whole


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_partitions_of_a_dask_cluster_merge_to_the_same_heads(tmp_path, monkeypatch):
    """Workers in processes of their own read the set's rows and send back sums."""
    from distributed import Client

    features, labels = blobs(900, 30, 4, spread=3)
    publish(tmp_path, features * 2 + 50, labels, classes=CLASSES)
    rows = StoredRows(SideBySide.open(tmp_path / "features"))
    heads = expand(
        {
            "r": HeadConfig(kind="ridge", penalty=PENALTIES),
            "b": HeadConfig(kind="ridge", class_weights="balanced"),
        }
    )
    alone = train(Task(rows, np.arange(700), np.arange(700, 900)), heads)
    monkeypatch.setattr(ridge, "PARTITION", 100)
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        executor = client.get_executor()
        found = train(Task(rows, np.arange(700), np.arange(700, 900), executor), heads)
        seen = client.run(lambda: "cryobase.stages.heads.ridge" in sys.modules)
    assert all(seen.values())
    for name, one in alone.items():
        # the same sums in another order, in double precision, rounded to single in the end
        for mine, theirs in zip(found[name].layers[0], one.layers[0], strict=True):
            assert_close(mine, theirs, within=rounding(4))


def test_all_penalties_and_weights_come_from_one_scan(monkeypatch):
    task = task_of()
    read = []
    take = task.rows.take
    monkeypatch.setattr(
        task.rows,
        "take",
        lambda chosen, *views: (read.append(len(chosen)), take(chosen, *views))[1],
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
    assert 6.3 < temperature(logits, labels) < 7.7  # 4,000 labels tell it to a few per cent


def test_features_too_wide_for_memory_are_refused_before_reading(monkeypatch):
    monkeypatch.setattr(ridge, "memory_limit", lambda: 3 * 8 * 30**2 - 1)
    with pytest.raises(ConfigError, match=r"Gram matrix.*output: avg"):
        train(task_of(), expand({"r": HeadConfig(kind="ridge")}))

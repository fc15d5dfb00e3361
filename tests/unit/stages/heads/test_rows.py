import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight

from cryobase.stages.heads import rows as module
from cryobase.stages.heads.rows import (
    ArrayRows,
    StoredRows,
    Task,
    fit_scale,
    open_rows,
    weigh_classes,
)
from cryobase.stages.heads.side_by_side import SideBySide
from cryobase.store import Examples
from cryobase.store.epochs import shuffled
from tests.closeness import assert_close, rounding
from tests.unit.stages.heads.sets import blobs, publish

CLASSES = ("a", "b", "c")


def side_by_side(root, features, labels, views=0):
    return SideBySide([publish(root, features, labels, classes=CLASSES, views=views)])


@pytest.fixture
def task():
    features, labels = blobs(2500, 7, 3)
    rows = ArrayRows(features * 5 + 3, labels=labels, classes=CLASSES, key=9)
    return Task(rows, np.arange(0, 2500, 2), np.arange(1, 2500, 2))


def test_an_epoch_shows_every_training_row_once_with_its_label(task):
    batches = list(task.epoch(0, 100))
    features = np.concatenate([batch for batch, _ in batches])
    labels = np.concatenate([batch for _, batch in batches])
    expected = task.rows.take(task.train)
    assert [len(batch) for batch, _ in batches] == [100] * 12 + [50]
    order = np.lexsort(features.T)
    assert np.array_equal(features[order], expected[np.lexsort(expected.T)])
    assert np.array_equal(labels[order], task.rows.labels[task.train][np.lexsort(expected.T)])


def test_the_order_belongs_to_set_and_epoch_not_to_the_size_of_a_read(task):
    def whole(epoch, size):
        return np.concatenate([features for features, _ in task.epoch(epoch, size)])

    assert np.array_equal(whole(3, 64), whole(3, 1000))
    assert not np.array_equal(whole(3, 64), whole(4, 64))


def test_stored_rows_are_those_in_memory(tmp_path):
    features, labels = blobs(300, 6, 3)
    stored = StoredRows(side_by_side(tmp_path, features, labels, views=2))
    memory = stored.in_memory(2)
    some = np.array([5, 299, 0, 7])
    views = np.array([0, 2, 1, 1])
    assert np.array_equal(stored.take(some, views), memory.take(some, views))
    assert_close(
        stored.take(some, views), features[some] + views[:, None] / 100, within=rounding(2)
    )
    assert stored.key == memory.key


def test_views_are_drawn_anew_for_every_epoch(tmp_path):
    features, labels = blobs(300, 6, 3)
    rows = open_rows(side_by_side(tmp_path, features, labels, views=3), 3)
    task = Task(rows, np.arange(300), np.arange(0))

    def shifts(epoch):
        order = shuffled(task.train, rows.key, epoch)
        (batch, _), *_ = task.epoch(epoch, 300, views=3)
        views = np.rint((batch - features[order]).mean(1) * 100)
        return views[np.argsort(order)]

    first, second = shifts(0), shifts(1)
    assert set(first) == {0, 1, 2, 3}
    assert not np.array_equal(first, second)
    assert np.bincount(first.astype(int)).min() > 40


def test_large_sets_stay_in_the_store(tmp_path, monkeypatch):
    features, labels = blobs(300, 6, 3)
    rows = side_by_side(tmp_path, features, labels)
    assert isinstance(open_rows(rows), ArrayRows)
    monkeypatch.setattr(module, "memory_limit", lambda: 8 * 300 * 6 * 4 - 1)
    assert isinstance(open_rows(rows), StoredRows)


@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_the_memory_limit_is_that_of_this_process(monkeypatch, kind):
    import resource

    low, infinite = 1 << 26, resource.RLIM_INFINITY
    limits = {getattr(resource, kind): low}
    monkeypatch.setattr(resource, "getrlimit", lambda one: (limits.get(one, infinite), infinite))
    assert module.memory_limit() == low
    limits.clear()
    assert module.memory_limit() > low


def test_the_scale_is_fitted_on_training_rows_only(task):
    mean, scale = fit_scale(task)
    expected = StandardScaler().fit(task.rows.take(task.train).astype(np.float64))
    # found in double precision, kept in single
    assert_close(mean, expected.mean_, within=rounding(2))
    assert_close(scale, expected.scale_, within=rounding(2))


def test_a_constant_feature_is_only_shifted():
    rows = ArrayRows(
        np.full((40, 2), 1000.1, np.float32), labels=np.zeros(40, np.int32), classes=CLASSES
    )
    _, scale = fit_scale(Task(rows, np.arange(40), np.arange(0)))
    assert scale.tolist() == [1, 1]


def test_balanced_weights_are_scikit_learns():
    labels = np.array([0] * 5 + [1] * 20 + [2] * 75, np.int32)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert weigh_classes("balanced", labels, CLASSES) == pytest.approx(expected)
    assert weigh_classes("none", labels, CLASSES).tolist() == [1, 1, 1]
    assert weigh_classes({"b": 3.0}, labels, CLASSES).tolist() == [1, 3, 1]


def test_rows_are_looked_up_once_and_read_ahead(tmp_path, monkeypatch):
    """Neither an epoch nor a scan in order asks for ids."""
    features, labels = blobs(300, 6, 3)
    task = Task(StoredRows(side_by_side(tmp_path, features, labels)), np.arange(200), np.arange(9))
    monkeypatch.setattr(Examples, "positions", lambda *_: pytest.fail("looked up"))
    assert sum(len(x) for x, _ in task.epoch(0, 64)) == 200
    assert [len(x) for x, _ in task.in_order(task.validation, 4)] == [4, 4, 1]


@pytest.mark.parametrize("views", [0, 2])
def test_an_epoch_of_stored_rows_is_the_one_in_memory(tmp_path, views):
    features, labels = blobs(300, 6, 3)
    stored = StoredRows(side_by_side(tmp_path, features, labels, views=2))
    both = [
        list(Task(rows, np.arange(300), np.arange(0)).epoch(1, 64, views))
        for rows in (stored, stored.in_memory(2))
    ]
    for (x, y), (other, other_labels) in zip(*both, strict=True):
        assert np.array_equal(x, other)
        assert np.array_equal(y, other_labels)

"""Heads trained together: against Keras, and against training them alone."""

import numpy as np
import pytest

from cryobase.stages.heads.config import HeadConfig, expand
from cryobase.stages.heads.head import Head
from cryobase.stages.heads.kinds import train
from cryobase.stages.heads.rows import ArrayRows, StoredRows, Task
from cryobase.stages.heads.side_by_side import SideBySide
from tests.closeness import assert_close, rounding
from tests.unit.stages.heads.sets import SPEC, blobs, publish

WIDTH = 24


def task_of(count=700, classes=3, width=WIDTH, train_rows=500):
    features, labels = blobs(count, width, classes, spread=2.5)
    names = tuple("abcdefghij"[:classes])
    rows = ArrayRows(features, labels=labels, classes=names, key=5)
    return Task(rows, np.arange(train_rows), np.arange(train_rows, count))


@pytest.fixture(scope="module")
def task():
    return task_of()


def head_of(params, trained, classes):
    return Head(
        params=params,
        classes=classes,
        specs=(SPEC,),
        shapes=((WIDTH,),),
        layers=trained.layers,
        mean=trained.mean,
        scale=trained.scale,
        data=("", ""),
        history=trained.history,
    )


def logits_of(task, name, heads, trained):
    head = head_of(heads[name], trained[name], task.rows.classes)
    return head.logits(task.rows.take(task.validation))


def keras_logits(task, params, epochs):
    """The same head by Keras' own layers and optimizers, on the same batches."""
    import keras

    from cryobase.stages.heads.sweep import _glorot

    outputs = 1 if params.output == "sigmoid" else len(task.rows.classes)
    layers = [keras.layers.Dense(units, activation="relu") for units in params.units]
    model = keras.Sequential([keras.Input((WIDTH,)), *layers, keras.layers.Dense(outputs)])
    for k, layer in enumerate(model.layers):
        layer.set_weights([_glorot(params.seed, k, *layer.kernel.shape), layer.bias.numpy()])
    extra = {"momentum": params.momentum} if params.optimizer == "sgd" else {}
    optimizer = keras.optimizers.get(
        {
            "class_name": params.optimizer,
            "config": {
                "learning_rate": params.learning_rate,
                "weight_decay": params.weight_decay or None,
                **extra,
            },
        }
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if outputs == 1:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    labels = task.rows.labels[task.train]
    weight = None
    if params.class_weights == "balanced":
        counts = np.bincount(labels)
        weight = {k: len(labels) / (len(counts) * count) for k, count in enumerate(counts)}
    for epoch in range(epochs):
        for x, y in task.epoch(epoch, params.batch_size):
            model.train_on_batch(x, y, class_weight=weight)
    return model(task.rows.take(task.validation)).numpy()


CASES = {
    "adam": HeadConfig(),
    "adam-decay": HeadConfig(weight_decay=0.1),
    "adamw": HeadConfig(optimizer="adamw"),
    "sgd": HeadConfig(optimizer="sgd", learning_rate=0.01),
    "momentum": HeadConfig(optimizer="sgd", learning_rate=0.01, momentum=0.9),
    "rmsprop": HeadConfig(optimizer="rmsprop"),
    "balanced": HeadConfig(class_weights="balanced"),
    "batch": HeadConfig(batch_size=20),
    "mlp": HeadConfig(kind="mlp", units=50),
    "deep": HeadConfig(kind="mlp", units=((70, 20),)),
}


@pytest.fixture(scope="module")
def together(task):
    """All cases in one scan, on features as they are."""
    from dataclasses import replace

    configs = {name: replace(case, epochs=1, standardize=False) for name, case in CASES.items()}
    heads = {name: next(iter(config.points().values())) for name, config in configs.items()}
    return heads, train(task, heads)


@pytest.mark.parametrize("name", CASES)
def test_a_head_is_what_keras_trains_on_the_same_batches(task, together, name):
    heads, trained = together
    expected = keras_logits(task, heads[name], 1)
    # an epoch adds 500 rows up, in batches and in another order
    assert_close(logits_of(task, name, heads, trained), expected, within=rounding(500))


@pytest.mark.parametrize("name", CASES)
def test_a_head_does_not_depend_on_its_neighbours_bit_for_bit(task, together, name):
    heads, trained = together
    alone = train(task, {name: heads[name]})[name]
    for mine, other in zip(alone.layers, trained[name].layers, strict=True):
        assert np.array_equal(mine[0], other[0])
        assert np.array_equal(mine[1], other[1])
    assert alone.history.curves == trained[name].history.curves


def test_one_sigmoid_unit_is_what_keras_trains():
    task = task_of(classes=2)
    heads = expand({"a": HeadConfig(output="sigmoid", epochs=1, standardize=False)})
    trained = train(task, heads)
    assert trained["a"].layers[-1][0].shape == (WIDTH, 1)
    expected = keras_logits(task, heads["a"], 1)
    assert_close(logits_of(task, "a", heads, trained), expected, within=rounding(500))


def test_a_full_stack_gives_each_place_what_it_would_get_alone(task):
    heads = expand(
        {"a": HeadConfig(learning_rate=(1e-4, 1e-3, 3e-3), seed=tuple(range(40)), epochs=3)}
    )
    trained = train(task, heads)
    for name in list(heads)[::23]:
        alone = train(task, {name: heads[name]})[name]
        assert np.array_equal(alone.layers[0][0], trained[name].layers[0][0])


def test_dropout_is_drawn_from_the_heads_own_seed_and_drops_its_share(task):
    heads = expand({"d": HeadConfig(kind="mlp", units=64, dropout=(0.0, 0.5), seed=(1, 2))})
    trained = train(task, heads)
    kernels = {name: one.layers[0][0] for name, one in trained.items()}
    assert not np.array_equal(kernels["d-do0-s1"], kernels["d-do0.5-s1"])
    losses = {name: min(one.history.curves["loss"]) for name, one in trained.items()}
    assert losses["d-do0.5-s1"] > losses["d-do0-s1"]
    again = train(task, {"d": heads["d-do0.5-s2"]})["d"]
    assert np.array_equal(again.layers[0][0], kernels["d-do0.5-s2"])


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_the_counter_drops_the_share_asked_for_and_keeps_the_mean(rate):
    import tensorflow as tf

    from cryobase.stages.heads.kernel import _dropped

    x = tf.ones((200, 512))
    seed = tf.constant([7], tf.uint32)
    masks = [_dropped(x, 0, tf.constant([rate]), seed, tf.constant(k)).numpy() for k in (1, 2)]
    six = 6 * np.sqrt(rate * (1 - rate) / x.shape.num_elements())  # deviations of a share
    for mask in masks:
        assert abs((mask == 0).mean() - rate) <= six
        assert abs(mask.mean() - 1) <= six / (1 - rate) + rounding(1)
    if rate:
        agree = ((masks[0] == 0) == (masks[1] == 0)).mean()
        assert abs(agree - rate**2 - (1 - rate) ** 2) < 0.01  # six deviations


def test_early_stopping_ends_a_head_and_not_its_neighbours(task):
    heads = expand(
        {
            "eager": HeadConfig(learning_rate=0.3, patience=2, epochs=40),
            "short": HeadConfig(patience=0, epochs=3),
            "long": HeadConfig(learning_rate=1e-5, patience=0, epochs=40),
        }
    )
    trained = train(task, heads)
    lengths = {name: len(one.history) for name, one in trained.items()}
    assert lengths["short"] == 3
    assert lengths["long"] == 40
    assert lengths["eager"] == trained["eager"].history.best_epoch + 2


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_weights_kept_are_those_of_the_best_epoch(task, kind):
    config = HeadConfig(kind=kind, learning_rate=0.05, patience=0, epochs=12)
    heads = expand({"a": config, "b": HeadConfig(kind=kind, epochs=5)})
    trained = train(task, heads)
    history = trained["a"].history
    assert history.best_epoch < 12
    logits = logits_of(task, "a", heads, trained).astype(np.float64)
    labels = task.rows.labels[task.validation]
    log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    loss = (log_sum - logits[np.arange(len(labels)), labels]).mean()
    # a mean over 200 rows
    told = {name: history.curves[name][history.best_epoch - 1] for name in history.curves}
    assert_close(loss, told["val_loss"], within=rounding(200))
    accuracy = (logits.argmax(1) == labels).mean()
    assert_close(accuracy, told["val_accuracy"], within=rounding(200))


def test_a_head_that_diverges_spoils_no_neighbour(task):
    heads = expand({"a": HeadConfig(optimizer="sgd", learning_rate=(1e-3, 1e30), epochs=4)})
    trained = train(task, heads)
    alone = train(task, {"a": heads["a-lr0.001"]})["a"]
    assert np.array_equal(alone.layers[0][0], trained["a-lr0.001"].layers[0][0])


def test_without_validation_rows_the_last_epoch_counts(task):
    bare = Task(task.rows, task.train, np.arange(0))
    heads = expand({"a": HeadConfig(epochs=4, patience=1)})
    trained = train(bare, heads)["a"]
    assert len(trained.history) == 4
    assert trained.history.best_epoch == 4


def test_explicit_class_weights_move_the_answers(task):
    heads = expand({"a": HeadConfig(), "b": HeadConfig(class_weights={"a": 20.0})})
    trained = train(task, heads)
    counts = {
        name: np.bincount(logits_of(task, name, heads, trained).argmax(1), minlength=3)
        for name in heads
    }
    assert counts["b"][0] > counts["a"][0]


@pytest.mark.parametrize("views", [0, 2])
def test_rows_read_from_the_store_train_the_same_head_bit_for_bit(tmp_path, views):
    features, labels = blobs(300, WIDTH, 3)
    stored = publish(tmp_path, features, labels, classes=("a", "b", "c"), views=views)
    rows = StoredRows(SideBySide([stored]))
    heads = expand({"a": HeadConfig(epochs=2, views=views)})
    layers = [
        train(Task(some, np.arange(200), np.arange(200, 300)), heads)["a"].layers[0]
        for some in (rows, rows.in_memory(views))
    ]
    assert np.array_equal(layers[0][0], layers[1][0])
    assert np.array_equal(layers[0][1], layers[1][1])

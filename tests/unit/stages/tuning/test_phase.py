import math

import numpy as np
import pytest

from cryobase.stages.data.augment import Augmentation
from cryobase.stages.errors import DataError
from cryobase.stages.tuning import phase
from cryobase.stages.tuning.freezing import unfreeze
from cryobase.stages.tuning.phase import (
    OptimizerSettings,
    Phase,
    cross_entropy,
    kept_epoch,
    layer_factors,
    smoothed,
)
from cryobase.stages.tuning.resume import Checkpoints
from tests.closeness import assert_close, rounding
from tests.scale import rounds
from tests.unit.stages.tuning import tuning_data as data


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return data.prepare(tmp_path_factory.mktemp("tuning"))


def trained(root, rule, directory, *, norms=False, augmentation=None, settings=None):
    """A model and its weights by layer, before and after."""
    base = data.base_with_norms()
    model = data.grafted(base)
    unfreeze(base, rule, batch_normalization=norms)
    before = {layer.name: layer.get_weights() for layer in model.layers}
    given = data.examples(root, augmentation=augmentation)
    rows = Phase(model, base, given, settings or data.settings(keep="last")).run(
        Checkpoints(directory)
    )
    after = {layer.name: layer.get_weights() for layer in model.layers}
    changed = {
        name
        for name in before
        if any(not np.array_equal(a, b) for a, b in zip(before[name], after[name], strict=True))
    }
    return rows, before, after, changed


@pytest.mark.parametrize(
    ("rule", "norms", "learning"),
    [
        ("none", False, {"logits"}),
        ("all", False, {"logits", "conv1", "conv2"}),
        ({"from": "conv2"}, False, {"logits", "conv2"}),
        ({"last": 4}, True, {"logits", "conv2", "norm2"}),
    ],
)
def test_only_unfrozen_layers_change(root, tmp_path, rule, norms, learning):
    *_, changed = trained(root, rule, tmp_path, norms=norms)
    assert changed == learning


def test_frozen_statistics_are_bit_identical_and_unfrozen_ones_move(root, tmp_path):
    _, before, after, _ = trained(root, "all", tmp_path / "frozen")
    for k in range(4):
        assert before["norm1"][k].tobytes() == after["norm1"][k].tobytes()
    _, before, after, _ = trained(root, "all", tmp_path / "free", norms=True)
    for k in range(4):
        assert before["norm1"][k].tobytes() != after["norm1"][k].tobytes()


def test_epoch_0_is_the_start_and_can_be_what_is_kept(root, tmp_path):
    settings = data.settings(epochs=2, learning_rate=30.0, keep="best")
    rows, _, _, changed = trained(root, "none", tmp_path, settings=settings)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert math.isnan(rows[0]["loss"])
    assert rows[0]["val_loss"] < min(rows[1]["val_loss"], rows[2]["val_loss"])
    assert changed == set()


def test_what_is_kept_has_the_validation_loss_of_its_epoch(root, tmp_path):
    base = data.base_with_norms()
    model = data.grafted(base)
    unfreeze(base, "all")
    given = data.examples(root)
    rows = Phase(model, base, given, data.settings(epochs=6, learning_rate=0.05)).run(
        Checkpoints(tmp_path)
    )
    batches = list(given.validation())
    right = sum((model.predict_on_batch(x).argmax(axis=1) == y).sum() for x, y in batches)
    kept = rows[kept_epoch(rows, "best")]
    assert right / sum(len(y) for _, y in batches) == kept["val_accuracy"]
    assert kept["val_loss"] == min(row["val_loss"] for row in rows)


def test_keep_rules():
    rows = [{"val_loss": loss} for loss in (0.5, 1.0, 0.2, 0.9, 0.4, 0.45, 0.5)]
    assert kept_epoch(rows, "best") == 2
    assert kept_epoch(rows, "last") == 6
    curve = smoothed([row["val_loss"] for row in rows[1:]])
    assert kept_epoch(rows, "smoothed") == 1 + int(np.argmin(curve))


def test_smoothing_is_that_of_the_book():
    assert smoothed([1.0, 0.0, 0.0]) == pytest.approx([1.0, 0.8, 0.64])
    assert smoothed([1.0, 0.0], factor=0.0) == [1.0, 0.0]


class StoppedError(Exception):
    pass


def interrupt(monkeypatch, moment: int, where: str) -> None:
    """Stop at the n-th optimizer step or checkpoint, before or after it."""
    count = iter(range(1_000_000))

    def tick():
        if next(count) == moment:
            raise StoppedError

    if where == "step":
        original = phase._predicted
        monkeypatch.setattr(phase, "_predicted", lambda logits: (tick(), original(logits))[1])
        return
    original = Checkpoints.save

    def save(self, state):
        if where == "before saving":
            tick()
        original(self, state)
        if where == "after saving":
            tick()

    monkeypatch.setattr(Checkpoints, "save", save)


def dropping(root, directory):
    """Weights after four epochs of a net with dropout on augmented images."""
    from cryobase.stages.tuning import config, convnets, starts

    convnets.CONVNETS["tiny"] = data.TINY
    try:
        start = starts.scratch(
            config.Network(kind="tiny"), config.NewHead(units=5, dropout=0.3), ("a", "b", "c"), 3
        )
    finally:
        del convnets.CONVNETS["tiny"]
    unfreeze(start.base, "all")
    given = data.examples(root, augmentation=Augmentation(rotation=20, horizontal_flip=True))
    settings = data.settings(epochs=4, keep="last", warmup=1.5, layer_decay=0.7)
    Phase(start.model, start.base, given, settings).run(Checkpoints(directory))
    return data.values(start.model)


def test_an_interrupted_training_ends_with_the_same_weights(root, tmp_path, monkeypatch):
    whole = dropping(root, tmp_path / "whole")
    random, stops = np.random.default_rng(0), 0
    for number in range(rounds(20)):
        directory = tmp_path / str(number)
        for _ in range(2):
            where = random.choice(["step", "before saving", "after saving"])
            with monkeypatch.context() as patch:
                interrupt(patch, int(random.integers(0, 4)), where)
                try:
                    dropping(root, directory)
                except StoppedError:
                    stops += 1  # the second one may come too late, after the last epoch
        resumed = dropping(root, directory)
        assert all(np.array_equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert stops > rounds(20)


def test_a_loss_that_is_not_finite_is_an_error(root, tmp_path):
    settings = data.settings(learning_rate=1e38, name="sgd")
    with pytest.raises(DataError, match="learning_rate"):
        trained(root, "all", tmp_path, settings=settings)


def test_rates_fall_from_the_head_down(root, tmp_path):
    """With plain SGD one step is the rate times the gradient."""
    moved = {}
    for decay in (1.0, 0.5):
        settings = data.settings(
            epochs=1, learning_rate=0.01, name="sgd", layer_decay=decay, keep="last"
        )
        one_step = data.examples(root, batch_size=1000)
        base = data.base_with_norms()
        model = data.grafted(base)
        unfreeze(base, "all")
        before = {
            name: model.get_layer(name).get_weights()[0] for name in ("conv1", "conv2", "logits")
        }
        Phase(model, base, one_step, settings).run(Checkpoints(tmp_path / str(decay)))
        moved[decay] = {
            name: model.get_layer(name).get_weights()[0] - weights
            for name, weights in before.items()
        }
    for name, share in (("logits", 1.0), ("conv2", 0.5), ("conv1", 0.25)):
        # what a weight has moved is known as exactly as the weight, after a mean over the images
        weights = float(np.abs(before[name]).max())
        assert_close(moved[0.5][name], share * moved[1.0][name], within=rounding(4), scale=weights)


def test_the_rate_rises_while_warming_up():
    settings = OptimizerSettings(name="adam", learning_rate=0.1, warmup=2)
    assert [settings.rate(step, 5) for step in (0, 4, 9, 10, 50)] == pytest.approx(
        [0.01, 0.05, 0.1, 0.1, 0.1]
    )
    assert OptimizerSettings(name="adam", learning_rate=0.1).rate(0, 5) == 0.1


def test_factors_belong_to_their_variables():
    base = data.base_with_norms()
    model = data.grafted(base)
    unfreeze(base, "all", batch_normalization=True)
    factors = layer_factors(model, base, 0.5)
    names = [variable.path.split("/")[0] for variable in model.trainable_variables]
    expected = {"logits": 1.0, "norm2": 0.5, "conv2": 0.25, "norm1": 0.125, "conv1": 0.0625}
    assert factors == [expected[name] for name in names]


@pytest.mark.parametrize("width", [1, 4])
def test_the_loss_is_that_of_keras(width):
    import keras

    random = np.random.default_rng(0)
    logits = random.normal(size=(6, width)).astype(np.float32)
    labels = random.integers(0, max(2, width), 6).astype(np.int32)
    if width == 1:
        expected = keras.losses.BinaryCrossentropy(from_logits=True)(labels[:, None], logits)
    else:
        expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits)
    import tensorflow as tf

    found = tf.reduce_mean(cross_entropy(tf.constant(logits), labels))
    assert_close(found, expected, within=rounding(6 * width))  # exponentials and their sums

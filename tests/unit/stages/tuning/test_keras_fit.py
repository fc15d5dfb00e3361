"""Why fine-tuning has a loop of its own: what Keras' `fit` and its callbacks do after a kill.

When one of these fails after an upgrade, docs/adr/0023-own-epoch-loop.md is to be decided anew.
"""

import keras
import numpy as np
import pytest

INPUTS = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
LABELS = np.arange(32) % 3


class StoppedError(Exception):
    pass


class StopBefore(keras.callbacks.Callback):
    """Stands in for a kill at the beginning of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise StoppedError


class Scripted(keras.callbacks.Callback):
    """Makes the second epoch the best."""

    def on_epoch_end(self, epoch, logs=None):
        logs["judged"] = abs(epoch - 1)


def fitted(directory, *, dropout=0.0, early=False, stop=None):
    """Weights after five epochs of `fit`, from where the last call with this directory stopped."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    drop = keras.layers.Dropout(dropout, seed=7)
    model = keras.Model(inputs, keras.layers.Dense(3)(drop(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, run_eagerly=True)
    calls = [Scripted(), keras.callbacks.BackupAndRestore(str(directory))]
    if early:
        calls += [
            keras.callbacks.EarlyStopping(
                "judged", patience=9, restore_best_weights=True, mode="min"
            )
        ]
    if stop is not None:
        calls += [StopBefore(stop)]
    model.fit(INPUTS, LABELS, epochs=5, shuffle=False, verbose=0, callbacks=calls)
    return model.get_weights()


def resumed_is_whole(root, **options):
    whole = fitted(root / "whole", **options)
    with pytest.raises(StoppedError):
        fitted(root / "broken", stop=3, **options)
    resumed = fitted(root / "broken", **options)
    return all(np.array_equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_fit_resumes_exactly_where_nothing_is_drawn_or_kept(tmp_path):
    """So that the two below fail for their reason alone."""
    assert resumed_is_whole(tmp_path)


def test_fit_does_not_save_the_state_of_dropout(tmp_path):
    assert not resumed_is_whole(tmp_path, dropout=0.5)


def test_fit_forgets_the_best_epoch_of_before_a_kill(tmp_path):
    assert not resumed_is_whole(tmp_path, early=True)


def test_fit_does_not_start_on_a_damaged_backup(tmp_path):
    with pytest.raises(StoppedError):
        fitted(tmp_path / "broken", stop=3)
    path = tmp_path / "broken" / "latest.weights.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(OSError, match="truncated"):
        fitted(tmp_path / "broken")

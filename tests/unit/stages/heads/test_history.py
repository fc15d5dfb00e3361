import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryobase.stages.heads.history import COLUMNS, History, overfitting_onset, smooth

FALLING = list(np.linspace(1, 0.1, 20))


def history(val_loss, loss=FALLING):
    record = History()
    for k, value in enumerate(val_loss):
        record.append({"loss": loss[k], "accuracy": 0.5, "val_loss": value, "val_accuracy": 0.5})
    return record


def test_the_best_epoch_has_the_lowest_validation_loss():
    assert history([3, 2, 1, 2, 1]).best_epoch == 3


def test_without_validation_the_last_epoch_is_best():
    assert history([np.nan] * 4).best_epoch == 4


def test_overfitting_sets_in_where_validation_turns_for_good():
    val_loss = [*np.linspace(1, 0.5, 8), *np.linspace(0.52, 0.9, 12)]
    assert history(val_loss).overfitting_from in (9, 10)


def test_a_bump_that_passes_is_no_overfitting():
    val_loss = [1, 0.9, 0.8, 0.9, 0.95, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.39]
    assert overfitting_onset(FALLING, val_loss) is None


def test_a_flat_end_is_no_overfitting():
    assert overfitting_onset(FALLING, [1.0, 0.8, 0.6] + [0.5] * 17) is None


def test_divergence_is_no_overfitting():
    rising = [0.5, 0.4, 0.3, *np.linspace(0.5, 3, 17)]
    assert overfitting_onset(rising, rising) is None


def test_one_noisy_epoch_does_not_move_the_onset_far():
    val_loss = [*np.linspace(1, 0.5, 8), *np.linspace(0.52, 0.9, 12)]
    noisy = list(val_loss)
    noisy[12] *= 1.3
    assert overfitting_onset(FALLING, noisy) == overfitting_onset(FALLING, val_loss)


def test_smoothing_takes_what_there_is_at_the_ends():
    assert smooth([3.0, 0.0, 3.0, 6.0]) == pytest.approx([1.5, 2.0, 3.0, 4.5])


@given(st.lists(st.floats(0, 1e6, width=32), max_size=30))
def test_csv_keeps_every_value(values):
    record = History()
    for value in values:
        record.append(dict.fromkeys(COLUMNS, value))
    assert History.from_csv(record.to_csv()).curves == record.curves

import numpy as np
import pytest

from cryobase.stages.tuning.resume import Checkpoints, State, fit
from tests.integration.received_models import mutated
from tests.scale import rounds


def state(epoch: int, kept: int) -> State:
    rows = [{"epoch": k, "val_loss": float(k), "loss": float("nan")} for k in range(epoch + 1)]
    weights = [np.full((2, 3), epoch, np.float32), np.full(2, -epoch, np.float32)]
    return State(rows, weights, [np.array(epoch, np.int64)], kept)


def test_the_newest_state_comes_back(tmp_path):
    saved = Checkpoints(tmp_path)
    assert saved.load() is None
    for epoch in range(3):
        saved.save(state(epoch, 0))
    loaded = saved.load()
    assert [row["epoch"] for row in loaded.rows] == [0, 1, 2]
    assert np.isnan(loaded.rows[0]["loss"])
    assert loaded.kept == 0
    for found, expected in zip(
        loaded.weights + loaded.slots, state(2, 0).weights + state(2, 0).slots, strict=True
    ):
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


def test_the_weights_to_be_kept_stay_and_others_go(tmp_path):
    saved = Checkpoints(tmp_path)
    for epoch, kept in enumerate([0, 1, 1, 1]):
        saved.save(state(epoch, kept))
    assert {path.name for path in tmp_path.iterdir()} == {"epoch-00001.npz", "epoch-00003.npz"}
    assert np.array_equal(saved.weights(1)[0], np.full((2, 3), 1))


@pytest.mark.parametrize("size", [0, 10, 500])
def test_a_damaged_file_is_passed_over(tmp_path, size):
    saved = Checkpoints(tmp_path)
    for epoch in range(3):
        saved.save(state(epoch, 1 if epoch else 0))
    newest = tmp_path / "epoch-00002.npz"
    newest.write_bytes(newest.read_bytes()[:size])
    assert len(saved.load().rows) == 2


@pytest.mark.parametrize("place", ["run/phase-2", "other/phase-1"])
def test_epochs_of_another_run_or_phase_are_not_taken_up(tmp_path, place, caplog):
    """Files that lie under a run's fingerprint need not be its own."""
    own = Checkpoints(tmp_path / "run" / "phase-1")
    own.save(state(3, 3))
    moved = tmp_path / place
    moved.parent.mkdir(exist_ok=True)
    own.directory.rename(moved)
    assert Checkpoints(moved).load() is None
    assert "not an epoch of this run" in caplog.text
    assert not list(moved.iterdir())


def test_an_epoch_under_another_number_is_not_taken_up(tmp_path):
    saved = Checkpoints(tmp_path)
    saved.save(state(1, 1))
    (tmp_path / "epoch-00001.npz").rename(tmp_path / "epoch-00007.npz")
    assert saved.load() is None


@pytest.mark.fault(32)
def test_a_link_in_place_of_an_epoch_is_not_followed(tmp_path):
    saved = Checkpoints(tmp_path / "run")
    saved.save(state(0, 0))
    [epoch] = (tmp_path / "run").iterdir()
    epoch.rename(tmp_path / epoch.name)
    epoch.symlink_to(tmp_path / epoch.name)
    assert saved.load() is None
    assert (tmp_path / epoch.name).exists()


def test_clear_removes_everything(tmp_path):
    saved = Checkpoints(tmp_path / "run")
    saved.save(state(0, 0))
    saved.clear()
    assert not (tmp_path / "run").exists()


@pytest.mark.fault(56)
def test_mutations_are_read_or_passed_over(tmp_path):
    saved = Checkpoints(tmp_path)
    saved.save(state(0, 0))
    newest = tmp_path / "epoch-00000.npz"
    whole = newest.read_bytes()
    random = np.random.default_rng(0)
    found = []
    for _ in range(rounds(100_000)):
        newest.write_bytes(mutated(whole, random))
        found.append(saved.load() is None)
    assert any(found)


@pytest.mark.fault(56)
def test_a_state_of_another_model_does_not_fit():
    variables = [np.zeros((2, 3)), np.zeros(2)]
    assert fit(variables, state(0, 0).weights)
    assert not fit(variables[:1], state(0, 0).weights)
    assert not fit(variables[::-1], state(0, 0).weights)

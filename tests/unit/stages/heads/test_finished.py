import threading

from stages.heads import finished
from tests.unit.stages.heads.test_head import make_head


def test_a_kept_head_is_found_and_linked(tmp_path):
    assert not finished.find(tmp_path, "f" * 64)
    finished.keep(tmp_path, "f" * 64, make_head())
    assert finished.find(tmp_path, "f" * 64)
    finished.link(tmp_path, "f" * 64, tmp_path / "models" / "linear")
    ours = tmp_path / ("f" * 64) / "weights.npz"
    assert ours.stat().st_ino == (tmp_path / "models" / "linear" / "weights.npz").stat().st_ino


def test_a_damaged_head_is_removed_to_be_trained_again(tmp_path):
    finished.keep(tmp_path, "f", make_head())
    (tmp_path / "f" / "weights.npz").unlink()
    assert not finished.find(tmp_path, "f")
    finished.keep(tmp_path, "f", make_head())
    assert finished.find(tmp_path, "f")


def test_many_may_finish_the_same_head_at_once(tmp_path):
    failures = []

    def keep():
        try:
            finished.keep(tmp_path, "f", make_head())
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=keep) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert finished.find(tmp_path, "f")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_clearing_removes_heads_and_nothing_else(tmp_path):
    make_head().save(tmp_path / "old")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    finished.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]

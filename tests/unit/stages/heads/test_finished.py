import json
import threading
from dataclasses import replace

import pytest

from cryobase.stages.heads import finished
from tests.unit.stages.heads.test_head import make_head

HEAD = make_head()
OWN = HEAD.params.fingerprint(*HEAD.data)


def test_a_kept_head_is_found_and_linked(tmp_path):
    assert not finished.find(tmp_path, OWN, HEAD)
    finished.keep(tmp_path, OWN, HEAD)
    assert finished.find(tmp_path, OWN, HEAD)
    finished.link(tmp_path, OWN, tmp_path / "models" / "linear")
    ours = tmp_path / OWN / "weights.npz"
    assert ours.stat().st_ino == (tmp_path / "models" / "linear" / "weights.npz").stat().st_ino


def test_a_damaged_head_is_removed_to_be_trained_again(tmp_path):
    finished.keep(tmp_path, OWN, HEAD)
    (tmp_path / OWN / "weights.npz").unlink()
    assert not finished.find(tmp_path, OWN, HEAD)
    finished.keep(tmp_path, OWN, HEAD)
    assert finished.find(tmp_path, OWN, HEAD)


@pytest.mark.parametrize(
    "other",
    [
        make_head(learning_rate=0.5),
        make_head(seed=1),
        replace(HEAD, data=("another set", "split")),
        replace(HEAD, data=("set", "another split")),
        replace(HEAD, classes=("b", "a", "c")),
        replace(HEAD, specs=(replace(HEAD.spec, aspect="crop"),)),
        replace(HEAD, shapes=((12,),)),
    ],
    ids=["params", "seed", "set", "split", "classes", "spec", "shape"],
)
def test_another_head_under_a_fingerprint_is_not_served(tmp_path, other, caplog):
    other.save(tmp_path / OWN)
    assert not finished.find(tmp_path, OWN, HEAD)
    assert "holds a different head than its name promises; it is trained again" in caplog.text
    finished.keep(tmp_path, OWN, HEAD)
    assert finished.find(tmp_path, OWN, HEAD)


def test_a_card_that_claims_other_params_is_not_served(tmp_path):
    finished.keep(tmp_path, OWN, HEAD)
    card = tmp_path / OWN / "head.json"
    document = json.loads(card.read_text())
    document["params"]["learning_rate"] *= 2
    card.write_text(json.dumps(document))
    assert not finished.find(tmp_path, OWN, HEAD)


def test_many_may_finish_the_same_head_at_once(tmp_path):
    failures = []

    def keep():
        try:
            finished.keep(tmp_path, OWN, HEAD)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=keep) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert finished.find(tmp_path, OWN, HEAD)
    assert [path.name for path in tmp_path.iterdir()] == [OWN]


def test_clearing_removes_heads_and_nothing_else(tmp_path):
    make_head().save(tmp_path / "old")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    finished.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]

"""Who is better: one rule for evaluate, predict, heads ls and the report."""

import json
import random

import pytest

from cryobase.stages.errors import DataError
from cryobase.stages.heads import standing

MEND = "run `cryobase evaluate set`"


def scores(accuracy, log_loss=0.5, f1_macro=0.5):
    return {"accuracy": accuracy, "log_loss": log_loss, "f1_macro": f1_macro}


@pytest.mark.parametrize(
    ("select", "first"), [("accuracy", "sharp"), ("log_loss", "honest"), ("f1_macro", "fair")]
)
def test_each_score_has_its_own_winner_and_the_test_split_has_none(select, first):
    """The heads disagree on every score, and all of them lose on test to one that is worse."""
    found = {
        "sharp": {"validation": scores(0.9, 0.8, 0.6), "test": scores(0.1)},
        "honest": {"validation": scores(0.8, 0.2, 0.7), "test": scores(0.1)},
        "fair": {"validation": scores(0.7, 0.6, 0.9), "test": scores(0.1)},
        "lucky": {"validation": scores(0.1, 0.9, 0.1), "test": scores(1.0, 0.0, 1.0)},
        "unseen": {"test": scores(1.0, 0.0, 1.0)},
    }
    names = list(found)
    for _ in range(10):
        random.shuffle(names)
        ordered = standing.ranked({name: found[name] for name in names}, select)
        assert ordered[0] == first
        assert ordered[-2:] == ["lucky", "unseen"], "no score comes last"


def test_ties_go_to_the_lower_log_loss_then_to_the_name():
    found = {
        "c": {"validation": scores(0.5, 0.1)},
        "b": {"validation": scores(0.5, 0.3)},
        "a": {"validation": scores(0.5, 0.3)},
    }
    assert standing.ranked(found, "accuracy") == ["c", "a", "b"]


def test_where_nothing_validates_training_images_choose():
    found = {"a": {"train": scores(0.4), "test": scores(1.0)}, "b": {"train": scores(0.6)}}
    assert standing.ranked(found, "accuracy") == ["b", "a"]
    assert standing.judging({"validation": {}, "train": scores(0.5)}) == "train"
    assert standing.judging({"test": scores(0.5)}) is None


def write(directory, document):
    directory.mkdir(exist_ok=True)
    text = document if isinstance(document, str) else json.dumps(document)
    (directory / "metrics.json").write_text(text)
    return directory


def test_what_evaluate_writes_is_read_back(tmp_path):
    entry = {"validation": scores(1), "test": None, "training": "reused", "epochs": 3}
    found = standing.read(write(tmp_path / "r", {"best": "b", "heads": {"b": entry}}), MEND)
    assert found.best == "b"
    assert found.heads["b"].parts == {"validation": scores(1)}
    assert found.heads["b"].training == "reused"


GOOD = {"validation": scores(0.5)}
FORGED = {
    "a path": {"best": "../../x", "heads": {"../../x": GOOD}},
    "an absolute path": {"best": "/etc", "heads": {"/etc": GOOD}},
    "two dots": {"best": "..", "heads": {"..": GOOD}},
    "escapes": {"best": "\x1b[2J", "heads": {"\x1b[2J": GOOD}},
    "a best that is none": {"best": "b", "heads": {"a": GOOD}},
    "no best": {"heads": {"a": GOOD}},
    "no heads": {"best": "a"},
    "heads in a list": {"best": "a", "heads": ["a"]},
    "a number as best": {"best": 1, "heads": {"a": GOOD}},
    "a text as score": {"best": "a", "heads": {"a": {"validation": {"accuracy": "1"}}}},
    "true as score": {"best": "a", "heads": {"a": {"validation": {"accuracy": True}}}},
    "a list as part": {"best": "a", "heads": {"a": {"validation": [1]}}},
    "a training that is none": {"best": "a", "heads": {"a": {**GOOD, "training": "x"}}},
    "a list": [],
    "NaN": '{"best": "a", "heads": {"a": {"validation": {"accuracy": NaN}}}}',
    "a number beyond floats": '{"best": "a", "heads": {"a": {"validation": {"ece": 1e400}}}}',
    "a key twice": '{"best": "a", "best": "b", "heads": {}}',
    "depth": "[" * 5000,
    "a long name": {"best": "a" * 256, "heads": {"a" * 256: GOOD}},
    "nothing": "",
}


@pytest.mark.parametrize("name", FORGED)
def test_what_evaluate_does_not_write_is_refused_in_one_line(tmp_path, name):
    directory = write(tmp_path / "r", FORGED[name])
    with pytest.raises(DataError, match=f"not what Cryobase writes.*{MEND}") as found:
        standing.read(directory, MEND)
    assert str(found.value).isprintable()
    assert len(str(found.value)) < 400 + len(str(directory))


def test_what_is_not_there_is_told_apart(tmp_path):
    with pytest.raises(standing.MissingResultsError, match=MEND):
        standing.read(tmp_path, MEND)
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(DataError, match="not a regular file"):
        standing.read(tmp_path, MEND)


def test_the_images_of_each_part_are_counted(tmp_path):
    table = tmp_path / "heads" / "mlp" / standing.PREDICTIONS
    table.parent.mkdir(parents=True)
    rows = ['"cat\n1.jpg",validation,cat,cat,0.9', "2.jpg,test,a,b,0.8", "3.jpg,test,a,a,0.7"]
    table.write_text("\n".join(["id,part,label,predicted,probability", *rows, ""]))
    assert standing.images(tmp_path, "mlp") == {"validation": 1, "test": 2}


@pytest.mark.parametrize("content", [None, b"", b"\xff\x00\n\n", b'id,part\n"open', b"id\n1\n"])
def test_images_of_a_table_that_cannot_be_read_are_not_known(tmp_path, content):
    if content is not None:
        table = tmp_path / "heads" / "mlp" / standing.PREDICTIONS
        table.parent.mkdir(parents=True)
        table.write_bytes(content)
    assert standing.images(tmp_path, "mlp") == {}

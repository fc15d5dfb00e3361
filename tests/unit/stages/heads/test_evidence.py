import csv
import json

import numpy as np
import pytest

from cryobase.stages import train
from cryobase.stages.data.splits import Splits
from cryobase.stages.errors import DataError
from cryobase.stages.heads.config import HeadConfig
from cryobase.stages.heads.evidence import Evidence, investigate, label_suspects
from cryobase.stages.heads.resample import OutOfFold
from cryobase.stages.train import TrainConfig
from tests.unit.stages.heads.sets import blobs, publish, split


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """400 rows with 20 wrong labels, and 8 rows that are nearly others."""
    root = tmp_path_factory.mktemp("planted")
    features, labels = blobs(400, 32, 4)
    random = np.random.default_rng(3)
    wrong = random.choice(300, 20, replace=False)
    labels[wrong] = (labels[wrong] + random.integers(1, 4, 20)) % 4
    features[350:358] = features[300:308] + 0.001
    rows = publish(root, features, labels, classes=("a", "b", "c", "d"))
    split(root, rows, fractions=(0.7, 0.15, 0.15))
    train.run(
        TrainConfig(
            heads={
                "linear": HeadConfig(learning_rate=0.01, epochs=6),
                "ridge": HeadConfig(kind="ridge", penalty=10.0),
            }
        ),
        "set",
        features=root / "features",
        splits=root / "splits",
        cache=root / "cache",
        output=root / "models",
    )
    summary = investigate(
        Evidence(folds=4, repeats=2),
        features=root / "features",
        splits=root / "splits",
        models=root / "models",
        best="ridge",
        output=root / "evidence",
    )
    return root, rows, wrong, summary


def table(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_planted_wrong_labels_are_on_top_of_the_suspects(planted):
    root, rows, wrong, _ = planted
    suspects = [row["id"].encode() for row in table(root / "evidence" / "suspects.csv")]
    tested = set(Splits.open(root / "splits").ids("test").tolist())
    ids = {identifier for identifier in rows.ids[wrong].tolist() if identifier not in tested}
    assert len(ids) > 10
    assert len(ids & set(suspects[: len(suspects) // 10])) >= 0.8 * len(ids)
    assert not tested & set(suspects)


@pytest.mark.fault(15)
def test_planted_near_duplicates_are_all_found_and_leaks_cross_the_parts(planted):
    root, rows, _, summary = planted
    expected = {(rows.ids[k].decode(), rows.ids[k + 50].decode()) for k in range(300, 308)}
    found = table(root / "evidence" / "duplicates.csv")
    assert {(row["first"], row["second"]) for row in found} == expected
    assert summary["near_duplicates"] == 8
    tested = {identifier.decode() for identifier in Splits.open(root / "splits").ids("test")}
    crossing = {pair for pair in expected if len(tested & set(pair)) == 1}
    leaked = table(root / "evidence" / "leaks.csv")
    assert {(row["first"], row["second"]) for row in leaked} == crossing


def test_the_summary_names_every_head_and_the_gain_of_more_images(planted):
    root, _, _, summary = planted
    assert summary == json.loads((root / "evidence" / "evidence.json").read_text())
    assert set(summary["folds"]) == {"linear", "ridge"}
    assert all(entry["deviation"] > 0 for entry in summary["folds"].values())
    assert summary["learning_curve"]["images"][-1] > 250
    assert isinstance(summary["learning_curve"]["more_images_help"], bool)
    assert (root / "evidence" / "learning_curve.svg").read_text().startswith("<?xml")


def test_an_unknown_head_is_refused(planted):
    root, *_ = planted
    with pytest.raises(DataError, match="no head 'x'; known: linear, ridge"):
        investigate(
            Evidence(),
            features=root / "features",
            splits=root / "splits",
            models=root / "models",
            best="x",
            output=root / "none",
        )


def test_the_doubt_is_the_negated_margin():
    found = OutOfFold(
        positions=np.array([7, 8, 9]),
        fold=np.zeros(3, int),
        probabilities={"h": np.array([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])},
        labels=np.array([0, 2, 0], np.int32),
    )
    suspects = label_suspects(found, "h")
    assert [(one.position, one.predicted) for one in suspects] == [(9, 2), (8, 1), (7, 1)]
    assert [one.doubt for one in suspects] == pytest.approx([0.7, 0.2, -0.8])


@pytest.mark.parametrize("values", [{"folds": 1}, {"repeats": 0}, {"cosine": 0.0}])
def test_settings_that_mean_nothing_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Evidence(**values)


def test_without_validation_and_test_images_a_fifth_of_the_others_judges(tmp_path):
    """No head is judged by rows that it has learnt, and nothing is NaN."""
    rows = publish(tmp_path, *blobs(200, 8, 2), classes=("a", "b"))
    split(tmp_path, rows, fractions=(1, 0, 0))
    places = {"features": tmp_path / "features", "splits": tmp_path / "splits"}
    train.run(
        TrainConfig(heads={"ridge": HeadConfig(kind="ridge")}),
        "set",
        cache=tmp_path / "cache",
        output=tmp_path / "models",
        **places,
    )
    summary = investigate(
        Evidence(folds=2),
        models=tmp_path / "models",
        best="ridge",
        output=tmp_path / "evidence",
        **places,
    )
    assert summary["learning_curve"]["images"][-1] == 160
    assert summary["leaks"] == 0
    for path in (tmp_path / "evidence").glob("*.[cj]s*"):
        assert "nan" not in path.read_text().lower()

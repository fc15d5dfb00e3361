import csv
import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from cryobase.stages import evaluate, train
from cryobase.stages.data.splits import PARTS, Splits
from cryobase.stages.errors import ConfigError, DataError
from cryobase.stages.evaluate import EvaluateConfig
from cryobase.stages.heads.config import HeadConfig
from cryobase.stages.heads.head import Head
from cryobase.stages.train import TrainConfig
from cryobase.store import FeatureSet
from cryobase.store.text import cell_text
from tests.hostile_texts import TEXTS
from tests.unit.stages.heads.sets import blobs, publish, split

HEADS = {
    "good": HeadConfig(learning_rate=0.01, epochs=10),
    "bad": HeadConfig(learning_rate=1e-5, epochs=1),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    rows = publish(root, *blobs(400, 8, 3, spread=1.5), classes=("cat", "dog", "emu"))
    split(root, rows)
    train.run(
        TrainConfig(heads=HEADS),
        "set",
        features=root / "features",
        splits=root / "splits",
        cache=root / "cache",
        output=root / "models",
    )
    return root


def run(root, output, config=EvaluateConfig(top_k=2), models=None):  # noqa: B008
    return evaluate.run(
        config,
        "set",
        features=root / "features",
        splits=root / "splits",
        models=models or root / "models",
        output=output,
    )


def table(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_best_by_validation_alone_is_scored_on_test(root, tmp_path):
    document = run(root, tmp_path)
    assert document == json.loads((tmp_path / "metrics.json").read_text())
    assert document["best"] == "good"
    assert set(document["heads"]["good"]) >= {"validation", "test"}
    assert "test" not in document["heads"]["bad"]
    assert {row["part"] for row in table(tmp_path / "heads/bad/predictions.csv")} == {"validation"}


def test_scores_are_those_of_the_stored_features(root, tmp_path):
    document = run(root, tmp_path)
    rows = FeatureSet.open(root / "features")
    head = Head.load(root / "models" / "good")
    for part in ("validation", "test"):
        features, labels = rows.arrays(Splits.open(root / "splits").ids(part))
        expected = accuracy_score(labels, head.logits(features).argmax(1))
        assert document["heads"]["good"][part]["accuracy"] == pytest.approx(
            expected, abs=1e-6
        )  # decimals


def test_predictions_carry_the_ids_of_their_part(root, tmp_path):
    run(root, tmp_path)
    found = table(tmp_path / "heads/good/predictions.csv")
    for part in ("validation", "test"):
        ids = [row["id"].encode() for row in found if row["part"] == part]
        assert ids == Splits.open(root / "splits").ids(part).tolist()


def test_the_choice_does_not_look_at_the_test_split(root, tmp_path):
    """Where the worse head is right about all test images, and the better one is not."""
    features, labels = blobs(400, 8, 3, spread=1.5)
    tested = Splits.open(root / "splits").ids("test")
    rows = FeatureSet.open(root / "features")
    answers = Head.load(root / "models" / "bad").logits(rows.arrays(tested)[0]).argmax(1)
    labels[rows.examples.positions(tested)] = answers
    other = tmp_path / "other"
    publish(other, features, labels, classes=("cat", "dog", "emu"))
    shutil.copytree(root / "splits", other / "splits")
    train.run(
        TrainConfig(heads=HEADS),
        "set",
        features=other / "features",
        splits=other / "splits",
        cache=other / "cache",
        output=other / "models",
    )
    for select in ("accuracy", "f1_macro"):
        config = EvaluateConfig(select=select, final=("good", "bad"))
        found = run(other, tmp_path / select, config)
        good, bad = (found["heads"][head] for head in config.final)
        assert bad["test"][select] == 1 > good["test"][select]
        assert good["validation"][select] > bad["validation"][select]
        assert found["best"] == "good"


def test_named_heads_are_final(root, tmp_path):
    document = run(root, tmp_path, EvaluateConfig(final=("bad",)))
    assert "test" in document["heads"]["bad"]
    assert "test" not in document["heads"]["good"]
    with pytest.raises(ConfigError, match="no head 'worst'; known: bad, good"):
        run(root, tmp_path, EvaluateConfig(final=("worst",)))


@pytest.mark.parametrize("select", ["accuracy", "f1_macro", "log_loss"])
def test_every_score_can_choose(root, tmp_path, select):
    assert run(root, tmp_path, EvaluateConfig(select=select))["best"] == "good"


def test_the_leaderboard_names_all_heads_best_first(root, tmp_path):
    run(root, tmp_path)
    assert [row["head"] for row in table(tmp_path / "heads/leaderboard.csv")] == ["good", "bad"]


def test_files_for_dvc_and_for_people_are_there_and_the_same_each_time(root, tmp_path):
    run(root, tmp_path / "one")
    run(root, tmp_path / "two")
    names = {str(p.relative_to(tmp_path / "one")) for p in (tmp_path / "one").rglob("*.*")}
    assert names == {
        "metrics.json",
        "score.json",
        "curves.svg",
        "confusion.svg",
        "heads/leaderboard.csv",
        *(f"heads/{h}/{f}.csv" for h in HEADS for f in ("classes", "confusion", "predictions")),
        *(f"heads/good/{f}.svg" for f in ("curves", "confusion", "reliability")),
    }
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_score_is_the_best_heads_and_dvc_shows_it_in_one_line(root, tmp_path):
    document = run(root, tmp_path)
    score = json.loads((tmp_path / "score.json").read_text())
    parts = document["heads"][document["best"]]
    assert score == {
        "best": document["best"],
        "accuracy": {
            "validation": parts["validation"]["accuracy"],
            "test": parts["test"]["accuracy"],
            "low": parts["test"]["accuracy_low"],
            "high": parts["test"]["accuracy_high"],
        },
    }


def test_heads_that_are_gone_leave_no_results(root, tmp_path):
    run(root, tmp_path / "results")
    shutil.copytree(root / "models" / "good", tmp_path / "models" / "good")
    run(root, tmp_path / "results", models=tmp_path / "models")
    assert not (tmp_path / "results" / "heads" / "bad").exists()


@pytest.mark.fault(17, 24)
def test_heads_of_other_data_are_refused(root, tmp_path):
    rows = publish(tmp_path, *blobs(400, 8, 3, seed=1), classes=("cat", "dog", "emu"))
    split(tmp_path, rows)
    with pytest.raises(DataError, match="changed; run `cryobase train set`"):
        run(tmp_path, tmp_path / "results", models=root / "models")


@pytest.mark.fault(24)
def test_heads_of_another_split_are_refused(root, tmp_path):
    """They may have been trained on what now is tested."""
    split(tmp_path, FeatureSet.open(root / "features"), seed=1)
    (tmp_path / "features").symlink_to(root / "features")
    with pytest.raises(DataError, match="changed; run `cryobase train set`"):
        run(tmp_path, tmp_path / "results", models=root / "models")


@pytest.mark.fault(17)
def test_heads_of_classes_in_another_order_are_refused(root, tmp_path):
    """Be it the store that was published anew, or the head's card."""
    publish(tmp_path, *blobs(400, 8, 3, spread=1.5), classes=("dog", "cat", "emu"))
    shutil.copytree(root / "splits", tmp_path / "splits")
    with pytest.raises(DataError, match="classes changed; run `cryobase train set`"):
        run(tmp_path, tmp_path / "results", models=root / "models")
    shutil.copytree(root / "models" / "good", tmp_path / "models" / "good")
    card = tmp_path / "models" / "good" / "head.json"
    value = json.loads(card.read_text()) | {"classes": ["dog", "cat", "emu"]}
    card.unlink()
    card.write_text(json.dumps(value))
    with pytest.raises(DataError, match="classes changed; run `cryobase train set`"):
        run(root, tmp_path / "results", models=tmp_path / "models")


def test_no_heads_is_an_error_that_says_what_to_run(root, tmp_path):
    with pytest.raises(DataError, match="no heads; run `cryobase train set`"):
        run(root, tmp_path, models=tmp_path / "none")


def test_evaluating_loads_no_tensorflow(root, tmp_path):
    script = f"""
import sys
from pathlib import Path
from cryobase.stages import evaluate
root = Path({str(root)!r})
evaluate.run(evaluate.EvaluateConfig(), "set", features=root / "features",
    splits=root / "splits", models=root / "models", output=Path({str(tmp_path)!r}))
sys.exit("tensorflow" in sys.modules or "keras" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_top_k_must_be_positive():
    with pytest.raises(ValueError, match="top_k"):
        EvaluateConfig(top_k=0)


@pytest.fixture(scope="module")
def unvalidated(tmp_path_factory):
    """Two heads of a set of which no image validates."""
    root = tmp_path_factory.mktemp("unvalidated")
    rows = publish(root, *blobs(90, 4, 3), classes=("cat", "dog", "emu"))
    split(root, rows, fractions=(0.7, 0.0, 0.3))
    train.run(
        TrainConfig(heads=HEADS),
        "set",
        features=root / "features",
        splits=root / "splits",
        cache=root / "cache",
        output=root / "models",
    )
    return root


def test_without_validation_images_training_images_choose_with_a_warning(
    unvalidated, tmp_path, caplog
):
    document = run(unvalidated, tmp_path / "results")
    assert document["best"] == "good"
    assert "no validation images" in caplog.text
    assert {head: set(parts) & {"validation", "train", "test"} for head, parts in
            document["heads"].items()} == {"good": {"train", "test"}, "bad": {"train"}}  # fmt: skip
    assert "accuracy" in table(tmp_path / "results/heads/leaderboard.csv")[0]
    assert {row["part"] for row in table(tmp_path / "results/heads/good/predictions.csv")} == {
        "train", "test"
    }  # fmt: skip


def resplit(root, tmp_path, **parts):
    """The same set, heads and training images, with other ids to judge by."""
    before = Splits.open(root / "splits")
    kept = {"train": before.ids("train"), **parts}
    ids = np.concatenate(list(kept.values()))
    part = np.concatenate([np.full(len(v), PARTS.index(k), np.int8) for k, v in kept.items()])
    order = np.argsort(ids)
    (tmp_path / "features").symlink_to(root / "features")
    after = Splits(ids[order], part[order])
    after.write(tmp_path / "splits", [{"part": name, "images": 0} for name in PARTS])
    train.run(
        TrainConfig(heads=HEADS),
        "set",
        features=tmp_path / "features",
        splits=tmp_path / "splits",
        cache=tmp_path / "cache",
        output=tmp_path / "models",
    )
    return tmp_path


@pytest.mark.parametrize("kept", ["nothing", "one image", "one class"])
def test_a_poor_test_part_has_a_score_or_none_but_never_nan(root, tmp_path, kept):
    """Whatever is written of it: metrics, tables and pictures."""
    rows, before = FeatureSet.open(root / "features"), Splits.open(root / "splits")
    ids = before.ids("test")
    labels = rows.examples.labels[rows.examples.positions(ids)]
    some = {"nothing": ids[:0], "one image": ids[:1], "one class": ids[labels == 1]}[kept]
    made = resplit(root, tmp_path, validation=before.ids("validation"), test=some)
    document = run(made, tmp_path / "results", EvaluateConfig(top_k=2, final=("good", "bad")))
    for parts in document["heads"].values():
        assert ("test" in parts) == (kept != "nothing")
    for path in (tmp_path / "results").rglob("*.*"):
        if path.suffix != ".svg":
            assert "nan" not in path.read_text().lower()
    assert (tmp_path / "results/heads/bad/confusion.svg").exists()


@pytest.mark.parametrize("kept", ["one image", "one class"])
def test_a_poor_validation_part_chooses_all_the_same(root, tmp_path, kept):
    rows, before = FeatureSet.open(root / "features"), Splits.open(root / "splits")
    ids = before.ids("validation")
    labels = rows.examples.labels[rows.examples.positions(ids)]
    some = {"one image": ids[:1], "one class": ids[labels == 1]}[kept]
    made = resplit(root, tmp_path, validation=some)
    document = run(made, tmp_path / "results")
    assert document["heads"][document["best"]]["validation"]["log_loss"] >= 0
    assert "nan" not in (tmp_path / "results/metrics.json").read_text().lower()


def test_classes_of_hostile_names_are_scored_drawn_and_written_as_text(tmp_path):
    """A dollar sign in a name stopped the pictures; the spreadsheet must not run the rest."""
    names = tuple(TEXTS[one] for one in ("unknown mathtext", "formula", "clear screen", "Chinese"))
    rows = publish(tmp_path, *blobs(80, 8, 4), classes=names)
    split(tmp_path, rows)
    train.run(
        TrainConfig(heads={"ridge": HeadConfig(kind="ridge")}),
        "set",
        features=tmp_path / "features",
        splits=tmp_path / "splits",
        cache=tmp_path / "cache",
        output=tmp_path / "models",
    )
    run(tmp_path, tmp_path / "results")
    written = tmp_path / "results/heads/ridge"
    assert [cell_text(row["class"]) for row in table(written / "classes.csv")] == list(names)
    for path in (tmp_path / "results").rglob("*.csv"):
        cells = [value for row in table(path) for value in (*row, *row.values())]
        assert cells
        assert not any(value.startswith("=") for value in cells)
    for path in (tmp_path / "results").rglob("*.svg"):
        ET.fromstring(path.read_text())

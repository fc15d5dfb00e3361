import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cryobase.stages import evaluate, report, train
from cryobase.stages.errors import ConfigError, DataError
from cryobase.stages.evaluate import EvaluateConfig
from cryobase.stages.heads.config import HeadConfig
from cryobase.stages.heads.head import Head
from cryobase.stages.heads.kinds import HEADS
from cryobase.stages.report import ReportConfig
from cryobase.stages.train import TrainConfig
from cryobase.store import FeatureSet
from tests.unit.stages.heads.sets import blobs, publish, split

CLASSES = ("cat", "dog", "emu")
FAST = {"epochs": 2, "batch_size": 16}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    rows = publish(root, *blobs(300, 8, 3), classes=CLASSES, views=1)
    split(root, rows)
    return root


def run(root: Path, output: Path, **heads):
    return train.run(
        TrainConfig(heads=heads),
        "set",
        features=root / "features",
        splits=root / "splits",
        cache=output / "cache",
        output=output / "models",
    )


def test_every_head_has_its_directory_and_answers(root, tmp_path):
    run(root, tmp_path, a=HeadConfig(**FAST), m=HeadConfig(kind="mlp", units=(32, 64), **FAST))
    names = sorted(path.name for path in (tmp_path / "models").iterdir() if path.is_dir())
    assert names == ["a", "m-u32", "m-u64"]
    head = Head.load(tmp_path / "models" / "m-u64")
    rows = FeatureSet.open(root / "features")
    assert head.classes == CLASSES
    assert head.spec == rows.spec
    assert head.data[0] == rows.digest
    assert head.logits(rows.arrays()[0]).shape == (300, 3)
    assert len(head.history) == 2


@pytest.mark.parametrize("kind", HEADS)
def test_every_kind_of_the_table_learns_is_saved_and_answers(root, tmp_path, kind):
    run(root, tmp_path, a=HeadConfig(kind=kind))
    features, labels = FeatureSet.open(root / "features").arrays()
    answers = Head.load(tmp_path / "models" / "a").probabilities(features).argmax(1)
    assert (answers == labels).mean() > 0.5


@pytest.mark.fault(24)
def test_changing_one_value_of_a_grid_trains_only_the_new_points(root, tmp_path, caplog):
    caplog.set_level("INFO")
    first = run(root, tmp_path, a=HeadConfig(learning_rate=(0.1, 0.01), **FAST))
    assert (first.trained, first.reused) == (("a-lr0.1", "a-lr0.01"), ())
    kept = (tmp_path / "models" / "a-lr0.01" / "weights.npz").read_bytes()
    second = run(root, tmp_path, a=HeadConfig(learning_rate=(0.01, 0.03), **FAST))
    assert (second.trained, second.reused) == (("a-lr0.03",), ("a-lr0.01",))
    assert "set: 2 heads trained: a-lr0.1, a-lr0.01" in caplog.messages
    assert "set: 1 head reused: a-lr0.01" in caplog.messages
    assert "none" not in caplog.text
    assert {path.name for path in (tmp_path / "models").glob("*/")} == {"a-lr0.01", "a-lr0.03"}
    assert (tmp_path / "models" / "a-lr0.01" / "weights.npz").read_bytes() == kept


@pytest.mark.fault(24)
def test_only_new_points_take_steps_and_the_report_says_so(root, tmp_path, monkeypatch):
    from cryobase.stages.heads.sweep import TrainingStack

    learned: list[str] = []
    learn = TrainingStack.learn

    def counted(self, *batch):
        learned.extend(self.stack.names)
        learn(self, *batch)

    monkeypatch.setattr(TrainingStack, "learn", counted)
    steps = {}
    for rates in ((0.1, 0.01), (0.03, 0.01)):
        learned.clear()
        run(root, tmp_path, a=HeadConfig(learning_rate=rates, **FAST))
        evaluate.run(
            EvaluateConfig(),
            "set",
            features=root / "features",
            splits=root / "splits",
            models=tmp_path / "models",
            output=tmp_path / "results",
        )
        report.run(
            ReportConfig(), sets={"set": tmp_path / "results"}, runs={}, output=tmp_path / "report"
        )
        steps[rates] = sorted(set(learned))
    assert list(steps.values()) == [["a-lr0.01", "a-lr0.1"], ["a-lr0.03"]]
    heads = json.loads((tmp_path / "results" / "metrics.json").read_text())["heads"]
    assert {name: entry["training"] for name, entry in heads.items()} == {
        "a-lr0.03": "trained",
        "a-lr0.01": "reused",
    }
    page = (tmp_path / "report" / "index.html").read_text()
    assert "set: 1 trained (a-lr0.03), 1 reused (a-lr0.01)" in " ".join(page.split())


@pytest.mark.fault(24)
def test_another_split_or_label_trains_anew(root, tmp_path):
    rows = publish(tmp_path, *blobs(300, 8, 3), classes=CLASSES)
    split(tmp_path, rows)
    config = HeadConfig(**FAST)
    assert run(tmp_path, tmp_path, a=config).trained == ("a",)
    split(tmp_path, rows, seed=1)
    assert run(tmp_path, tmp_path, a=config).trained == ("a",)
    features, labels = blobs(300, 8, 3)
    labels[0] = 2
    publish(tmp_path, features, labels, classes=CLASSES)
    assert run(tmp_path, tmp_path, a=config).trained == ("a",)
    assert run(tmp_path, tmp_path, a=config).reused == ("a",)


def test_nothing_to_train_loads_no_framework(root, tmp_path):
    run(root, tmp_path, a=HeadConfig(**FAST))
    script = f"""
import sys
from pathlib import Path
from cryobase.stages import evaluate, report, train
from cryobase.stages.evaluate import EvaluateConfig
from cryobase.stages.heads.config import HeadConfig
root, output = Path({str(root)!r}), Path({str(tmp_path)!r})
summary = train.run(
    train.TrainConfig(heads={{"a": HeadConfig(epochs=2, batch_size=16)}}), "set",
    features=root / "features", splits=root / "splits",
    cache=output / "cache", output=output / "models",
)
assert summary.reused == ("a",), summary
sys.exit("tensorflow" in sys.modules or "keras" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_training_loads_tensorflow_without_its_greeting(root, tmp_path):
    script = f"""
import sys
from pathlib import Path
from cryobase.stages import train
from cryobase.stages.heads.config import HeadConfig
root, output = Path({str(root)!r}), Path({str(tmp_path)!r})
train.run(
    train.TrainConfig(heads={{"a": HeadConfig(epochs=1)}}), "set",
    features=root / "features", splits=root / "splits",
    cache=output / "cache", output=output / "models",
)
assert "tensorflow" in sys.modules
"""
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert result.stdout + result.stderr == ""


def test_views_of_the_store_are_trained_on(root, tmp_path):
    config = {"learning_rate": 0.05, "standardize": False, **FAST}
    run(root, tmp_path, plain=HeadConfig(**config), viewed=HeadConfig(views=1, **config))
    plain, viewed = (Head.load(tmp_path / "models" / name) for name in ("plain", "viewed"))
    difference = np.abs(plain.layers[0][0] - viewed.layers[0][0]).max()
    assert 0 < difference < 0.05


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (HeadConfig(output="sigmoid"), "2 classes, found 3"),
        (HeadConfig(class_weights={"cow": 2.0}), "no class 'cow'; known: cat, dog, emu"),
        (HeadConfig(views=4), "views: 4, but the set stores 1"),
    ],
)
def test_what_these_data_cannot_give_is_refused(root, tmp_path, config, message):
    with pytest.raises(ConfigError, match=f"train.heads: a: .*{message}"):
        run(root, tmp_path, a=config)


@pytest.mark.fault(16)
def test_a_class_without_training_images_is_named(tmp_path):
    features, labels = blobs(60, 4, 2)
    rows = publish(tmp_path, features, labels, classes=CLASSES)
    split(tmp_path, rows)
    with pytest.raises(DataError, match="'emu'"):
        run(tmp_path, tmp_path, a=HeadConfig(**FAST))


@pytest.mark.fault(16)
def test_one_class_is_no_problem_to_learn(tmp_path):
    features, labels = blobs(60, 4, 1)
    rows = publish(tmp_path, features, labels, classes=("cat",))
    split(tmp_path, rows)
    with pytest.raises(DataError, match="fewer than two classes"):
        run(tmp_path, tmp_path, a=HeadConfig(**FAST))


def test_a_head_that_diverges_is_named_and_stops_no_other(root, tmp_path, caplog):
    run(
        root,
        tmp_path,
        a=HeadConfig(optimizer="sgd", learning_rate=(1e38, 0.01), standardize=False, **FAST),
    )
    assert [record.args for record in caplog.records if "diverged" in record.message] == [
        ("set: a-lr1e+38",)
    ]
    diverged = Head.load(tmp_path / "models" / "a-lr1e+38")
    assert diverged.history.best_epoch is None
    assert np.isfinite(diverged.layers[0][0]).all()


def test_the_card_says_what_the_report_needs(root, tmp_path):
    run(root, tmp_path, a=HeadConfig(**FAST))
    card = json.loads((tmp_path / "models" / "a" / "head.json").read_text())
    assert card["epochs"] == 2
    assert card["best_epoch"] in (1, 2)

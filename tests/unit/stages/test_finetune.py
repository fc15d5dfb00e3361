"""Fine-tuning from each start, as the pipeline calls it."""

import csv
import json
import shutil

import numpy as np
import pytest

from stages import extract, finetune, train
from stages.errors import ConfigError, DataError, MissingWeightsError
from stages.finetune import FinetuneRun, Phase
from stages.heads.config import HeadConfig
from stages.tuning import convnets, starts
from stages.tuning.starts import Network, NewHead
from stages.tuning.tuned import TunedModel
from tests.unit.stages.tuning import tuning_data as data

PICTURES = ("curves.svg", "predictions.svg", "mistakes.svg", "views.svg")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images, a feature set of a small base, and a trained head."""
    made = data.prepare(tmp_path_factory.mktemp("finetune"), per_class=12)
    chosen = extract.SetConfig(
        backbone="mobilenetv2", weights="none", image_size=32, dtype="float32"
    )
    config = extract.ExtractConfig(engine="tensorflow", sets={"small": chosen})
    extract.run(
        config, "small", raw=made / "raw", pool=made / "pool", output=made / "features/small"
    )
    heads = train.TrainConfig(heads={"linear": HeadConfig(learning_rate=0.01, epochs=4)})
    train.run(
        heads,
        "small",
        features=made / "features/small",
        splits=made / "splits",
        cache=made / "heads",
        output=made / "models/small",
    )
    return made


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(convnets.CONVNETS, "tiny", data.TINY)


def tune(root, run, name, **options):
    head = {"weights": "none", "head": root / "models/small/linear"} if run.start == "head" else {}
    given = {
        "raw": root / "raw",
        "splits": root / "splits",
        "output": root / "tuned" / name,
        "results": root / "results" / name,
    }
    return finetune.run(run, **{**given, **head, **options})


DIGITS = {"start": "scratch", "network": Network(kind="book-digits")}


def scratch(**options):
    return FinetuneRun(start="scratch", network=Network(kind="tiny"), **options)


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_grafted_head_is_tuned_and_both_models_are_scored_on_the_same_images(root):
    run = FinetuneRun(
        set="small",
        head="linear",
        unfreeze={"from": "block_16_expand"},
        epochs=2,
        learning_rate=1e-3,
        final=True,
    )
    document = tune(root, run, "head")
    assert json.loads((root / "results/head/metrics.json").read_text()) == document
    for model in ("start", "tuned"):
        assert {"accuracy", "f1_macro", "log_loss"} <= set(document[model]["validation"])
        assert set(document[model]) == {"validation", "test"}
    assert (
        document["tuned"]["validation"]["log_loss"] <= document["start"]["validation"]["log_loss"]
    )
    table = read(root / "results/head/comparison.csv")
    assert [(row["model"], row["part"]) for row in table] == [
        ("start", "validation"), ("start", "test"), ("tuned", "validation"), ("tuned", "test")
    ]  # fmt: skip
    epochs = read(root / "results/head/history.csv")
    assert [row["epoch"] for row in epochs] == ["0", "1", "2"]
    for picture in PICTURES:
        assert (root / "results/head" / picture).read_text().startswith("<?xml")


def test_the_start_is_the_head_on_its_features(root):
    """The saved start says of pixels what the head says of stored features."""
    from stages.data.splits import Splits
    from stages.heads.head import Head
    from store import FeatureSet

    run = FinetuneRun(set="small", head="linear", unfreeze="none", epochs=1)
    tune(root, run, "none")
    saved = TunedModel.load(root / "tuned/none", "start.keras")
    ids = Splits.open(root / "splits").ids("test")
    features, _ = FeatureSet.open(root / "features/small").arrays(ids)
    expected = Head.load(root / "models/small/linear").probabilities(features)
    stream = data.stream(root)
    pixels = np.concatenate(
        [
            x
            for x, _ in data.ImageStream(
                images=stream.images, pixels=saved.pixels, batch_size=8
            ).batches(ids)
        ]
    )
    assert saved.probabilities(pixels) == pytest.approx(expected, abs=1e-4)


def test_scratch_learns_from_nothing(root):
    run = scratch(epochs=12, learning_rate=0.03, keep="best", batch_size=8)
    document = tune(root, run, "scratch")
    assert (
        document["tuned"]["validation"]["log_loss"]
        < 0.8 * document["start"]["validation"]["log_loss"]
    )


def test_phases_follow_each_other(root):
    run = FinetuneRun(
        start="fresh",
        base=extract.SetConfig(backbone="mobilenetv2", weights="none", image_size=32),
        new_head=NewHead(units=6, dropout=0.2),
        unfreeze="none",
        learning_rate=0.01,
        epochs=2,
        keep="last",
        then=(Phase(unfreeze={"last": 4}, batch_normalization="trainable", epochs=1, keep="last"),),
        tensorboard=True,
    )
    document = tune(root, run, "phases")
    assert document["epochs"] == 3
    assert document["kept_epoch"] == 3
    assert set(document["phase_1"]["validation"]) == set(document["tuned"]["validation"])
    table = read(root / "results/phases/comparison.csv")
    assert [row["model"] for row in table] == ["start", "phase_1", "tuned"]
    rows = read(root / "results/phases/history.csv")
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        ("1", "0"), ("1", "1"), ("1", "2"), ("2", "3")
    ]  # fmt: skip
    assert logged(root / "tuned/phases/tensorboard/validation") == [
        (int(row["epoch"]), pytest.approx(float(row["val_loss"]), rel=1e-6)) for row in rows
    ]


def logged(directory):
    """Epoch and loss of the events that TensorBoard would read."""
    import tensorflow as tf
    from tensorflow.core.util.event_pb2 import Event

    (path,) = directory.glob("*tfevents*")
    events = [Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    return [(e.step, v.simple_value) for e in events for v in e.summary.value if v.tag == "loss"]


def test_a_run_that_ended_leaves_no_epochs_behind(root):
    run = scratch(epochs=1)
    tune(root, run, "clean", cache=root / "cache")
    assert list((root / "cache").iterdir()) == []


def test_other_weights_than_those_of_the_features_are_refused(root, tmp_path):
    from stages.backbones.weights import locate_weights

    other = tmp_path / "other.weights.h5"
    shutil.copy(locate_weights("mobilenetv2", "none").path, other)
    with other.open("ab") as file:
        file.write(b"x")
    run = FinetuneRun(set="small", head="linear", epochs=1)
    with pytest.raises(MissingWeightsError, match="cryobase extract"):
        tune(root, run, "wrong", weights=str(other))


def test_a_head_of_other_classes_is_refused(root, tmp_path):
    elsewhere = data.prepare(tmp_path, per_class=4, classes=("blue", "green"))
    run = FinetuneRun(set="small", head="linear", epochs=1)
    with pytest.raises(DataError, match="cryobase train small"):
        tune(root, run, "classes", raw=elsewhere / "raw", splits=elsewhere / "splits")


def test_an_unknown_layer_is_refused(root):
    run = FinetuneRun(set="small", head="linear", epochs=1, unfreeze={"from": "block_99"})
    with pytest.raises(ConfigError, match="block_16_project"):
        tune(root, run, "layer")


def test_one_sigmoid_needs_two_classes(root):
    run = scratch(new_head=NewHead(output="sigmoid"), epochs=1)
    with pytest.raises(DataError, match="2 classes"):
        tune(root, run, "sigmoid")


def test_a_model_that_differs_from_its_parts_is_refused(root):
    start = starts.scratch(Network(kind="tiny"), NewHead(), ("a", "b"), 0)
    images = np.random.default_rng(0).uniform(0, 255, (2, data.SIZE, data.SIZE, 3))
    start.check(images.astype(np.float32))
    kernel, bias = start.model.get_layer("logits").get_weights()
    start.model.get_layer("logits").set_weights([kernel, bias + np.float32([0, 1])])
    with pytest.raises(DataError, match="graft"):
        start.check(images.astype(np.float32))


def test_a_tampered_model_is_refused(root):
    tune(root, scratch(epochs=1), "tampered")
    path = root / "tuned/tampered"
    (path / "model.keras").write_bytes((path / "start.keras").read_bytes()[:-1])
    with pytest.raises(DataError, match="SHA-256"):
        TunedModel.load(path)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"set": "s", "head": "h", "epochs": 0}, "epochs"),
        ({"set": "s", "head": "h", "learning_rate": float("nan")}, "learning_rate"),
        ({"set": "s", "head": "h", "warmup": 9.0}, "warmup"),
        ({"set": "s", "head": "h", "unfreeze": {"from": "a", "last": 1}}, "unfreeze"),
        ({"set": "s", "head": "h", "unfreeze": {"last": "many"}}, "unfreeze"),
        ({"set": "s"}, "head"),
        ({"start": "fresh"}, "base"),
        ({"start": "scratch"}, "network"),
        ({**DIGITS, "set": "s"}, "set"),
        ({**DIGITS, "smoothing": 1.0}, "smoothing"),
    ],
)
def test_a_run_that_means_nothing_is_refused(values, key):
    with pytest.raises(ValueError, match=key):
        FinetuneRun(**values)

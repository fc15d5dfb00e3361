"""Fine-tuning from each start, as the pipeline calls it."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from cryobase.stages import extract, finetune, report, train
from cryobase.stages.backbones.labels import imagenet_labels
from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import PARTS, Splits
from cryobase.stages.errors import ConfigError, DataError, MissingWeightsError
from cryobase.stages.finetune import FinetuneRun, PhaseConfig
from cryobase.stages.heads.config import HeadConfig
from cryobase.stages.heads.graft import GraftError
from cryobase.stages.heads.head import Head
from cryobase.stages.tuning import convnets, course, outcome, starts
from cryobase.stages.tuning.config import Network, NewHead
from cryobase.stages.tuning.resume import Checkpoints
from cryobase.stages.tuning.saved import TunedModel
from cryobase.stages.tuning.starts import precision
from cryobase.store import FeatureSet, Pool
from tests.bases import tiny_base  # noqa: F401 - a fixture
from tests.closeness import assert_close, rounding
from tests.unit.stages.tuning import tuning_data as data

PICTURES = ("curves.svg", "predictions.svg", "mistakes.svg", "views.svg")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images, a feature set of a small base, and a trained head."""
    made = data.prepare(tmp_path_factory.mktemp("finetune"), per_class=12)
    extract_small(made)
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


def extract_small(place):
    chosen = extract.SetConfig(backbone="tiny", weights="none", image_size=32, dtype="float32")
    config = extract.ExtractConfig(engine="tensorflow", sets={"small": chosen})
    output = place / "features/small"
    extract.run(config, "small", raw=place / "raw", pool=place / "pool", output=output)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(convnets.CONVNETS, "tiny", data.TINY)


def tune(root, run, name, *, drawn=False, **options):
    """What `finetune` does; its pictures, most of its time, only for tests that look at them."""
    head = {
        "weights": "none",
        "head": root / "models/small/linear",
        "features": root / "features/small",
    }
    given = {
        "raw": root / "raw",
        "splits": root / "splits",
        "output": root / "tuned" / name,
        "results": root / "results" / name,
    }
    with pytest.MonkeyPatch.context() as patch:
        if not drawn:
            patch.setattr(outcome, "_draw", lambda *_, **__: None)
        return finetune.run(run, **{**given, **(head if run.start == "head" else {}), **options})


@pytest.fixture(scope="module")
def whole(root):
    """A run that has ended, from which tests take copies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(convnets.CONVNETS, "tiny", data.TINY)
        tune(root, scratch(epochs=1), "whole")
    return root


def copied(whole, name):
    """The same run under another name."""
    for kind in ("tuned", "results"):
        shutil.copytree(whole / kind / "whole", whole / kind / name, dirs_exist_ok=True)


DIGITS = {"start": "scratch", "network": Network(kind="book-digits")}


def scratch(**options):
    return FinetuneRun(start="scratch", network=Network(kind="tiny"), **options)


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_grafted_head_is_tuned_and_both_models_are_scored_on_the_same_images(root):
    run = FinetuneRun(
        set="small",
        head="linear",
        unfreeze={"from": "block_2_depth"},
        epochs=2,
        learning_rate=1e-3,
        final=True,
    )
    document = tune(root, run, "head", drawn=True)
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
    assert len({row["val_loss"] for row in epochs}) == 3  # something was learnt
    for picture in PICTURES:
        assert (root / "results/head" / picture).read_text().startswith("<?xml")


def test_the_start_is_the_head_on_its_features(root):
    """The saved start says of pixels what the head says of stored features."""
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
    # ten layers of sums, the longest of 8 * 24 products; probabilities err no more than logits
    assert_close(saved.probabilities(pixels), expected, within=rounding(10 * 192))


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
        base=extract.SetConfig(backbone="tiny", weights="none", image_size=32),
        new_head=NewHead(units=6, dropout=0.2),
        unfreeze="none",
        learning_rate=0.01,
        epochs=2,
        keep="last",
        then=(
            PhaseConfig(
                unfreeze={"last": 4}, batch_normalization="trainable", epochs=1, keep="last"
            ),
        ),
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
    values = [(e.step, value) for e in events for value in e.summary.value if value.tag == "loss"]
    assert {value.metadata.plugin_data.plugin_name for _, value in values} == {"scalars"}
    return [(step, float(tf.make_ndarray(value.tensor))) for step, value in values]


def test_a_run_that_ended_leaves_no_epochs_behind(root):
    run = scratch(epochs=1)
    tune(root, run, "clean", cache=root / "cache")
    assert list((root / "cache").iterdir()) == []


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("name", ["model.keras", "model.json"])
@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_damaged_model_names_the_command_that_makes_it_again(root, whole, name, damage):
    copied(whole, "damaged")
    damage(root / "tuned/damaged" / name)
    with pytest.raises(DataError, match=r"not a usable model .*run `cryobase finetune`$"):
        TunedModel.load(root / "tuned/damaged")
    tune(root, scratch(epochs=1), "damaged")  # what the command does
    TunedModel.load(root / "tuned/damaged")


def test_damaged_scores_name_the_command_that_makes_them_again(root, whole, tmp_path):
    copied(whole, "scores")
    (root / "results/scores/metrics.json").write_text("{")
    ask = {"sets": {}, "runs": {"scores": root / "results/scores"}, "output": tmp_path}
    with pytest.raises(DataError, match="run `cryobase finetune scores`"):
        report.run(report.ReportConfig(), **ask)
    tune(root, scratch(epochs=1), "scores")
    report.run(report.ReportConfig(), **ask)


def test_wrong_stored_features_are_mended_as_the_message_says(root, tmp_path):
    """Rows that are sound and of the right spec, but of no image here."""
    place = shutil.copytree(root, tmp_path / "place")
    output = place / "features/small"
    found = FeatureSet.open(output)
    shutil.rmtree(place / "pool")
    shutil.rmtree(output)
    wrong = Pool(place / "pool", found.spec)
    with wrong.writer() as writer:
        rows = np.random.default_rng(0).normal(size=(len(found), *found.feature_shape))
        digests = found.examples.digests
        writer.append(rows.astype("f4"), digests, np.zeros(len(digests), "u2"))
    wrong.publish(output, found.examples)
    run = FinetuneRun(set="small", head="linear", unfreeze="none", epochs=1)
    with pytest.raises(GraftError, match="remove the feature set and the pool") as caught:
        tune(place, run, "wrong")
    assert str(caught.value).endswith("run `cryobase extract`")
    [pool] = re.findall("the pool ([0-9a-f]+)…", str(caught.value))
    [directory] = (place / "pool").glob(f"{pool}*/")
    shutil.rmtree(directory)
    shutil.rmtree(output)
    extract_small(place)
    tune(place, run, "wrong")


def test_other_weights_than_those_of_the_features_are_refused(root, tmp_path):
    from cryobase.stages.backbones.weights import locate_weights

    other = tmp_path / "other.weights.h5"
    shutil.copy(locate_weights("tiny", "none").path, other)
    with other.open("ab") as file:
        file.write(b"x")
    run = FinetuneRun(set="small", head="linear", epochs=1)
    with pytest.raises(MissingWeightsError, match="cryobase extract"):
        tune(root, run, "wrong", weights=str(other))


def test_wrong_preprocessing_is_refused_before_anything_is_trained(root, tmp_path, monkeypatch):
    """The head says `unit`, its features came from the base's own `caffe`."""
    head = Head.load(root / "models/small/linear")
    spec = dataclasses.replace(head.spec, preprocessing="unit")
    dataclasses.replace(head, specs=(spec,)).save(tmp_path / "head")
    monkeypatch.setattr(course, "train", lambda *_, **__: pytest.fail("a step was taken"))
    run = FinetuneRun(set="small", head="linear", epochs=1)
    with pytest.raises(GraftError, match="made with preprocessing 'caffe', not 'unit'"):
        tune(root, run, "preprocessing", head=tmp_path / "head")
    assert not (root / "tuned/preprocessing").exists()


def test_a_head_without_its_feature_set_is_refused(root):
    run = FinetuneRun(set="small", head="linear", epochs=1)
    with pytest.raises(ConfigError, match="feature set"):
        tune(root, run, "alone", features=None)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_saves_and_goes_on(root, policy, monkeypatch):
    """A run of half precision that is stopped after two epochs ends as an unbroken one."""
    monkeypatch.setitem(convnets.CONVNETS, "tiny", dataclasses.replace(data.TINY, dropout=0.0))
    options = {"epochs": 4, "learning_rate": 0.01, "warmup": 1, "batch_size": 8, "keep": "last"}
    run = scratch(precision=policy, **options)
    tune(root, run, f"{policy}-whole")
    if not (root / "tuned/single").exists():
        tune(root, scratch(precision="float32", **options), "single")
    half, single = (
        [float(row["val_loss"]) for row in read(root / "results" / name / "history.csv")]
        for name in (f"{policy}-whole", "single")
    )
    # untrained: pixels, two convolutions, their activations, two poolings
    assert_close(half[0], single[0], within=rounding(8, policy.removeprefix("mixed_")))
    # trained: one that goes another way would not get as far
    assert_close(half[0] - half[-1], single[0] - single[-1], within=0.5)
    save = Checkpoints.save

    def stopping(self, state):
        save(self, state)
        if len(state.rows) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            tune(root, run, policy, cache=root / "cache")
    tune(root, run, policy, cache=root / "cache")
    model, whole = (
        TunedModel.load(root / "tuned" / name).model for name in (policy, f"{policy}-whole")
    )
    layers = [model.get_layer(name) for name in ("conv2", "logits")]
    assert [one.compute_dtype for one in layers] == [policy.removeprefix("mixed_"), "float32"]
    assert [one.variable_dtype for one in layers] == ["float32", "float32"]
    for found, expected in zip(model.get_weights(), whole.get_weights(), strict=True):
        assert np.array_equal(found, expected)


def test_a_trained_head_is_tuned_in_mixed_precision(root):
    """The base computes in half precision, near to the single one; the head in single precision."""
    run = FinetuneRun(set="small", head="linear", unfreeze={"last": 4}, epochs=1, keep="last")
    features, moves = {}, {}
    for policy in ("mixed_float16", "float32"):
        tune(root, dataclasses.replace(run, precision=policy), f"head-{policy}")
        start, tuned = (
            TunedModel.load(root / "tuned" / f"head-{policy}", name)
            for name in ("start.keras", "model.keras")
        )
        *base, standardize, logits, probabilities = start.model.layers[1:]
        assert {one.compute_dtype for one in base} == {policy.removeprefix("mixed_")}
        assert {one.compute_dtype for one in (standardize, logits, probabilities)} == {"float32"}
        assert {one.variable_dtype for one in start.model.layers} == {"float32"}
        features[policy], answers = answered(root, start)
        head = Head.load(root / "models/small/linear")
        # 24 products, standardised before: the mean is some spreads away from zero
        assert_close(answers, head.logits(features[policy]), within=rounding(100 * 24))
        moves[policy] = np.concatenate(
            [
                (after - before).ravel()
                for before, after in zip(
                    start.model.get_weights(), tuned.model.get_weights(), strict=True
                )
            ]
        )
    # at worst every product is rounded: sums of 27, 9 and 72, a mean of 64 pixels, five layers more
    depth = 27 + 9 + 72 + 64 + 5
    half, single = features["mixed_float16"], features["float32"]
    assert_close(half, single, within=rounding(depth, "float16"))
    assert np.abs(half - single).max() > rounding(1) * single.max()  # and it is rounded
    lengths = [np.linalg.norm(move) for move in moves.values()]
    # Adam's step has one length whatever the gradient's; more than half of it must agree
    assert moves["mixed_float16"] @ moves["float32"] > 0.5 * np.prod(lengths) > 0


def answered(root, tuned):
    """Of validation images: the base's features and the head's logits."""
    import keras

    model = tuned.model
    ids = Splits.open(root / "splits").ids("validation")
    outputs = [model.get_layer("standardize").input, model.get_layer("logits").output]
    stream = data.ImageStream(
        images=RawImages.open(root / "raw"), pixels=tuned.pixels, batch_size=100
    )
    ((pixels, _),) = stream.batches(ids)
    features, logits = keras.Model(model.inputs[0], outputs)(pixels)
    return np.asarray(features, np.float32), np.asarray(logits)


@pytest.mark.parametrize(("gpus", "policy"), [([], "float32"), (["GPU:0"], "mixed_float16")])
def test_precision_follows_the_machine(gpus, policy, monkeypatch):
    import keras
    import tensorflow as tf

    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind=None: gpus if kind == "GPU" else []
    )
    with precision("auto") as chosen:
        assert chosen == policy == keras.config.dtype_policy().name
    assert keras.config.dtype_policy().name == "float32"


def test_a_base_is_asked_first_what_it_sees(root):
    base = extract.SetConfig(backbone="tiny", weights="none", image_size=32)
    run = FinetuneRun(start="fresh", base=base, unfreeze="none", epochs=1, imagenet_labels=2)
    tune(root, run, "labels")
    rows = read(root / "tuned/labels/imagenet.csv")
    assert [row["rank"] for row in rows] == ["1", "2", "3"] * 2
    assert len({row["id"].partition("/")[0] for row in rows}) == 2
    assert all(row["label"] in imagenet_labels() for row in rows)
    assert sum(float(row["probability"]) for row in rows) < 2


def test_the_smoothed_choice_is_what_training_so_long_gives(root):
    """As the book does it: choose an epoch on the smoothed curve, train again for so many."""
    options = {"learning_rate": 0.3, "batch_size": 8}
    document = tune(root, scratch(epochs=6, keep="smoothed", **options), "chosen")
    assert 1 < document["kept_epoch"] < 6
    again = scratch(epochs=document["kept_epoch"], keep="last", **options)
    tune(root, again, "again")
    chosen, trained = (TunedModel.load(root / "tuned" / name).model for name in ("chosen", "again"))
    for found, expected in zip(chosen.get_weights(), trained.get_weights(), strict=True):
        assert np.array_equal(found, expected)


def test_a_head_of_other_classes_is_refused(root, tmp_path):
    elsewhere = data.prepare(tmp_path, per_class=4, classes=("blue", "green"))
    run = FinetuneRun(set="small", head="linear", epochs=1)
    with pytest.raises(DataError, match="cryobase train small"):
        tune(root, run, "classes", raw=elsewhere / "raw", splits=elsewhere / "splits")


def test_an_unknown_layer_is_refused(root):
    run = FinetuneRun(set="small", head="linear", epochs=1, unfreeze={"from": "block_99"})
    with pytest.raises(ConfigError, match="block_2_conv"):
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


def test_a_tampered_model_is_refused(root, whole):
    copied(whole, "tampered")
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


@pytest.mark.parametrize("empty", ["validation", "validation and test"])
def test_without_validation_images_the_last_epoch_is_kept_and_scored_on_others(
    root, tmp_path, empty
):
    before = Splits.open(root / "splits")
    kept = before.part == 0 if "test" in empty else before.part != 1
    after = Splits(before.all_ids[kept], before.part[kept])
    after.write(tmp_path / "splits", [{"part": part, "images": 0} for part in PARTS])
    run = scratch(epochs=2, then=(PhaseConfig(epochs=1),), final=True)
    place = {"output": tmp_path / "tuned", "results": tmp_path / "results"}
    document = tune(root, run, "unvalidated", drawn=True, splits=tmp_path / "splits", **place)
    judged = {"train"} if "test" in empty else {"test"}
    assert set(document["tuned"]) == set(document["start"]) == judged
    assert document["phase_1"] == {}
    assert document["kept_epoch"] == 3
    for name in ("metrics.json", "comparison.csv", "history.csv"):
        assert "nan" not in (tmp_path / "results" / name).read_text().lower()
    assert {path.name for path in (tmp_path / "results").glob("*.svg")} == set(PICTURES)

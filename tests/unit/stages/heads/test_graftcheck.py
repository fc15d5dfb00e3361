"""Grafted models against stored features, on real image files and a small base."""

import dataclasses
import hashlib

import cv2
import numpy as np
import pytest

from cryobase.stages.data.pixels import PixelSpec, load
from cryobase.stages.heads.graft import GraftError, Samples, check_graft, first_difference, graft
from cryobase.stages.heads.kinds import train
from cryobase.stages.heads.rows import ArrayRows, Task
from cryobase.stages.heads.side_by_side import SideBySide
from cryobase.store import Examples, Pool
from tests.unit.stages.heads.sets import SPEC
from tests.unit.stages.heads.test_head import make_head

SIZE = 32
COUNT = 40


class Files:
    """As much of `RawImages` as the check uses."""

    def __init__(self, examples, files):
        self.examples, self._files = examples, files

    def read(self, position):
        return self._files[position]


def backbone(preprocessing="lite"):
    """A small base with fixed weights."""
    import keras

    from cryobase.stages.backbones.preprocessing import PREPROCESSINGS

    keras.utils.clear_session()
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = PREPROCESSINGS[preprocessing](image)
    for k, (name, width) in enumerate((("conv", 8), ("top", 12))):
        drawn = keras.initializers.GlorotUniform(k)
        x = keras.layers.Conv2D(
            width, 3, 2, activation="relu", kernel_initializer=drawn, name=name
        )(x)
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))


def reference(head, preprocessing):
    return graft(backbone(preprocessing or "lite"), head)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A head on the stored float16 features of 40 PNG files."""
    root = tmp_path_factory.mktemp("graft")
    random = np.random.default_rng(0)
    files = []
    for k in range(COUNT):
        base = np.full((48, 40, 3), 60 * (k % 3) + 40, np.uint8)
        noise = random.integers(0, 60, base.shape).astype(np.uint8)
        files.append(cv2.imencode(".png", base + noise)[1].tobytes())
    digests = np.stack([np.frombuffer(hashlib.sha256(f).digest(), np.uint8) for f in files])
    ids = [f"{k:03}.png".encode() for k in range(COUNT)]
    labels = np.arange(COUNT, dtype=np.int32) % 3
    examples = Examples.create(ids, digests, labels, None, ("a", "b", "c"))
    spec = dataclasses.replace(SPEC, image_size=SIZE, dtype="float16")
    pixels = np.stack([load(file, PixelSpec.of(spec)) for file in files])
    features = backbone()(pixels).numpy()
    pool = Pool(root / "pool", spec)
    with pool.writer() as writer:
        writer.append(features, digests, np.zeros(COUNT, int))
    pool.publish(root / "features", examples)
    rows = ArrayRows(features, labels=labels, classes=examples.classes)
    params = make_head(kind="linear", shape=(12,)).params
    everything = Task(rows, np.arange(COUNT), np.arange(0))
    trained = train(everything, {"h": params})["h"]
    head = dataclasses.replace(
        make_head(kind="linear", shape=(12,)),
        specs=(spec,),
        layers=trained.layers,
        mean=trained.mean,
        scale=trained.scale,
    )
    samples = Samples(SideBySide.open(root / "features"), Files(examples, files), examples.ids)
    return head, samples


def test_a_right_graft_agrees_also_reloaded(made, tmp_path):
    import keras

    head, samples = made
    reference(head, None).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    found = check_graft(model, head, samples, reference)
    assert found.images == found.equal_labels == COUNT
    assert found.deviation < 0.01


@pytest.mark.fault(58)
@pytest.mark.parametrize("name", ["conv", "top", "logits"])
def test_a_layer_with_other_weights_is_named(made, name):
    head, samples = made
    model = reference(head, None)
    layer = model.get_layer(name)
    layer.set_weights([weight * 1.3 + 0.01 for weight in layer.get_weights()])
    with pytest.raises(GraftError, match=f"change: the layer '{name}' has a different output"):
        check_graft(model, head, samples, reference)


@pytest.mark.fault(41)
def test_a_model_with_other_preprocessing_is_named(made):
    head, samples = made
    model = graft(backbone("unit"), head)
    with pytest.raises(GraftError, match=r"preprocessing, operation|lacks the layer 'subtract"):
        check_graft(model, head, samples, reference)


@pytest.mark.fault(41)
def test_features_of_another_preprocessing_are_named(made):
    """Model and spec say `unit`, the stored features came from `lite`."""
    head, samples = made
    wrong = dataclasses.replace(head, specs=(dataclasses.replace(head.spec, preprocessing="unit"),))

    def unit(one, preprocessing):
        return graft(backbone(preprocessing or "unit"), one)

    with pytest.raises(GraftError, match="made with preprocessing 'lite', not 'unit'"):
        check_graft(unit(wrong, None), wrong, samples, unit)


def test_features_of_nothing_known_say_what_to_run(made):
    head, samples = made
    other = dataclasses.replace(head, layers=((head.layers[0][0][::-1], head.layers[0][1]),))
    model = reference(other, None)

    class Turned(Samples):
        def stored(self):
            return super().stored()[::-1]

    turned = Turned(samples.features, samples.images, samples.ids)
    pool = head.specs[0].fingerprint[:12]
    remedy = f"remove the feature set and the pool {pool}…, then run `cryobase extract`"
    with pytest.raises(GraftError, match=remedy):
        check_graft(model, other, turned, reference)


def test_equal_models_have_no_first_difference(made):
    head, samples = made
    (pixels, *_) = samples.pixels()
    assert first_difference(reference(head, None), reference(head, None), pixels) is None

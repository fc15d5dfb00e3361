"""EfficientNet-Lite0 with its real weights: pinned features, sensible labels."""

import numpy as np
import pytest

from cryobase.stages.backbones import lite0
from cryobase.stages.backbones.checkpoint import read_checkpoint
from cryobase.stages.backbones.labels import classifier, imagenet_labels, pixel_spec, top_labels
from cryobase.stages.backbones.probes import probes
from cryobase.stages.backbones.weights import locate_weights
from cryobase.stages.data.pixels import resize
from cryobase.stages.extraction.engines import ENGINES, TOLERANCE, deviation, start_engine
from cryobase.stages.extraction.trunk import Trunk
from tests.closeness import BETWEEN_ENGINES, assert_close, rounding

pytest.importorskip(lite0.PACKAGE)


GOLDEN = [
    [0.0, 1.80974, 0.0, 0.05065, 0.63767, 0.0, 0.0, 0.0, 0.0, 0.00292],
    [0.0, 0.06285, 0.0, 0.0, 1.18648, 0.52495, 0.0, 0.0, 0.0, 0.09471],
]


@pytest.fixture(scope="module")
def trunk():
    return Trunk(
        backbone="efficientnet_lite0",
        weights=locate_weights("efficientnet_lite0", "imagenet"),
        image_size=96,
        preprocessing="lite",
    )


@pytest.fixture(scope="module")
def features(trunk):
    return np.asarray(trunk.model(["avg"])(probes(2, 96, seed=1)))


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "tensorflow"])
def test_engines_agree_on_the_real_weights(engine, trunk, features):
    """Halved by OpenVINO on saving, they would err by a tenth of the features' spread."""
    for _ in ("kept", "loaded"):
        found = start_engine(engine, trunk, ["avg"], 8)(probes(2, 96, seed=1))[0]
        measured = deviation(found, features)
        print(f"\nefficientnet_lite0, real weights {measured:.1e}")
        assert measured < TOLERANCE


def test_golden_features(features):
    """Guards EXTRACTOR_VERSION: if these change, every stored feature is stale."""
    assert features.shape == (2, 1280)
    assert_close(features[:, ::128], GOLDEN, within=BETWEEN_ENGINES, scale=features.std())
    found = [features.mean(), features.std(), features[0] @ features[1]]
    ratios = np.divide(found, [0.3506312, 0.8969811, 815.06226])
    assert_close(ratios, np.ones(3), within=BETWEEN_ENGINES)  # of sums, in which errors cancel out


def test_the_checkpoint_has_the_models_tensors_in_order():
    tensors = read_checkpoint(lite0.packaged_weights())
    names = list(tensors)
    assert names[0] == "_conv_stem.weight"
    assert names[-2:] == ["_fc.weight", "_fc.bias"]
    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert all(array.flags.c_contiguous for array in tensors.values())
    # no variance is negative where strides and offsets were read right
    assert all(array.min() >= 0 for name, array in tensors.items() if name.endswith("running_var"))


def test_labels_are_the_thousand_classes():
    labels = imagenet_labels()
    assert len(labels) == len(set(labels)) == 1000
    assert (labels[0], labels[292]) == ("tench, Tinca tinca", "tiger, Panthera tigris")
    assert (labels[367].split(",")[0], labels[954]) == ("chimpanzee", "banana")


def test_the_classifier_gives_probabilities_and_names():
    whole = pixel_spec("efficientnet_lite0")
    images = np.stack([resize(image, whole) for image in probes(2, 64, seed=4)])
    rows = top_labels("efficientnet_lite0", images, top=1000)
    for labels in rows:
        assert len(labels) == 1000
        assert_close(sum(label.probability for label in labels), 1, within=rounding(1000))
        assert labels == sorted(labels, key=lambda label: -label.probability)
        assert all(label.name == imagenet_labels()[label.number] for label in labels)


def test_drawings_get_sensible_labels():
    images = np.stack([drawing("ball"), drawing("maze")])
    probabilities = np.asarray(classifier("efficientnet_lite0")(images))
    names = [imagenet_labels()[number] for number in probabilities.argmax(axis=1)]
    assert names == ["ping-pong ball", "maze, labyrinth"]


def drawing(kind: str) -> np.ndarray:
    rows, columns = np.mgrid[-1:1:224j, -1:1:224j]
    radius, angle = np.hypot(rows, columns), np.arctan2(rows, columns)
    image = np.full((224, 224, 3), 255, np.float32)
    if kind == "ball":
        shade = np.clip(1.2 - np.hypot(rows + 0.25, columns + 0.25), 0.1, 1)[..., None]
        image = np.where((radius < 0.6)[..., None], np.float32([255, 140, 0]) * shade, image)
    else:
        image[...] = 30
        image[(np.abs(np.sin(4 * angle)) * radius < 0.012) | (np.sin(40 * radius) > 0.97)] = 230
    return image.astype(np.float32)

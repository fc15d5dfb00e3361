"""A base's own classifier: its most probable ImageNet labels for images."""

import json
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.build import set_weights
from cryobase.stages.backbones.frameworks import forget_names, load_keras
from cryobase.stages.backbones.preprocessing import PREPROCESSINGS
from cryobase.stages.backbones.table import BACKBONES, Backbone, resolve
from cryobase.stages.backbones.weights import locate_weights
from cryobase.stages.data.pixels import PixelSpec
from cryobase.stages.errors import ConfigError, MissingWeightsError


class Label(NamedTuple):
    """One of ImageNet's 1,000 classes (names from WordNet), and its probability."""

    number: int
    name: str
    probability: float


@cache
def imagenet_labels() -> tuple[str, ...]:
    """The 1,000 classes of ILSVRC 2012 in the order of every base's classifier."""
    file = resources.files("cryobase.stages.backbones") / "imagenet_labels.json"
    return tuple(json.loads(file.read_text("utf-8")))


def pixel_spec(backbone: str) -> PixelSpec:
    """How images become the classifier's input: padded to a square, at the base's own size.

    Raises:
        ConfigError: there is no such base.
    """
    return PixelSpec(image_size=_row(backbone).image_size, aspect="pad")


def top_labels(
    backbone: str, pixels: NDArray[np.float32], *, top: int = 5, weights: str = "imagenet"
) -> list[list[Label]]:
    """The most probable ImageNet labels of images.

    Args:
        backbone: a key of `BACKBONES`.
        pixels: (n, size, size, 3), RGB, 0 to 255, decoded by `pixel_spec`.
        top: the number of labels of each image.
        weights: `imagenet`, or `none` for random weights, in a trial.

    Raises:
        MissingWeightsError: the weights of the base with its classifier are not available.
    """
    probabilities = np.asarray(classifier(backbone, weights)(pixels, training=False))
    names = imagenet_labels()
    return [
        [Label(int(i), names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]]
        for row in probabilities
    ]


def classifier(backbone: str, weights: str = "imagenet") -> Any:
    """A base with its classifier, from pixels in 0 to 255 to probabilities.

    Args:
        backbone: a key of `BACKBONES`.
        weights: `imagenet`, or `none` for random weights with a fixed seed.
    """
    keras = load_keras()
    row = _row(backbone)
    forget_names()
    if weights == "none":
        keras.utils.set_random_seed(0)
    inputs = keras.Input((row.image_size, row.image_size, 3), name="image")
    tensor = PREPROCESSINGS[row.preprocessing](inputs)
    try:
        packaged = not row.weights.startswith("https://")  # Keras cannot load those by name
        named = None if packaged or weights == "none" else weights
        base = resolve(row.constructor)(input_tensor=tensor, include_top=True, weights=named)
        if packaged and weights != "none":
            set_weights(backbone, base, locate_weights(backbone, weights).path)
    except MissingWeightsError:
        raise
    except Exception as error:  # noqa: BLE001 (Keras' download raises a bare Exception)
        reason = " ".join(str(error).split())[:200]
        raise MissingWeightsError(
            f"{backbone}: the weights of its classifier could not be had ({reason}); connect once,"
            " put that file into ~/.keras/models, or take efficientnet_lite0, which has them"
        ) from None
    return keras.Model(inputs, base.output)


def _row(backbone: str) -> Backbone:
    try:
        return BACKBONES[backbone]
    except KeyError:
        known = ", ".join(BACKBONES)
        raise ConfigError(f"no backbone {backbone!r}; take one of {known}") from None

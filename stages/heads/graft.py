"""Joining a backbone (for a pair, two) and a head into one Keras model, and checking that model.

The check compares the model's logits on images with the head's logits on their stored features.
Nothing here writes a model: see `export.py`.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.frameworks import load_keras
from cryobase.stages.backbones.preprocessing import PREPROCESSINGS
from cryobase.stages.backbones.weights import locate_weights
from cryobase.stages.data.pixels import PixelSpec, load
from cryobase.stages.data.raw import RawImages
from cryobase.stages.errors import DataError, MissingWeightsError, StageError
from cryobase.stages.heads.head import Head
from cryobase.stages.heads.rows import Floats
from cryobase.stages.heads.side_by_side import SideBySide
from cryobase.store import FeatureSpec
from cryobase.store.text import counted

logger = logging.getLogger(__name__)


def graft_onto(
    head: Head, weights: str | Sequence[str] | None, *, preprocessing: str | None = None
) -> Any:
    """Build the backbones that a head was trained on, with preprocessing, and graft the head.

    Args:
        head: the head.
        weights: where to look for the backbones' weights: "imagenet", "none" or paths; None keeps
            the random weights that Keras draws.
        preprocessing: replaces the preprocessing of the head's features, for diagnosis.

    Raises:
        DataError: the head's feature sets decode or resize an image in different ways, so one
            input cannot serve both.
        MissingWeightsError: no weights are those that the features were computed with.
    """
    images = [PixelSpec.of(spec) for spec in head.specs]
    if other := next((one for one in images if one != images[0]), None):
        raise DataError(
            f"graft: one model has one input, the head's feature sets take {images[0]} and {other};"
            " extract both with equal image_size, resize, aspect and decode"
        )
    sources = [weights] if isinstance(weights, str) else weights
    bases: list[list[FeatureSpec]] = []
    for spec in head.specs:
        if bases and bases[-1][0].pass_key() == spec.pass_key():
            bases[-1].append(spec)
        else:
            bases.append([spec])
    built = [_base(specs, sources, preprocessing) for specs in bases]
    return graft(built[0] if len(built) == 1 else _beside(built), head)


def weights_of(spec: FeatureSpec, sources: Sequence[str]) -> Path:
    """The weights file that the features of a spec were computed with.

    Raises:
        MissingWeightsError: no source has this file.
    """
    reasons = []
    for source in dict.fromkeys(sources):
        try:
            file = locate_weights(spec.backbone, source, image_size=spec.image_size)
        except MissingWeightsError as error:
            reasons.append(str(error))
            continue
        if file.sha256 == spec.weights_sha256:
            return file.path
        reasons.append(f"{file.path}: SHA-256 {file.sha256[:12]}…")
    raise MissingWeightsError(
        f"the weights of {spec.backbone} with SHA-256 {spec.weights_sha256[:12]}… are needed;"
        f" found: {'; '.join(reasons) or 'nothing'}; bring them, or run `cryobase extract &&"
        " cryobase train`"
    )


def _base(
    specs: Sequence[FeatureSpec], sources: Sequence[str] | None, preprocessing: str | None
) -> Any:
    """One backbone with one output for each spec."""
    from cryobase.stages.backbones.build import build

    first = specs[0]
    return build(
        first.backbone,
        None if sources is None else weights_of(first, sources),
        image_size=first.image_size,
        preprocessing=preprocessing or first.preprocessing,
        outputs=[spec.output for spec in specs],
    )


def _beside(bases: Sequence[Any]) -> Any:
    """Several backbones on one image. Each stays a nested model, because layer names repeat."""
    keras = load_keras()
    image = keras.Input(bases[0].input_shape[1:], name="image")
    features = []
    for k, base in enumerate(bases):
        named = keras.Model(base.inputs[0], base.outputs, name=f"base{k}_{base.name}")
        features += named(image)
    model = keras.Model(image, features, name="side_by_side_bases")
    model.trainable = False
    return model


def graft(backbone: Any, head: Head) -> Any:
    """A `keras.Model` from images (n, size, size, 3), RGB 0..255, to probabilities.

    Args:
        backbone: a model with one output for each spec of the head, preprocessing included.
        head: the head; its standardisation becomes a separate layer.

    Returns:
        The model. Its output is (n, classes). For a head with `output: sigmoid` it is (n, 1), the
        probability of the second class. The last two layers are `logits` and `probabilities`.

    Raises:
        DataError: the backbone's features do not have the head's shapes.
    """
    keras = load_keras()
    shapes = tuple(tuple(output.shape[1:]) for output in backbone.outputs)
    if shapes != head.shapes:
        raise DataError(f"graft: the backbone gives {shapes}, the head takes {head.shapes}")
    flat = [keras.layers.Flatten(name=f"flat{k}")(x) for k, x in enumerate(backbone.outputs)]
    x = flat[0] if len(flat) == 1 else keras.layers.Concatenate(name="side_by_side")(flat)
    x = _with_head(x, head)
    activation = "sigmoid" if head.outputs == 1 else "softmax"
    x = keras.layers.Activation(activation, dtype="float32", name="probabilities")(x)
    return keras.Model(backbone.inputs[0], x, name="grafted")


def _with_head(x: Any, head: Head) -> Any:
    layers = load_keras().layers

    if head.mean is not None and head.scale is not None:
        # no Normalization: tf2onnx makes its mean and variance inputs of the model
        scale = 1 / head.scale.astype(np.float64)
        rescaling = layers.Rescaling(scale, -head.mean * scale, dtype="float32", name="standardize")
        x = rescaling(x)
    for k, weights in enumerate(head.layers):
        last = k == len(head.layers) - 1
        dense = layers.Dense(
            len(weights[1]),
            activation=None if last else head.params.activation,
            dtype="float32",  # half precision would save nothing here and round small differences
            name="logits" if last else f"hidden{k}",
        )
        x = dense(x)
        dense.set_weights(weights)
        if head.params.dropout and not last:
            x = layers.Dropout(head.params.dropout, dtype="float32", name=f"dropout{k}")(x)
    return x


TOLERANCE = 0.02  # of the logits' deviation: float16 features and other engines stay below 0.01
ALIKE = 1e-3  # of a layer's deviation: the same layer on the same input
BATCH = 32
PROBES = 2  # images on which layers are compared with each other

Reference = Callable[[Head, str | None], Any]


class GraftError(StageError, ArithmeticError):
    """The answers of a grafted model differ from its head's. The message names the cause."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Images of a feature set, as files and as stored features.

    Attributes:
        features: the set, or several sets side by side that turn a file into the same pixels.
        images: the image files.
        ids: ids of the images.
    """

    features: SideBySide
    images: RawImages
    ids: NDArray[np.bytes_]

    def pixels(self) -> Iterator[Floats]:
        """Batches (n, size, size, 3), RGB, 0 to 255."""
        spec = PixelSpec.of(self.features.specs[0])
        positions = self.images.examples.positions(self.ids)
        for start in range(0, len(positions), BATCH):
            some = positions[start : start + BATCH]
            yield np.stack([load(self.images.read(int(position)), spec) for position in some])

    def stored(self) -> Floats:
        """The features (n, ...)."""
        return self.features.arrays(self.ids)[0]


@dataclass(frozen=True)
class Agreement:
    """How well a grafted model agrees with its head on stored features.

    Attributes:
        images: how many images were compared.
        deviation: the largest difference of logits, in standard deviations of the logits.
        equal_labels: how many images get the same class from the model and from the head.
    """

    images: int
    deviation: float
    equal_labels: int


def check_graft(model: Any, head: Head, samples: Samples, reference: Reference) -> Agreement:
    """Compare a model's logits on image files with the head's logits on the stored features.

    Args:
        model: the grafted model, perhaps saved and loaded again.
        head: the head that the model was made of.
        samples: the images to compare on; their set has the head's spec.
        reference: builds the model again from a head and, if not None, another preprocessing.

    Raises:
        GraftError: the logits differ; the message names the first layer that differs, or the
            preprocessing.
    """
    if "logits" not in [layer.name for layer in model.layers]:
        raise GraftError("graft check: the model lacks the layer 'logits'")
    logits = np.concatenate([_logits(model, batch) for batch in samples.pixels()])
    expected = head.logits(samples.stored())
    agreement = Agreement(
        len(logits), _deviation(logits, expected), int((_labels(logits) == _labels(expected)).sum())
    )
    if agreement.deviation > TOLERANCE or not np.isfinite(logits).all():
        few = replace(samples, ids=samples.ids[:PROBES])
        raise GraftError(
            f"graft check: logits differ by {agreement.deviation:.2g} of their deviation on"
            f" {len(logits)} images, {len(logits) - agreement.equal_labels} labels change:"
            f" {_cause(model, head, few, reference)}"
        )
    logger.info(
        "graft check: base and head as one model give the same class as the head on %d of %s, and"
        " logits that differ by at most %.2g standard deviations",
        agreement.equal_labels,
        counted(agreement.images, "image"),
        agreement.deviation,
    )
    return agreement


def _cause(model: Any, head: Head, samples: Samples, reference: Reference) -> str:
    """The first operation that differs from a fresh graft, or how the features were made."""
    (pixels,) = samples.pixels()
    if different := first_difference(model, reference(head, None), pixels):
        return different
    stored = head.logits(samples.stored())
    used = {spec.preprocessing for spec in head.specs}
    for name in sorted(set(PREPROCESSINGS) - used):
        if _deviation(_logits(reference(head, name), pixels), stored) <= TOLERANCE:
            meant = " and ".join(map(repr, sorted(used)))
            return f"the stored features were made with preprocessing {name!r}, not {meant}"
    pools = " and ".join(spec.fingerprint[:12] for spec in head.specs)
    return (
        "the stored features are not what the backbone gives; remove the feature set and the pool"
        f" {pools}…, then run `cryobase extract`"
    )


def first_difference(model: Any, right: Any, pixels: Floats) -> str | None:
    """The first operation, in the order of the graph, whose output is not that of `right`."""
    keras = load_keras()

    mine = {operation.name: operation for operation in model.operations}
    theirs = [operation for operation in right.operations if not _is_input(operation)]
    for operation in theirs:
        if operation.name not in mine:
            return f"the model lacks the layer {operation.name!r}"
    for inner in [one for one in theirs if isinstance(one, keras.Model)]:
        if different := first_difference(mine[inner.name], inner, pixels):
            return f"{inner.name}: {different}"
        theirs.remove(inner)
    outputs = [
        _run(keras.Model(whole.inputs[0], [chosen[one.name].output for one in theirs]), pixels)
        for whole, chosen in ((model, mine), (right, {one.name: one for one in theirs}))
    ]
    weighted = False
    for operation, found, expected in zip(theirs, *outputs, strict=True):
        weighted = weighted or bool(getattr(operation, "weights", ()))
        if _deviation(found, expected) > ALIKE:
            what = "layer" if weighted else "preprocessing, operation"
            return f"the {what} {operation.name!r} has a different output"
    return None


def _is_input(operation: Any) -> bool:
    return type(operation).__name__ == "InputLayer"


def _logits(model: Any, pixels: Floats) -> Floats:
    keras = load_keras()

    return np.asarray(_run(keras.Model(model.inputs[0], model.get_layer("logits").output), pixels))


def _run(model: Any, pixels: Floats) -> Any:
    found = model(pixels, training=False)
    if isinstance(found, list | tuple):
        return [np.asarray(one) for one in found]
    return np.asarray(found)


def _deviation(actual: Any, expected: Any) -> float:
    """The largest difference, in standard deviations of `expected`."""
    difference = np.abs(np.asarray(actual, np.float64) - expected).max(initial=0)
    return float(difference / max(float(np.std(expected)), 1e-12))


def _labels(logits: Floats) -> NDArray[Any]:
    return np.asarray(logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(1))

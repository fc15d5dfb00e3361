"""How a tuning starts: from a trained head, a new head on a base, or a network from scratch.

Also here: the checks of a start before training, and the numeric precision.
"""

import contextlib
import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.build import build
from cryobase.stages.backbones.frameworks import dtype_policy, load_keras, load_tensorflow
from cryobase.stages.backbones.table import BACKBONES
from cryobase.stages.backbones.weights import WeightsFile, locate_weights
from cryobase.stages.data.pixels import PixelSpec
from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.stream import ImageStream
from cryobase.stages.errors import DataError
from cryobase.stages.extract import SetConfig
from cryobase.stages.heads.config import HeadParams
from cryobase.stages.heads.graft import Samples, check_graft, graft, graft_onto
from cryobase.stages.heads.head import CARD, Head, Layer
from cryobase.stages.heads.history import History
from cryobase.stages.heads.side_by_side import SideBySide
from cryobase.stages.tuning import convnets
from cryobase.stages.tuning.config import Network, NewHead

GRAFT_TOLERANCE = 1e-4  # in probability; another order of float32 sums changes about 1e-6
HALF_TOLERANCE = 2e-2  # under a half-precision policy, whose steps are 1e-3 and 8e-3


@dataclass(frozen=True, eq=False, kw_only=True)
class Start:
    """A model before tuning.

    Attributes:
        model: `keras.Model` from pixels (b, size, size, 3) to probabilities; has a layer `logits`.
        base: the part below the head; it shares its layers with `model`.
        pixels: how an image becomes the model's input.
        head: the head as arrays.
        identity: everything that decides the initial weights; part of the key of checkpoints.
        below: description of the part below the head, for `untuned`.
        config: the base as a feature set's config; None for a network from scratch.
    """

    model: Any
    base: Any
    pixels: PixelSpec
    head: Head
    identity: dict[str, Any]
    below: dict[str, Any]
    config: SetConfig | None = None

    def check(self, images: NDArray[np.float32]) -> None:
        """On some images, compare the joined model with its base followed by its head.

        Raises:
            DataError: the probabilities differ by more than the tolerance.
        """
        outputs = self.base.predict_on_batch(images)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        flat = [np.asarray(x).reshape(len(images), -1) for x in outputs]
        expected = self.head.probabilities(np.concatenate(flat, axis=1))
        joined = two_columns(self.model.predict_on_batch(images))
        gap = float(np.abs(joined - expected).max())
        half = self.base.compute_dtype != "float32"
        tolerance = HALF_TOLERANCE if half else GRAFT_TOLERANCE
        if not gap <= tolerance:
            mend = "set precision: float32" if half else "run `pip install -r requirements.lock`"
            raise DataError(
                f"graft: the joined model differs from base and head by {gap:.2g} in probability,"
                f" expected at most {tolerance:g}; {mend}"
            )


def from_head(directory: Path, weights: str) -> Start:
    """Graft a trained head onto the backbone whose features it was trained on.

    Raises:
        DataError: the head is damaged.
        MissingWeightsError: the weights cannot be found, or are not those of its features.
    """
    keras = load_keras()

    head = Head.load(directory)
    spec = head.specs[0]
    model = graft_onto(head, weights)
    features = [model.get_layer(f"flat{k}").input for k in range(len(head.specs))]
    digest = hashlib.sha256((directory / CARD).read_bytes()).hexdigest()
    return Start(
        model=model,
        base=keras.Model(model.inputs[0], features, name=spec.backbone),
        pixels=PixelSpec.of(spec),
        head=head,
        identity={"head": digest, "weights": spec.weights_sha256},
        below={},
        config=SetConfig(
            backbone=spec.backbone,
            weights=weights,
            image_size=spec.image_size,
            resize=spec.resize,  # type: ignore[arg-type]
            aspect=spec.aspect,  # type: ignore[arg-type]
            decode=spec.decode,  # type: ignore[arg-type]
            preprocessing=spec.preprocessing,  # type: ignore[arg-type]
        ),
    )


def fresh(base: SetConfig, new: NewHead, classes: Sequence[str], seed: int) -> Start:
    """A new head on a base with its weights.

    Raises:
        MissingWeightsError: the weights cannot be found.
        DataError: the head has one sigmoid unit, and there are not two classes.
    """
    weights = locate_weights(base.backbone, base.weights, image_size=base.size)
    model = _backbone(base.backbone, weights, base.size, preprocessing_of(base), base.output)
    pixels = PixelSpec(
        image_size=base.size, resize=base.resize, aspect=base.aspect, decode=base.decode
    )
    head = untrained(new, tuple(model.outputs[0].shape[1:]), classes, seed)
    below = {
        "backbone": base.backbone,
        "image_size": base.size,
        "preprocessing": preprocessing_of(base),
        "output": base.output,
    }
    return _joined(
        model, head, pixels, identity={"weights": weights.sha256}, below=below, config=base
    )


def scratch(network: Network, new: NewHead, classes: Sequence[str], seed: int) -> Start:
    """A network with random weights, and its head.

    Raises:
        DataError: the head has one sigmoid unit, and there are not two classes.
    """
    model = convnets.build(network.kind, image_size=network.image_size, seed=seed)
    row = asdict(convnets.CONVNETS[network.kind])
    head = untrained(new, tuple(model.outputs[0].shape[1:]), classes, seed)
    below = {"network": network.kind, "image_size": network.pixels.image_size}
    return _joined(model, head, network.pixels, identity={"network": row}, below=below)


def untuned(head: Head, below: Mapping[str, Any]) -> Any:
    """The model of a start with arbitrary weights; a file of weights is loaded into it.

    Args:
        head: the head of the start.
        below: `Start.below`. If the head has specs, they describe what is below it instead.

    Raises:
        DataError: the parts do not fit together.
        KeyError: `below` names a part that does not exist.
    """
    if head.specs:
        return graft_onto(head, None)
    if "network" in below:
        return graft(convnets.build(below["network"], image_size=below["image_size"]), head)
    base = build(
        below["backbone"],
        None,
        image_size=below["image_size"],
        preprocessing=below["preprocessing"],
        outputs=[below["output"]],
    )
    return graft(base, head)


def preprocessing_of(base: SetConfig) -> str:
    """The key of `PREPROCESSINGS` that a set's config means."""
    own = BACKBONES[base.backbone].preprocessing
    return own if base.preprocessing == "own" else base.preprocessing


def two_columns(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities (n, classes) from an output (n, classes), or (n, 1) of a sigmoid unit."""
    p = probabilities.astype(np.float64)
    if p.shape[1] == 1:
        return np.concatenate([1 - p, p], axis=1)
    sums: NDArray[np.float64] = p.sum(axis=1, keepdims=True)
    return p / sums  # in float32, sums differ from 1 by up to 1e-7


def _backbone(name: str, weights: WeightsFile, size: int, preprocessing: str, output: str) -> Any:
    return build(name, weights.path, image_size=size, preprocessing=preprocessing, outputs=[output])


def _joined(
    base: Any,
    head: Head,
    pixels: PixelSpec,
    *,
    identity: dict[str, Any],
    below: dict[str, Any],
    config: SetConfig | None = None,
) -> Start:
    return Start(
        model=graft(base, head),
        base=base,
        pixels=pixels,
        head=head,
        identity=identity,
        below=below,
        config=config,
    )


def untrained(new: NewHead, shape: tuple[int, ...], classes: Sequence[str], seed: int) -> Head:
    """A head with Glorot's uniform initial kernels (2010), as Keras' Dense, and zero biases.

    Raises:
        DataError: the head has one sigmoid unit, and there are not two classes.
    """
    if new.output == "sigmoid" and len(classes) != 2:
        raise DataError(f"new_head.output: sigmoid is for 2 classes, found {len(classes)}")
    random = np.random.default_rng(seed)
    widths = [math.prod(shape), *new.layers, 1 if new.output == "sigmoid" else len(classes)]
    layers: list[Layer] = []
    for inputs, outputs in itertools.pairwise(widths):
        limit = math.sqrt(6 / (inputs + outputs))
        kernel = random.uniform(-limit, limit, (inputs, outputs)).astype(np.float32)
        layers.append((kernel, np.zeros(outputs, np.float32)))
    params = HeadParams(
        kind="mlp" if new.layers else "linear",
        units=new.layers,
        activation=new.activation,
        dropout=new.dropout if new.layers else 0.0,
        output=new.output,
        standardize=False,
        seed=seed,
    )
    return Head(
        params=params,
        classes=tuple(classes),
        specs=(),
        shapes=(shape,),
        layers=tuple(layers),
        mean=None,
        scale=None,
        data=(),
        history=History(),
    )


CHECKED = 8  # training images that `check_stored` compares


def check_stored(
    head: Path, weights: str, features: Path, images: RawImages, ids: NDArray[np.bytes_]
) -> None:
    """Compare a head's answers for stored features with the answers of its graft for the images.

    The graft is built in float32 for this check alone: half precision would hide small differences.

    Args:
        head: directory of the head.
        weights: weights of its backbone.
        features: the feature set that the head was trained on.
        images: the images.
        ids: ids of the training images.

    Raises:
        DataError: images and head do not have the same classes.
        GraftError: the answers differ; the message names the layer or the preprocessing.
    """
    loaded = Head.load(head)
    if loaded.classes != images.examples.classes:
        name = head.parent.name
        raise DataError(
            f"the images have the classes {list(images.examples.classes)}, the head {head} has"
            f" {list(loaded.classes)}; run `cryobase extract {name} && cryobase split && cryobase"
            f" train {name}`"
        )

    def graft(one: Head, preprocessing: str | None) -> Any:
        return graft_onto(one, weights, preprocessing=preprocessing)

    stored = SideBySide.open(features)
    having = stored.having(ids)  # take images far apart, because neighbours are often alike
    chosen = having[np.unique(np.linspace(0, len(having) - 1, CHECKED).astype(np.intp))]
    samples = Samples(stored, images, chosen)
    with precision("float32"):
        check_graft(graft(loaded, None), loaded, samples, graft)


def check_joined(start: Start, stream: ImageStream, ids: NDArray[np.bytes_]) -> None:
    """Compare the model of a start with its base followed by its head, on training images.

    Raises:
        DataError: the probabilities differ by more than the tolerance.
    """
    images, _ = next(stream.plain.batches(ids[:CHECKED]))
    start.check(images)


HALVES = ("mixed_float16", "mixed_bfloat16")


@contextlib.contextmanager
def precision(policy: str) -> Iterator[str]:
    """Build and train under a Keras dtype policy.

    Args:
        policy: `float32`, `mixed_float16`, `mixed_bfloat16`, or `auto`: `mixed_float16` if
            TensorFlow sees a GPU, else `float32`.

    Yields:
        The policy that is in force, never `auto`.
    """
    if policy == "auto":
        gpus = load_tensorflow().config.list_physical_devices("GPU")
        policy = "mixed_float16" if gpus else "float32"
    with dtype_policy(policy):
        yield policy

"""What a tuning starts from: a trained head, a new head on a base, or a network from nothing."""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.build import build
from cryobase.stages.backbones.frameworks import load_keras
from cryobase.stages.backbones.table import BACKBONES
from cryobase.stages.backbones.weights import WeightsFile, locate_weights
from cryobase.stages.data.pixels import PixelSpec
from cryobase.stages.errors import DataError
from cryobase.stages.extract import SetConfig
from cryobase.stages.heads.config import HeadParams
from cryobase.stages.heads.graft import graft, graft_onto
from cryobase.stages.heads.head import CARD, Head, Layer
from cryobase.stages.heads.history import History
from cryobase.stages.tuning import convnets

GRAFT_TOLERANCE = 1e-4  # in probability; float32 in another order of summation errs by 1e-6
HALF_TOLERANCE = 2e-2  # under a half-precision policy, whose steps are 1e-3 and 8e-3


@dataclass(frozen=True, kw_only=True)
class NewHead:
    """A head that is trained with the rest, not on stored features.

    Attributes:
        units: of the hidden layers; none makes it linear.
        activation: of the hidden layers.
        dropout: after each hidden layer.
        output: `softmax`, or for two classes one `sigmoid` unit.
    """

    units: int | tuple[int, ...] = ()
    activation: Literal["relu", "linear"] = "relu"
    dropout: float = 0.0
    output: Literal["softmax", "sigmoid"] = "softmax"

    def __post_init__(self) -> None:
        if not all(units > 0 for units in self.layers):
            raise ValueError("units: must be positive")
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout: must be at least 0 and below 1")

    @property
    def layers(self) -> tuple[int, ...]:
        """Units of each hidden layer."""
        return (self.units,) if isinstance(self.units, int) else tuple(self.units)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network from nothing.

    Attributes:
        kind: a key of `CONVNETS`.
        image_size: side of the square input in pixels; None means the row's own.
        resize, aspect: how images become squares, as in `extract.sets`.
    """

    kind: str
    image_size: int | None = None
    resize: Literal["bilinear", "nearest"] = "bilinear"
    aspect: Literal["stretch", "crop", "pad"] = "stretch"

    def __post_init__(self) -> None:
        if self.kind not in convnets.CONVNETS:
            raise ValueError(f"kind: one of {', '.join(convnets.CONVNETS)}")

    @property
    def pixels(self) -> PixelSpec:
        """How an image becomes its input."""
        size = self.image_size or convnets.CONVNETS[self.kind].image_size
        return PixelSpec(image_size=size, resize=self.resize, aspect=self.aspect)


@dataclass(frozen=True, eq=False, kw_only=True)
class Start:
    """A model before tuning.

    Attributes:
        model: `keras.Model` from pixels (b, size, size, 3) to probabilities; has a layer `logits`.
        base: the part below the head, with the same layers.
        pixels: how an image becomes its input.
        head: the head as arrays.
        identity: what decides its weights, for the key of checkpoints.
        below: what is below the head, for `untuned`.
        config: the base as a feature set's config; None for a network from nothing.
    """

    model: Any
    base: Any
    pixels: PixelSpec
    head: Head
    identity: dict[str, Any]
    below: dict[str, Any]
    config: SetConfig | None = None

    def check(self, images: NDArray[np.float32]) -> None:
        """Compare the grafted model with base and head apart, on some images.

        Raises:
            DataError: they do not agree.
        """
        outputs = self.base.predict_on_batch(images)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        flat = [np.asarray(x).reshape(len(images), -1) for x in outputs]
        expected = self.head.probabilities(np.concatenate(flat, axis=1))
        found = two_columns(self.model.predict_on_batch(images))
        gap = float(np.abs(found - expected).max())
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
        DataError: one sigmoid unit for other than two classes.
    """
    found = locate_weights(base.backbone, base.weights, image_size=base.size)
    model = _backbone(base.backbone, found, base.size, preprocessing_of(base), base.output)
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
        model, head, pixels, identity={"weights": found.sha256}, below=below, config=base
    )


def scratch(network: Network, new: NewHead, classes: Sequence[str], seed: int) -> Start:
    """A network of its own, with its head.

    Raises:
        DataError: one sigmoid unit for other than two classes.
    """
    model = convnets.build(network.kind, image_size=network.image_size, seed=seed)
    row = asdict(convnets.CONVNETS[network.kind])
    head = untrained(new, tuple(model.outputs[0].shape[1:]), classes, seed)
    below = {"network": network.kind, "image_size": network.pixels.image_size}
    return _joined(model, head, network.pixels, identity={"network": row}, below=below)


def untuned(head: Head, below: Mapping[str, Any]) -> Any:
    """The model of a start, with weights that mean nothing: what a file of weights fits into.

    Args:
        head: its head.
        below: `Start.below`; where the head has specs, these say what is below it.

    Raises:
        DataError: the parts do not fit together.
        KeyError: there is no such part.
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
    """(n, classes) of a model's answers, also of a single sigmoid unit's (n, 1)."""
    p = probabilities.astype(np.float64)
    if p.shape[1] == 1:
        return np.concatenate([1 - p, p], axis=1)
    sums: NDArray[np.float64] = p.sum(axis=1, keepdims=True)
    return p / sums  # which in float32 are one within 1e-7 only


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
        DataError: one sigmoid unit for other than two classes.
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

"""The keys of a fine-tuning run in `params.yaml`, with their checks. Nothing here loads Keras."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cryobase.stages.data.augment import Augmentation
from cryobase.stages.data.pixels import PixelSpec
from cryobase.stages.extract import SetConfig
from cryobase.stages.heads.config import MAX_EPOCHS
from cryobase.stages.tuning.convnets import CONVNETS


@dataclass(frozen=True, kw_only=True)
class NewHead:
    """A head that is trained together with the base or network, not on stored features.

    Attributes:
        units: units of the hidden layers; an empty list makes the head linear.
        activation: activation of the hidden layers.
        dropout: share of values set to zero after each hidden layer.
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
    """A network that is trained from scratch.

    Attributes:
        kind: a key of `CONVNETS`.
        image_size: side of the square input in pixels; None means the size in `CONVNETS`.
        resize, aspect: how images become squares, as in `extract.sets`.
    """

    kind: str
    image_size: int | None = None
    resize: Literal["bilinear", "nearest"] = "bilinear"
    aspect: Literal["stretch", "crop", "pad"] = "stretch"

    def __post_init__(self) -> None:
        if self.kind not in CONVNETS:
            raise ValueError(f"kind: one of {', '.join(CONVNETS)}")
        if self.pixels.image_size < CONVNETS[self.kind].smallest:
            smallest = CONVNETS[self.kind].smallest
            raise ValueError(f"image_size: at least {smallest} for {self.kind}")

    @property
    def pixels(self) -> PixelSpec:
        """How an image becomes its input."""
        size = self.image_size or CONVNETS[self.kind].image_size
        return PixelSpec(image_size=size, resize=self.resize, aspect=self.aspect)


NONE = "none"  # `set` and `head` of a run that starts from no trained head

Unfreeze = Literal["none", "all"] | Mapping[Literal["from", "last"], str | int]


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """What stays the same from one epoch to the next.

    Attributes:
        unfreeze: which layers of the base learn: `none`, `all`, `{from: LAYER}` (a name or number;
            that layer and all later ones) or `{last: n}`. The head always learns.
        batch_normalization: `frozen` runs BatchNormalization in inference mode; `trainable` lets
            those layers learn that `unfreeze` names.
        optimizer: has Keras' defaults, except `momentum` (for `sgd`) and `weight_decay`.
        learning_rate: rate of the head; with `layer_decay: 1`, of all layers.
        momentum: momentum of `sgd`.
        weight_decay: decoupled; None means 0.004 for `adamw`, else 0, as in Keras.
        layer_decay: each layer's rate is that of the layer above it, towards the head, times this.
        warmup: epochs in which the rate rises linearly from 0.
        epochs: passes over the training images.
        keep: the epoch whose weights are kept: `best` has the lowest validation loss, and the start
            counts as epoch 0; `smoothed` has the lowest exponentially smoothed validation loss; or
            `last`.
    """

    unfreeze: Unfreeze = "all"
    batch_normalization: Literal["frozen", "trainable"] = "frozen"
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    learning_rate: float = 1e-5
    momentum: float = 0.0
    weight_decay: float | None = None
    layer_decay: float = 1.0
    warmup: float = 0.0
    epochs: int = 5
    keep: Literal["best", "smoothed", "last"] = "best"

    def __post_init__(self) -> None:
        for key in ("learning_rate", "epochs", "layer_decay"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ValueError(f"{key}: must be positive")
        if self.epochs > MAX_EPOCHS:
            raise ValueError(f"epochs: at most {MAX_EPOCHS:,}")
        if not 0 <= self.warmup <= self.epochs:
            raise ValueError("warmup: from 0 to epochs")
        if not 0 <= self.momentum < 1:
            raise ValueError("momentum: at least 0 and below 1")
        if self.weight_decay is not None and not 0 <= self.weight_decay < float("inf"):
            raise ValueError("weight_decay: must not be negative")
        if isinstance(self.unfreeze, Mapping):
            if len(self.unfreeze) != 1:
                raise ValueError("unfreeze: one rule: none, all, {from: LAYER} or {last: n}")
            if not str(self.unfreeze.get("last", 1)).isdigit():
                raise ValueError("unfreeze: last takes a number of layers")


@dataclass(frozen=True, kw_only=True)
class FinetuneRun(PhaseConfig):
    """One run: its start and its phases. The keys of the run itself describe the first phase.

    Attributes:
        start: `head`, a trained head of a feature set; `fresh`, a new head on a base; `scratch`, a
            network that is trained from scratch.
        set, head: with `start: head`, the names of the set and the head; else both are `none`.
        base: with `fresh`, the base, described as in `extract.sets`.
        network: with `scratch`, the network.
        new_head: with `fresh` and `scratch`, the head on top of the base or network.
        then: further phases; each starts from the weights that the phase before it kept.
        augmentation: random changes of training images, drawn again in each epoch; images that
            validate or test are never changed.
        views: with a trunk, the number of augmented views that are stored for each image.
        trunk: where the base is cut so that the frozen part runs once per image: `none`; `auto`,
            the fastest place within `trunk_gigabytes` that saves time, if any; or a layer.
        trunk_dtype: dtype of the trunk's rows in the store.
        trunk_gigabytes: the most that `auto` may store, in 10^9 bytes.
        precision: `auto` means `mixed_float16` if there is a GPU, else `float32`.
        batch_size: images of one step.
        seed: seed of a new head's or network's weights, the order of images, views and dropout.
        imagenet_labels: with `fresh`, a number of classes. Before training, the base with its
            original classifier labels one training image of each; `imagenet.csv` lists the most
            probable labels.
        final: whether the test split is scored too; set it when all choices are made.
        tensorboard: whether logs for TensorBoard are written.
        smoothing: smoothing of the curves in the picture; 0 means no smoothing.
    """

    start: Literal["head", "fresh", "scratch"] = "head"
    set: str = NONE
    head: str = NONE
    base: SetConfig | None = None
    network: Network | None = None
    new_head: NewHead = field(default_factory=NewHead)
    then: tuple[PhaseConfig, ...] = ()
    augmentation: Augmentation | None = None
    views: int = 0
    trunk: str = NONE
    trunk_dtype: Literal["float16", "float32"] = "float16"
    trunk_gigabytes: float = 20.0
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    batch_size: int = 32
    seed: int = 0
    imagenet_labels: int = 0
    final: bool = False
    tensorboard: bool = False
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.batch_size <= 4096:
            raise ValueError("batch_size: must be positive, at most 4096")
        if not 0 <= self.seed < 1 << 31:
            raise ValueError("seed: must not be negative and below 2**31")
        if not 0 <= self.smoothing < 1:
            raise ValueError("smoothing: at least 0 and below 1")
        self._check_start()
        self._check_trunk()

    def _check_start(self) -> None:
        needed = {"head": ("set", "head"), "fresh": ("base",), "scratch": ("network",)}
        for start, keys in needed.items():
            for key in keys:
                given = getattr(self, key) not in (NONE, None)
                if given != (start == self.start):
                    raise ValueError(f"{key}: {'only' if given else 'needed'} with start: {start}")
        if not 0 <= self.imagenet_labels <= 100 or (self.imagenet_labels and not self.base):
            raise ValueError("imagenet_labels: 0 to 100, and only with start: fresh")

    def _check_trunk(self) -> None:
        if self.trunk != NONE and self.start == "scratch":
            raise ValueError("trunk: needs a base that is not trained from scratch")
        if not 0 <= self.views <= 1000 or (self.views and self.trunk == NONE):
            raise ValueError("views: 0 to 1000, and only with a trunk")
        if self.trunk != NONE and (self.augmentation is None) != (self.views == 0):
            raise ValueError("trunk: augmentation needs stored views; set views")

    @property
    def phases(self) -> tuple[PhaseConfig, ...]:
        """All phases in order."""
        names = [each.name for each in dataclasses.fields(PhaseConfig)]
        return (PhaseConfig(**{name: getattr(self, name) for name in names}), *self.then)

"""What `params.yaml` says of a head, and the grid that lists in it span."""

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cryobase.stages.heads.table import HEADS
from cryobase.store.text import record

GRID = {  # key of a grid -> its mark in the names of the heads
    "units": "u",
    "learning_rate": "lr",
    "weight_decay": "wd",
    "dropout": "do",
    "penalty": "p",
    "seed": "s",
}
MAX_HEADS = 4096  # of one set: more than anybody compares
MAX_EPOCHS = 1_000_000
MAX_UNITS = 1 << 16
MAX_LAYERS = 32
MAX_BATCH = 1 << 24
HEAD_VERSION = 1  # bump when the same params no longer train the same head

Kind = Literal["linear", "mlp", "ridge"]
Optimizer = Literal["adam", "adamw", "sgd", "rmsprop"]
Activation = Literal["relu", "linear"]
Output = Literal["softmax", "sigmoid"]
ClassWeights = Literal["none", "balanced"] | Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """One entry of `train.heads`. A list, where one is allowed, makes a grid.

    Attributes:
        kind: a row of `HEADS`.
        units: units of the hidden layers: 256, a grid `[128, 256]`, or layers in a list in that
            list: `[[256, 64]]` is one head with two hidden layers.
        activation: of the hidden layers.
        dropout: share of a layer's inputs set to zero: after each hidden layer of an `mlp`, on the
            features of a `linear` head.
        optimizer: with Keras' formulas and defaults.
        momentum: of `sgd`.
        weight_decay: decoupled, as in Keras; None means 0.004 for `adamw`, else 0.
        epochs: passes over the training rows, at most.
        patience: stop after so many epochs without a better validation loss; 0 never stops early.
            The weights of the epoch with the best validation loss are kept in any case.
        class_weights: `none`, `balanced` (n / (classes x count), as scikit-learn) or one weight per
            class name; classes not named weigh 1.
        standardize: shift and scale the features to mean 0 and deviation 1 of the training rows.
        output: `softmax`, or for two classes one `sigmoid` unit.
        views: how many stored augmented views to draw from beside the plain one, anew each epoch.
        seed: of initial weights and dropout.
        penalty: of a `ridge` head, on the squares of its weights; `alpha` of `RidgeClassifier`.
    """

    kind: Kind = "linear"
    units: int | tuple[int | tuple[int, ...], ...] = 256
    activation: Activation = "relu"
    dropout: float | tuple[float, ...] = 0.0
    optimizer: Optimizer = "adam"
    momentum: float = 0.0
    learning_rate: float | tuple[float, ...] = 1e-3
    weight_decay: float | tuple[float, ...] | None = None
    epochs: int = 30
    batch_size: int = 32
    patience: int = 5
    class_weights: ClassWeights = "none"
    standardize: bool = True
    output: Output = "softmax"
    views: int = 0
    seed: int | tuple[int, ...] = 0
    penalty: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        for point in self._along_the_axes():
            point.check()
        keys = HEADS[self.kind].keys
        for field in dataclasses.fields(self):
            given = getattr(self, field.name) != field.default
            if given and field.name not in keys | {"kind"}:
                valid = ", ".join(sorted(keys))
                raise ValueError(f"{field.name}: not a key of {self.kind} heads; valid: {valid}")

    def points(self) -> dict[str, "HeadParams"]:
        """Every point of the grid by its suffix, `""` where there is no grid.

        A suffix names each key that is given as a list, also of one value, so that adding a value
        to the list renames no head: `-lr0.001-wd0.0001`.

        Raises:
            ValueError: a list is empty or names a value twice.
        """
        if (count := self.count()) > MAX_HEADS:
            raise ValueError(
                f"a grid of {count:,} heads; at most {MAX_HEADS:,} are trained at once"
            )
        axes = [[(key, value) for value in self._axis(key)] for key in GRID if self._is_grid(key)]
        points = {}
        for choice in itertools.product(*axes):
            suffix = "".join(f"-{GRID[key]}{_text(value)}" for key, value in choice)
            points[suffix] = HeadParams.of(self, dict(choice))
        return points

    def count(self) -> int:
        """How many heads the grid has; counted, not made."""
        return math.prod(len(getattr(self, key)) for key in GRID if self._is_grid(key))

    def _along_the_axes(self) -> "Iterator[HeadParams]":
        """Heads that have every value of every list once: keys are checked one by one."""
        first = {key: self._axis(key)[0] for key in GRID if self._is_grid(key)}
        yield HeadParams.of(self, first)
        for key in first:
            for value in self._axis(key)[1:]:
                yield HeadParams.of(self, {**first, key: value})

    def _is_grid(self, key: str) -> bool:
        return isinstance(getattr(self, key, None), tuple | list)

    def _axis(self, key: str) -> tuple[Any, ...]:
        values = tuple(getattr(self, key))
        if not values or len(set(map(_text, values))) < len(values):
            raise ValueError(f"{key}: a grid needs values, each once")
        return values


@dataclass(frozen=True, kw_only=True)
class HeadParams:
    """One head: a point of a `HeadConfig`'s grid, with nothing left open."""

    kind: Kind
    units: tuple[int, ...] = ()
    activation: Activation = "relu"
    dropout: float = 0.0
    optimizer: Optimizer = "adam"
    momentum: float = 0.0
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    epochs: int = 30
    batch_size: int = 32
    patience: int = 5
    class_weights: ClassWeights = "none"
    standardize: bool = True
    output: Output = "softmax"
    views: int = 0
    seed: int = 0
    penalty: float = 1.0

    @classmethod
    def of(cls, config: HeadConfig, choice: Mapping[str, Any]) -> "HeadParams":
        """The head of a config at one choice of values for its lists."""
        names = {field.name for field in dataclasses.fields(cls)}
        values = {name: choice.get(name, getattr(config, name)) for name in names}
        units = values["units"]
        layers = (units,) if isinstance(units, int) else tuple(units)
        values["units"] = layers if HEADS[config.kind].hidden else ()
        if values["weight_decay"] is None:
            values["weight_decay"] = 0.004 if config.optimizer == "adamw" else 0.0
        return cls(**values)

    def check(self) -> None:
        """Raise ValueError, with the key's name, for a value that means nothing."""
        if HEADS[self.kind].hidden and not (self.units and all(n > 0 for n in self.units)):
            raise ValueError("units: must be positive")
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout: must be at least 0 and below 1")
        if not 0 <= self.momentum <= 1:
            raise ValueError("momentum: must be from 0 to 1")
        for key in ("learning_rate", "epochs", "batch_size", "penalty"):
            if not (getattr(self, key) > 0 and math.isfinite(getattr(self, key))):
                raise ValueError(f"{key}: must be positive")
        for key in ("weight_decay", "patience", "seed", "views"):
            if not (getattr(self, key) >= 0 and math.isfinite(getattr(self, key))):
                raise ValueError(f"{key}: must not be negative")
        if self.seed >= 1 << 32:
            raise ValueError("seed: must be below 2**32")
        weights = self.class_weights if isinstance(self.class_weights, Mapping) else {}
        if not all(weight >= 0 and math.isfinite(weight) for weight in weights.values()):
            raise ValueError("class_weights: must be finite and not negative")
        self._check_sizes()

    def _check_sizes(self) -> None:
        """No machine has what these would take."""
        if len(self.units) > MAX_LAYERS or any(units > MAX_UNITS for units in self.units):
            raise ValueError(f"units: at most {MAX_UNITS:,} each, and {MAX_LAYERS} layers")
        for key, most in (("epochs", MAX_EPOCHS), ("batch_size", MAX_BATCH)):
            if getattr(self, key) > most:
                raise ValueError(f"{key}: at most {most:,}")

    def to_json(self) -> dict[str, Any]:
        """The kind and the keys that it reads."""
        keys = {"kind"} | HEADS[self.kind].keys
        return {key: value for key, value in dataclasses.asdict(self).items() if key in keys}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "HeadParams":
        """The reverse of `to_json`, of a document that may come from somebody else.

        Raises:
            ValueError: it is no such document, or a value means nothing.
        """
        params = record(cls, document)
        params.check()
        return params

    def fingerprint(self, *data: str) -> str:
        """SHA-256 over these params and the digests of the data; equal ones mean equal heads."""
        text = json.dumps([HEAD_VERSION, self.to_json(), *data], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def expand(heads: Mapping[str, HeadConfig]) -> dict[str, HeadParams]:
    """All heads that `train.heads` asks for, by name, in order.

    Raises:
        ValueError: two entries make heads of one name, or there are more than `MAX_HEADS`.
    """
    if (count := sum(config.count() for config in heads.values())) > MAX_HEADS:
        raise ValueError(f"heads: {count:,} of them; at most {MAX_HEADS:,} are trained at once")
    expanded: dict[str, HeadParams] = {}
    for name, params in _named(heads):
        if name in expanded:
            raise ValueError(f"{name}: two heads of this name; rename an entry of train.heads")
        expanded[name] = params
    return expanded


def _named(heads: Mapping[str, HeadConfig]) -> Iterator[tuple[str, HeadParams]]:
    for name, config in heads.items():
        for suffix, params in config.points().items():
            yield name + suffix, params


def _text(value: Any) -> str:
    """A value as part of a file name: 0.001, 1e-05, 256x64."""
    return "x".join(map(str, value)) if isinstance(value, tuple | list) else f"{value:g}"

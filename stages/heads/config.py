"""The keys of a head in `params.yaml`: one table, and the grids that lists of values make.

`HeadKeys` is the table. Everything else follows from it: defaults, checks, marks of grids, the keys
of each kind, what a fingerprint covers, and the messages. Nothing here trains: see `kinds.py`.
"""

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from cryobase.store.text import record

MAX_HEADS = 4096  # heads of one set: more than anybody compares
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

EVERY: frozenset[Kind] = frozenset(get_args(Kind))
STEPPED: frozenset[Kind] = frozenset(("linear", "mlp"))  # trained by steps of gradient descent
HIDDEN: frozenset[Kind] = frozenset(("mlp",))  # with hidden layers
SOLVED: frozenset[Kind] = frozenset(("ridge",))  # solved as one equation, without steps


class Rule(NamedTuple):
    """What a value must be: a test, and the words for a message when the test fails."""

    holds: Callable[[Any], bool]
    expected: str


def _at_most(most: int) -> Rule:
    return Rule(lambda number: number <= most, f"at most {most:,}")


POSITIVE = Rule(lambda number: number > 0 and math.isfinite(number), "must be positive")
NOT_NEGATIVE = Rule(lambda number: number >= 0 and math.isfinite(number), "must not be negative")
SHARE = Rule(lambda number: 0 <= number < 1, "must be at least 0 and below 1")
FROM_0_TO_1 = Rule(lambda number: 0 <= number <= 1, "must be from 0 to 1")
SEED = Rule(lambda number: number < 1 << 32, "must be below 2**32")
LAYERS = Rule(lambda units: bool(units) and all(n > 0 for n in units), "must be positive")
BUILDABLE = Rule(
    lambda units: len(units) <= MAX_LAYERS and all(n <= MAX_UNITS for n in units),
    f"at most {MAX_UNITS:,} each, and {MAX_LAYERS} layers",
)
WEIGHTS = Rule(
    lambda weights: (
        isinstance(weights, str) or all(w >= 0 and math.isfinite(w) for w in weights.values())
    ),
    "must be finite and not negative",
)


class Key(NamedTuple):
    """What the table holds about a key, beside its type and default.

    Attributes:
        kinds: the kinds of head that read the key; any other kind refuses it.
        rules: what each single value must be.
        mark: letters for the key in the names of a grid's heads; empty if it accepts no list.
    """

    kinds: frozenset[Kind]
    rules: tuple[Rule, ...]
    mark: str


def _key(kinds: frozenset[Kind], *rules: Rule, mark: str = "") -> dict[str, Key]:
    return {"key": Key(kinds, rules, mark)}


@dataclass(frozen=True, kw_only=True)
class HeadKeys:
    """The table of keys. A list, where one is allowed, makes a grid, in the order of this table.

    Attributes:
        units: units of the hidden layers: 256, a grid `[128, 256]`, or layers in a list in that
            list: `[[256, 64]]` is one head with two hidden layers.
        activation: activation of the hidden layers.
        optimizer: name of the optimizer, with Keras' formulas and defaults.
        momentum: momentum of `sgd`.
        learning_rate: learning rate of each step.
        weight_decay: decoupled, as in Keras; None means 0.004 for `adamw`, else 0.
        dropout: share of a layer's inputs set to zero: after each hidden layer of an `mlp`, on the
            features of a `linear` head.
        penalty: factor of the squared weights of a `ridge` head; `alpha` of `RidgeClassifier`.
        seed: seed of the initial weights and of dropout.
        epochs: passes over the training rows, at most.
        batch_size: rows of one step.
        patience: stop after so many epochs without a better validation loss; 0 never stops early.
            The weights of the epoch with the best validation loss are kept in any case.
        views: number of stored augmented views; each epoch draws one of them, or the plain view,
            for each row.
        output: `softmax`, or for two classes one `sigmoid` unit.
        class_weights: `none`, `balanced` (n / (classes x count), as scikit-learn) or one weight per
            class name; classes not named weigh 1.
        standardize: shift and scale the features so that the training rows have mean 0 and
            deviation 1.
    """

    units: int | tuple[int | tuple[int, ...], ...] = field(
        default=256, metadata=_key(HIDDEN, LAYERS, BUILDABLE, mark="u")
    )
    activation: Activation = field(default="relu", metadata=_key(HIDDEN))
    optimizer: Optimizer = field(default="adam", metadata=_key(STEPPED))
    momentum: float = field(default=0.0, metadata=_key(STEPPED, FROM_0_TO_1))
    learning_rate: float | tuple[float, ...] = field(
        default=1e-3, metadata=_key(STEPPED, POSITIVE, mark="lr")
    )
    weight_decay: float | tuple[float, ...] | None = field(
        default=None, metadata=_key(STEPPED, NOT_NEGATIVE, mark="wd")
    )
    dropout: float | tuple[float, ...] = field(
        default=0.0, metadata=_key(STEPPED, SHARE, mark="do")
    )
    penalty: float | tuple[float, ...] = field(
        default=1.0, metadata=_key(SOLVED, POSITIVE, mark="p")
    )
    seed: int | tuple[int, ...] = field(
        default=0, metadata=_key(STEPPED, NOT_NEGATIVE, SEED, mark="s")
    )
    epochs: int = field(default=30, metadata=_key(STEPPED, POSITIVE, _at_most(MAX_EPOCHS)))
    batch_size: int = field(default=32, metadata=_key(STEPPED, POSITIVE, _at_most(MAX_BATCH)))
    patience: int = field(default=5, metadata=_key(STEPPED, NOT_NEGATIVE))
    views: int = field(default=0, metadata=_key(STEPPED, NOT_NEGATIVE))
    output: Output = field(default="softmax", metadata=_key(STEPPED))
    class_weights: ClassWeights = field(default="none", metadata=_key(EVERY, WEIGHTS))
    standardize: bool = field(default=True, metadata=_key(EVERY))


KEYS: dict[str, Key] = {row.name: row.metadata["key"] for row in dataclasses.fields(HeadKeys)}
DEFAULTS: dict[str, Any] = {row.name: row.default for row in dataclasses.fields(HeadKeys)}


def keys_of(kind: Kind) -> set[str]:
    """The keys that a kind of head reads."""
    return {name for name, key in KEYS.items() if kind in key.kinds}


@dataclass(frozen=True, kw_only=True)
class HeadConfig(HeadKeys):
    """One entry of `train.heads`: a kind, and values or grids for the keys that it reads.

    Attributes:
        kind: `linear` is one dense layer, `mlp` has hidden layers before it, `ridge` is the exact
            least-squares classifier.

    Raises:
        ValueError: a value is out of bounds, or the kind does not read the key; the message begins
            with the key.
    """

    kind: Kind = "linear"

    def __post_init__(self) -> None:
        for point in self._along_the_axes():
            point.check()
        keys = keys_of(self.kind)
        for name, default in DEFAULTS.items():
            if getattr(self, name) != default and name not in keys:
                valid = ", ".join(sorted(keys))
                raise ValueError(f"{name}: not a key of {self.kind} heads; valid: {valid}")

    def points(self) -> dict[str, "HeadParams"]:
        """Every point of the grid by its suffix; without a grid, the suffix is `""`.

        A suffix names each key that is given as a list, also a list of one value, so that adding a
        value renames no head: `-lr0.001-wd0.0001`.

        Raises:
            ValueError: a list is empty or names a value twice.
        """
        if (count := self.count()) > MAX_HEADS:
            raise ValueError(
                f"a grid of {count:,} heads; at most {MAX_HEADS:,} are trained at once"
            )
        axes = [[(name, value) for value in values] for name, values in self._axes().items()]
        points = {}
        for choice in itertools.product(*axes):
            suffix = "".join(f"-{KEYS[name].mark}{_text(value)}" for name, value in choice)
            points[suffix] = HeadParams.of(self, dict(choice))
        return points

    def count(self) -> int:
        """How many heads the grid has, without making them."""
        return math.prod(len(getattr(self, name)) for name in KEYS if self._is_grid(name))

    def _along_the_axes(self) -> "Iterator[HeadParams]":
        """Heads in which every value of every list occurs once.

        Rules look at one key at a time, so these few heads check the whole grid.
        """
        axes = self._axes()
        first = {name: values[0] for name, values in axes.items()}
        yield HeadParams.of(self, first)
        for name, values in axes.items():
            for value in values[1:]:
                yield HeadParams.of(self, {**first, name: value})

    def _is_grid(self, name: str) -> bool:
        return bool(KEYS[name].mark) and isinstance(getattr(self, name), tuple | list)

    def _axes(self) -> dict[str, tuple[Any, ...]]:
        axes = {name: tuple(getattr(self, name)) for name in KEYS if self._is_grid(name)}
        for name, values in axes.items():
            if not values or len(set(map(_text, values))) < len(values):
                raise ValueError(f"{name}: a grid needs values, each once")
        return axes


@dataclass(frozen=True, kw_only=True)
class HeadParams(HeadKeys):
    """One head: a point of a `HeadConfig`'s grid, with one value for each key.

    Only the types of keys that may be lists are narrowed here; the rest comes from the table.
    """

    kind: Kind
    units: tuple[int, ...] = ()
    learning_rate: float = DEFAULTS["learning_rate"]
    weight_decay: float = 0.0
    dropout: float = DEFAULTS["dropout"]
    penalty: float = DEFAULTS["penalty"]
    seed: int = DEFAULTS["seed"]

    @classmethod
    def of(cls, config: HeadConfig, choice: Mapping[str, Any]) -> "HeadParams":
        """The head of a config at one choice of values for its lists."""
        values = {name: choice.get(name, getattr(config, name)) for name in KEYS}
        units = values["units"]
        layers = (units,) if isinstance(units, int) else tuple(units)
        values["units"] = layers if config.kind in HIDDEN else ()
        if values["weight_decay"] is None:
            values["weight_decay"] = 0.004 if config.optimizer == "adamw" else 0.0
        return cls(kind=config.kind, **values)

    def check(self) -> None:
        """Raise ValueError, with the key's name, if a value breaks a rule of the table."""
        for name, key in KEYS.items():
            value = getattr(self, name)
            if value == () and self.kind not in key.kinds:
                continue  # this kind has no hidden layers, so there are no units to check
            for rule in key.rules:
                if not rule.holds(value):
                    raise ValueError(f"{name}: {rule.expected}")

    def to_json(self) -> dict[str, Any]:
        """The kind and the keys that it reads."""
        keys = {"kind"} | keys_of(self.kind)
        return {key: value for key, value in dataclasses.asdict(self).items() if key in keys}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "HeadParams":
        """Read what `to_json` writes; the document may come from somebody else.

        Raises:
            ValueError: the document is something else, or a value is out of bounds.
        """
        params = record(cls, document)
        params.check()
        return params

    def fingerprint(self, *data: str) -> str:
        """SHA-256 of these params and the digests of the data. Equal values mean equal heads."""
        text = json.dumps([HEAD_VERSION, self.to_json(), *data], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def expand(heads: Mapping[str, HeadConfig]) -> dict[str, HeadParams]:
    """All heads that `train.heads` asks for, by name, in order.

    Raises:
        ValueError: two entries make heads with the same name, or there are more than `MAX_HEADS`.
    """
    if (count := sum(config.count() for config in heads.values())) > MAX_HEADS:
        raise ValueError(f"heads: {count:,} heads; at most {MAX_HEADS:,} are trained at once")
    expanded: dict[str, HeadParams] = {}
    for name, params in _named(heads):
        if name in expanded:
            raise ValueError(f"{name}: two heads have this name; rename an entry of train.heads")
        expanded[name] = params
    return expanded


def _named(heads: Mapping[str, HeadConfig]) -> Iterator[tuple[str, HeadParams]]:
    for name, config in heads.items():
        for suffix, params in config.points().items():
            yield name + suffix, params


def _text(value: Any) -> str:
    """A value as part of a file name: 0.001, 1e-05, 256x64."""
    return "x".join(map(str, value)) if isinstance(value, tuple | list) else f"{value:g}"

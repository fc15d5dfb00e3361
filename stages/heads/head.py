"""A trained head: its arrays, what it was trained on, its files, and its answers in plain numpy.

A head is read from files that may come from somebody else. This module must not load TensorFlow.
"""

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.errors import DataError
from cryobase.stages.heads.config import HeadParams
from cryobase.stages.heads.history import History
from cryobase.stages.received import opened
from cryobase.stages.stored_zip import read_npz
from cryobase.store import FeatureSpec
from cryobase.store.errors import StoreError
from cryobase.store.files import read_file
from cryobase.store.publish import publish_bytes
from cryobase.store.text import read_json, record

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]

FORMAT = 1
MAX_CARD, MAX_HISTORY = 1 << 24, 1 << 23  # bytes
MAX_SETS, MAX_RANK, MAX_EXTENT, MAX_DIGEST = 16, 31, 1 << 28, 128
WEIGHTS, CARD, HISTORY = FILES = ("weights.npz", "head.json", "history.csv")
MAX_WEIGHTS = 640 << 20  # bytes of weights.npz; checking that they are finite takes a quarter more
MAX_SIDE = 2048  # pixels of an image's side: a batch of such images has 1.6 GB
ROWS = 4096  # rows in one matrix product


def forward(
    x: NDArray[np.float32],
    layers: Sequence[Layer],
    mean: NDArray[np.float32] | None,
    scale: NDArray[np.float32] | None,
    activation: str = "relu",
) -> NDArray[np.float32]:
    """Logits (n, outputs) of features (n, width) in float32."""
    if mean is not None and scale is not None:
        x = (x - mean) / scale
    for kernel, bias in layers[:-1]:
        x = x @ kernel + bias
        x = np.maximum(x, 0) if activation == "relu" else x
    kernel, bias = layers[-1]
    return x @ kernel + bias


@dataclass(frozen=True, eq=False)
class Trained:
    """The weights of one trained head.

    Attributes:
        layers: kernel (inputs, outputs) and bias (outputs,) of each dense layer, in order.
        mean: (width,) subtracted from the features; None if features are not standardized.
        scale: (width,) by which the features are then divided; None if `mean` is.
        history: the epochs; empty for heads that are solved without steps.
    """

    layers: tuple[Layer, ...]
    mean: NDArray[np.float32] | None
    scale: NDArray[np.float32] | None
    history: History


@dataclass(frozen=True, kw_only=True)
class Card:
    """The content of `head.json`; it may come from somebody else.

    Raises:
        ValueError: a value is out of bounds.
    """

    format: int
    params: Mapping[str, Any]
    classes: tuple[str, ...]
    specs: tuple[Mapping[str, Any], ...]
    shapes: tuple[tuple[int, ...], ...]
    data: tuple[str, ...]
    epochs: int
    best_epoch: int | None
    overfitting_from: int | None
    weights_sha256: str

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format {self.format}, this version reads {FORMAT}")
        if len(self.classes) < 2 or not all(self.classes):
            raise ValueError("fewer than two classes, or one without a name")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class name comes twice")
        if not 0 < len(self.shapes) <= MAX_SETS or len(self.specs) not in (0, len(self.shapes)):
            raise ValueError(f"{len(self.specs)} specs for {len(self.shapes)} shapes")
        if any(len(shape) > MAX_RANK or not all(0 < n < MAX_EXTENT for n in shape)
               for shape in self.shapes):  # fmt: skip
            raise ValueError("a shape without features")
        if len(self.data) > 2 * MAX_SETS or any(len(text) > MAX_DIGEST for text in self.data):
            raise ValueError("data that are not digests")

    def check(self, head: "Head") -> None:
        """Refuse a card that contradicts the other files.

        Raises:
            ValueError: the epochs differ from those of the history.
        """
        said = (self.epochs, self.best_epoch, self.overfitting_from)
        history = head.history
        if said != (len(history), history.best_epoch, history.overfitting_from):
            raise ValueError(f"{CARD} and {HISTORY} have different epochs")


@dataclass(frozen=True, eq=False, kw_only=True)
class Head:
    """The small dense classifier trained on features.

    Attributes:
        params: the params that it was trained with.
        classes: names of the classes, in the order of the outputs.
        specs: the specs of its features; several are placed side by side, in this order.
        shapes: the shape of one feature of each spec.
        layers: kernel (inputs, outputs) and bias (outputs,) of each dense layer.
        mean: (width,) subtracted from the features, or None.
        scale: (width,) by which the features are then divided, or None.
        data: digests of the feature set (or sets) and of the split.
        history: the epochs of its training.
    """

    params: HeadParams
    classes: tuple[str, ...]
    specs: tuple[FeatureSpec, ...]
    shapes: tuple[tuple[int, ...], ...]
    layers: tuple[Layer, ...]
    mean: NDArray[np.float32] | None
    scale: NDArray[np.float32] | None
    data: tuple[str, ...]
    history: History

    def __post_init__(self) -> None:
        width = self.width
        for kernel, bias in self.layers:
            if kernel.ndim != 2 or kernel.shape[0] != width or bias.shape != kernel.shape[1:]:
                raise DataError(f"head: kernel {kernel.shape}, bias {bias.shape}, {width} inputs")
            width = kernel.shape[1]
        sizes = [array.shape for array in (self.mean, self.scale) if array is not None]
        if sizes not in ([], [(self.width,)] * 2):
            raise DataError(f"head: mean and scale have shapes {sizes}, not ({self.width},)")
        hidden = tuple(len(bias) for _, bias in self.layers[:-1])
        if hidden != self.params.units:
            raise DataError(f"head: hidden layers of {hidden} units, its params have other units")
        if self.scale is not None and not (self.scale > 0).all():
            raise DataError("head: a scale that is not positive")
        if self.params.output == "sigmoid" and len(self.classes) != 2:
            raise DataError(f"head: one output for {len(self.classes)} classes")
        if width != self.outputs:
            raise DataError(f"head: {width} outputs for {len(self.classes)} classes")
        if not all(np.isfinite(array).all() for array in self._arrays().values()):
            raise DataError("head: weights that are not finite")

    @property
    def spec(self) -> FeatureSpec:
        """The spec of its features, for a head on one feature set.

        Raises:
            DataError: the head takes several feature sets.
        """
        if len(self.specs) > 1:
            raise DataError(f"head: takes {len(self.specs)} feature sets side by side, not one")
        return self.specs[0]

    @property
    def width(self) -> int:
        """Feature values per row."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def outputs(self) -> int:
        """Number of logits: one per class, or 1 with `output: sigmoid`."""
        return 1 if self.params.output == "sigmoid" else len(self.classes)

    def logits(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Logits (n, outputs) of features (n, ...), without TensorFlow.

        Raises:
            DataError: the features have another width, or the answers are not finite.
        """
        rows = features.reshape(len(features), math.prod(features.shape[1:]))
        if rows.shape[1] != self.width:
            raise DataError(f"head: features of {rows.shape[1]} values, expected {self.width}")
        answers = [self._answer(rows[k : k + ROWS]) for k in range(0, len(rows), ROWS)]
        return np.concatenate(answers or [np.empty((0, self.outputs), np.float32)])

    def _answer(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        x = rows.astype(np.float32, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):  # the result is checked below
            logits = forward(x, self.layers, self.mean, self.scale, self.params.activation)
        if not np.isfinite(logits).all():
            raise DataError("head: answers that are not finite; run `cryobase train`")
        return logits

    def probabilities(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Probabilities (n, classes) of features (n, ...)."""
        return to_probabilities(self.logits(features))

    def save(self, directory: Path) -> None:
        """Write weights.npz, history.csv and, last, head.json with the checksum of the weights."""
        buffer = io.BytesIO()
        np.savez(buffer, **self._arrays())  # type: ignore[arg-type]
        card = json.dumps(self._card(_sha256(buffer.getvalue())), indent=2, sort_keys=True) + "\n"
        publish_bytes(directory, WEIGHTS, buffer.getvalue())
        publish_bytes(directory, HISTORY, self.history.to_csv().encode())
        publish_bytes(directory, CARD, card.encode())

    @classmethod
    def load(cls, directory: Path) -> "Head":
        """Read a head that `save` wrote. It may come from somebody else: no code in it is run.

        Raises:
            DataError: a file is missing, damaged or does not fit the others.
        """
        try:
            card = record(Card, read_json(directory / CARD, MAX_CARD))
            arrays = _read_arrays(directory / WEIGHTS, card.weights_sha256)
            count = sum(name.startswith("kernel") for name in arrays)
            specs = tuple(map(FeatureSpec.from_json, card.specs))
            if side := next((one.image_size for one in specs if one.image_size > MAX_SIDE), 0):
                raise DataError(f"images of {side} pixels a side, at most {MAX_SIDE}")
            text = read_file(directory / HISTORY, MAX_HISTORY).decode("utf-8")
            head = cls(
                params=HeadParams.from_json(card.params),
                classes=card.classes,
                specs=specs,
                shapes=card.shapes,
                layers=tuple((arrays[f"kernel{k}"], arrays[f"bias{k}"]) for k in range(count)),
                mean=arrays.get("mean"),
                scale=arrays.get("scale"),
                data=card.data,
                history=History.from_csv(text),
            )
            card.check(head)
        except (StoreError, OSError, KeyError, TypeError, ValueError) as error:
            mend = "run `cryobase train`"
            raise DataError(f"{directory}: not a usable head ({error}); {mend}") from error
        return head

    def _arrays(self) -> dict[str, NDArray[np.float32]]:
        arrays: dict[str, NDArray[np.float32]] = {}
        for k, (kernel, bias) in enumerate(self.layers):
            arrays |= {f"kernel{k}": kernel, f"bias{k}": bias}
        if self.mean is not None and self.scale is not None:
            arrays |= {"mean": self.mean, "scale": self.scale}
        return arrays

    def _card(self, weights_sha256: str) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "params": self.params.to_json(),
            "classes": self.classes,
            "specs": [spec.to_json() for spec in self.specs],
            "shapes": self.shapes,
            "data": self.data,
            "epochs": len(self.history),
            "best_epoch": self.history.best_epoch,
            "overfitting_from": self.history.overfitting_from,
            "weights_sha256": weights_sha256,
        }


def to_probabilities(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Softmax of logits (n, classes). One logit (n, 1) gives the two classes' probabilities."""
    z = logits.astype(np.float64)
    if z.shape[1] == 1:
        z = np.concatenate([np.zeros_like(z), z], axis=1)
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _read_arrays(path: Path, sha256: str) -> dict[str, NDArray[np.float32]]:
    """The arrays of an npz file that somebody else may have written."""
    with opened(path, MAX_WEIGHTS) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise DataError(f"{path}: its SHA-256 is not the one in {CARD}")
        return read_npz(file, {"<f4"})


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

"""Saved models on disk: the two models that a tuning leaves, and the card needed to load them."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.foreign import MAX_FILE, load_weights
from cryobase.stages.data.pixels import PixelSpec
from cryobase.stages.data.stream import ImageStream
from cryobase.stages.errors import DataError
from cryobase.stages.heads.head import MAX_SIDE, Head
from cryobase.stages.heads.metrics import Predictions, scores
from cryobase.stages.outputs import write_text
from cryobase.stages.received import opened
from cryobase.stages.tuning.starts import HALVES, Start, precision, two_columns, untuned
from cryobase.store.text import parse_json

FORMAT = 2
START, TUNED, CARD, HEAD = "start.keras", "model.keras", "model.json", "head"
MAX_CARD = 1 << 23  # bytes
PRECISIONS = ("float32", *HALVES)
TOP_K = 5


@dataclass(frozen=True, eq=False)
class TunedModel:
    """A model that was saved by `finetune`, loaded and ready to predict.

    Attributes:
        model: the `keras.Model`, from pixels (b, size, size, 3) in 0 to 255 to probabilities.
        classes: names of the classes, in the order of the outputs.
        pixels: how an image becomes the model's input.
    """

    model: Any
    classes: tuple[str, ...]
    pixels: PixelSpec

    @classmethod
    def load(cls, directory: Path, name: str = TUNED) -> "TunedModel":
        """Read a saved model. It may come from somebody else.

        Only the weights of the Keras file are used. The model is built from the card and the head,
        which hold only bounded numbers and names from our tables.

        Raises:
            DataError: a file is missing, damaged, or not the one that was saved.
        """
        try:
            with opened(directory / CARD, MAX_CARD) as file:
                card = parse_json(file.read())
            if card["format"] != FORMAT:
                raise DataError(f"format {card['format']!r:.20}, this version reads {FORMAT}")
            if _sha256(directory / name) != card["sha256"][name]:
                raise DataError(f"{name}: its SHA-256 is not the one in {CARD}")
            head, pixels = Head.load(directory / HEAD), PixelSpec(**card["pixels"])
            return cls(_model(card, head, pixels, directory / name), head.classes, pixels)
        except (OSError, KeyError, TypeError, ValueError) as error:
            reason = f"without {error}" if isinstance(error, KeyError) else error
            raise DataError(
                f"{directory}: not a usable model ({reason}); run `cryobase finetune`"
            ) from None

    def probabilities(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """(b, classes) of pixels (b, size, size, 3) in 0 to 255."""
        return two_columns(self.model.predict_on_batch(images))


def save(model: Any, path: Path) -> None:
    """Save a Keras model as a `.keras` file, replacing an earlier file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    model.save(path)


def save_card(directory: Path, start: Start, policy: str) -> None:
    """Write the card that `TunedModel.load` needs beside the two models.

    Args:
        directory: directory of the models.
        start: the start of the run.
        policy: the Keras dtype policy under which the models were built.
    """
    shutil.rmtree(directory / HEAD, ignore_errors=True)
    start.head.save(directory / HEAD)
    card = {
        "format": FORMAT,
        "classes": start.head.classes,
        "below": start.below,
        "pixels": asdict(start.pixels),
        "precision": policy,
        "sha256": {name: _sha256(directory / name) for name in (START, TUNED)},
    }
    text = json.dumps(card, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_text(directory / CARD, text)


def _model(card: Mapping[str, Any], head: Head, pixels: PixelSpec, path: Path) -> Any:
    """The model that a card describes, with the weights of a file."""
    if card["precision"] not in PRECISIONS:
        raise DataError(f"no precision {card['precision']!r:.40}")
    if not pixels.image_size <= MAX_SIDE:
        raise DataError(f"images of {pixels.image_size} pixels a side, at most {MAX_SIDE}")
    with precision(card["precision"]):
        model = untuned(head, card["below"])
    if model.input_shape[1] != pixels.image_size:
        raise DataError(f"images of {pixels.image_size} for a model of {model.input_shape[1]}")
    load_weights(model, path)
    return model


def answers(
    models: Mapping[str, TunedModel], stream: ImageStream, ids: NDArray[np.bytes_]
) -> dict[str, Predictions]:
    """Predictions of several models on the same plain images; each image is decoded once.

    Returns an empty dict if there are no images.
    """
    if not len(ids):
        return {}
    probabilities: dict[str, list[NDArray[np.float64]]] = {name: [] for name in models}
    for images, _ in stream.plain.batches(ids):
        for name, model in models.items():
            probabilities[name].append(model.probabilities(images))
    examples = stream.images.examples
    labels = examples.labels[examples.positions(ids)]
    return {
        name: Predictions(ids, labels, np.concatenate(parts), models[name].classes)
        for name, parts in probabilities.items()
    }


def scores_of(predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
    """The scores of each model."""
    return {name: scores(each, TOP_K) for name, each in predictions.items()}


def _sha256(path: Path) -> str:
    with opened(path, MAX_FILE) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

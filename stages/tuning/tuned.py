"""Saved models on disk, with what is needed to use them: the pair that a tuning leaves behind."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.data.pixels import PixelSpec
from stages.data.stream import ImageStream
from stages.errors import DataError
from stages.heads.metrics import Predictions, scores
from stages.outputs import write_text
from stages.tuning.starts import two_columns

FORMAT = 1
START, TUNED, CARD = "start.keras", "model.keras", "model.json"
TOP_K = 5


@dataclass(frozen=True, eq=False)
class TunedModel:
    """A model that was saved by `finetune`, ready to answer.

    Attributes:
        model: the `keras.Model`, from pixels (b, size, size, 3) in 0 to 255 to probabilities.
        classes: names, in order.
        pixels: how an image becomes its input.
    """

    model: Any
    classes: tuple[str, ...]
    pixels: PixelSpec

    @classmethod
    def load(cls, directory: Path, name: str = TUNED) -> "TunedModel":
        """Read a saved model; nothing in the file is executed (`safe_mode`).

        Raises:
            DataError: a file is missing, damaged, or not the one that was saved.
        """
        from stages.backbones.frameworks import load_keras

        try:
            card = json.loads((directory / CARD).read_bytes())
            if card["format"] != FORMAT:
                raise DataError(
                    f"{directory}: format {card['format']}, this version reads {FORMAT}"
                )
            if _sha256(directory / name) != card["sha256"][name]:
                raise DataError(f"{directory / name}: its SHA-256 is not the one in {CARD}")
            model = load_keras().models.load_model(directory / name, compile=False, safe_mode=True)
            return cls(model, tuple(card["classes"]), PixelSpec(**card["pixels"]))
        except (OSError, KeyError, TypeError, ValueError) as error:
            mend = "run: cryobase finetune"
            raise DataError(f"{directory}: not a usable model ({error}); {mend}") from error

    def probabilities(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """(b, classes) of pixels (b, size, size, 3) in 0 to 255."""
        return two_columns(self.model.predict_on_batch(images))


def save(model: Any, path: Path) -> None:
    """Save a Keras model as a `.keras` file, in the place of what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    model.save(path)


def save_card(directory: Path, classes: tuple[str, ...], pixels: PixelSpec) -> None:
    """Write what `TunedModel.load` needs beside both models."""
    card = {
        "format": FORMAT,
        "classes": classes,
        "pixels": asdict(pixels),
        "sha256": {name: _sha256(directory / name) for name in (START, TUNED)},
    }
    text = json.dumps(card, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_text(directory / CARD, text)


def answers(
    models: Mapping[str, TunedModel], stream: ImageStream, ids: NDArray[np.bytes_]
) -> dict[str, Predictions]:
    """What several models say of the same plain images, each decoded once; of none, nothing."""
    if not len(ids):
        return {}
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in models}
    for images, _ in stream.plain.batches(ids):
        for name, model in models.items():
            found[name].append(model.probabilities(images))
    examples = stream.images.examples
    labels = examples.labels[examples.positions(ids)]
    return {
        name: Predictions(ids, labels, np.concatenate(parts), models[name].classes)
        for name, parts in found.items()
    }


def scores_of(predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
    """The scores of each model."""
    return {name: scores(each, TOP_K) for name, each in predictions.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

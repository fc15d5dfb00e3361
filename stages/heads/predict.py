"""Classifying image files with a head grafted onto its backbone."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.backbones.build import build
from stages.backbones.frameworks import load_keras
from stages.backbones.weights import locate_weights
from stages.data.folder import is_licence
from stages.data.pixels import PixelSpec, UndecodableImageError, load
from stages.errors import DataError, MissingWeightsError
from stages.heads.graft import graft
from stages.heads.head import Head
from stages.tuning.tuned import CARD, TunedModel
from store import FeatureSpec

logger = logging.getLogger(__name__)

BATCH = 32


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of one file: probabilities (classes,), or why it says nothing."""

    path: Path
    probabilities: NDArray[np.float32] | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Classifier:
    """A Keras model from pixels to probabilities, with what its numbers mean.

    Attributes:
        model: from float32 RGB pixels (n, size, size, 3), 0 to 255, to probabilities (n, classes),
            or (n, 1) of the second of two classes.
        classes: names.
        pixels: how an image becomes the model's input.
    """

    model: Any
    classes: tuple[str, ...]
    pixels: PixelSpec

    @classmethod
    def open(cls, directory: Path, weights: Sequence[str]) -> "Classifier":
        """The model of a directory: a head's, or what `finetune` saved; see `of_head`."""
        if (directory / CARD).exists():
            return cls.of_tuned(directory)
        return cls.of_head(directory, weights)

    @classmethod
    def of_head(cls, directory: Path, weights: Sequence[str]) -> "Classifier":
        """Graft a trained head onto the backbone that its features came from.

        Args:
            directory: of the head.
            weights: where to look for the backbone's weights: "imagenet", "none" or paths.

        Raises:
            DataError: no usable head.
            MissingWeightsError: none of the weights are those that the features came from.
        """
        load_keras()
        head = Head.load(directory)
        spec = head.spec
        backbone = build(
            spec.backbone,
            _weights_of(spec, weights),
            image_size=spec.image_size,
            preprocessing=spec.preprocessing,
            outputs=[spec.output],
        )
        return cls(graft(backbone, head), head.classes, PixelSpec.of(spec))

    @classmethod
    def of_tuned(cls, directory: Path) -> "Classifier":
        """A model that `finetune` saved.

        Raises:
            DataError: no usable model.
        """
        tuned = TunedModel.load(directory)
        return cls(tuned.model, tuned.classes, tuned.pixels)

    def predict(self, paths: Iterable[Path]) -> Iterator[Prediction]:
        """A prediction per file, in order; a file that is no image gives its reason."""
        remaining = iter(paths)
        while batch := list(islice(remaining, BATCH)):
            found = [self._read(path) for path in batch]
            good = [pixels for pixels in found if not isinstance(pixels, str)]
            answers = iter(self._answer(np.stack(good)) if good else ())
            for path, pixels in zip(batch, found, strict=True):
                if isinstance(pixels, str):
                    yield Prediction(path, None, pixels)
                else:
                    yield Prediction(path, next(answers))

    def _read(self, path: Path) -> NDArray[np.float32] | str:
        try:
            return load(path.read_bytes(), self.pixels)
        except (OSError, UndecodableImageError) as error:
            return str(error)

    def _answer(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (n, classes); padding to one shape avoids a second compilation."""
        padded = np.zeros((BATCH, *pixels.shape[1:]), np.float32)
        padded[: len(pixels)] = pixels
        answers = np.asarray(self.model.predict_on_batch(padded))[: len(pixels)]
        return np.hstack([1 - answers, answers]) if answers.shape[1] == 1 else answers


def image_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files named, and those in the directories named, at any depth, without hidden ones.

    Raises:
        DataError: there is no such file or directory.
    """
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or directory")
        if not path.is_dir():
            yield path
            continue
        for found in sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in found.relative_to(path).parts)
            if found.is_file() and not hidden and not is_licence(found.name):
                yield found


def _weights_of(spec: FeatureSpec, weights: Sequence[str]) -> Path:
    """The weights file that the features of a spec were computed with."""
    reasons = []
    for one in dict.fromkeys(weights):
        try:
            found = locate_weights(spec.backbone, one, image_size=spec.image_size)
        except MissingWeightsError as error:
            reasons.append(str(error))
            continue
        if found.sha256 == spec.weights_sha256:
            return found.path
        reasons.append(f"{found.path}: SHA-256 {found.sha256[:12]}…")
    raise MissingWeightsError(
        f"the weights of {spec.backbone} with SHA-256 {spec.weights_sha256[:12]}… are needed;"
        f" found: {'; '.join(reasons) or 'nothing'}"
    )

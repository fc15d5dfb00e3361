"""`cryobase predict`: classify image files by a head on its backbone, or by a tuned model.

The files may come from anybody; they are decoded in a child process.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.data.packs import read_image
from cryobase.stages.data.pixels import PixelSpec
from cryobase.stages.data.received_pixels import ReceivedPixels
from cryobase.stages.errors import DataError
from cryobase.stages.heads.graft import graft_onto
from cryobase.stages.heads.head import Head
from cryobase.stages.progress import Progress
from cryobase.stages.sources.folder import files
from cryobase.stages.sources.left_out import Tally
from cryobase.stages.tuning.saved import CARD, TunedModel

logger = logging.getLogger(__name__)

BATCH = 32


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer for one file: probabilities (classes,), or the reason why there are none."""

    path: Path
    probabilities: NDArray[np.float32] | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Classifier:
    """A Keras model from pixels to probabilities, with its classes and the form of its input.

    Attributes:
        model: from float32 RGB pixels (n, size, size, 3), 0 to 255, to probabilities (n, classes),
            or (n, 1) of the second of two classes.
        classes: names of the classes.
        pixels: how an image becomes the model's input.
    """

    model: Any
    classes: tuple[str, ...]
    pixels: PixelSpec

    @classmethod
    def open(cls, directory: Path, weights: Sequence[str]) -> "Classifier":
        """The model in a directory of a head, or in one that `finetune` wrote; see `of_head`."""
        if (directory / CARD).exists():
            return cls.of_tuned(directory)
        return cls.of_head(directory, weights)

    @classmethod
    def of_head(cls, directory: Path, weights: Sequence[str]) -> "Classifier":
        """Graft a trained head onto the backbone that computed its features.

        Args:
            directory: directory of the head.
            weights: where to look for the backbone's weights: "imagenet", "none" or paths.

        Raises:
            DataError: the head is not usable, or it is the head of a pair whose two backbones
                cannot share one input.
            MissingWeightsError: no weights are those that the features were computed with.
        """
        head = Head.load(directory)
        return cls(graft_onto(head, weights), head.classes, PixelSpec.of(head.specs[0]))

    @classmethod
    def of_tuned(cls, directory: Path) -> "Classifier":
        """A model that `finetune` saved.

        Raises:
            DataError: the model is not usable.
        """
        tuned = TunedModel.load(directory)
        return cls(tuned.model, tuned.classes, tuned.pixels)

    def predict(self, paths: Collection[Path]) -> Iterator[Prediction]:
        """One prediction per file, in order. A file that is not an image gives the reason."""
        with (
            closing(ReceivedPixels(self.pixels)) as decoder,
            Progress("predict", "images", len(paths)) as progress,
        ):
            for one in self._predict(iter(paths), decoder):
                progress.advance(1)
                yield one

    def _predict(self, remaining: Iterator[Path], decoder: ReceivedPixels) -> Iterator[Prediction]:
        while batch := list(islice(remaining, BATCH)):
            found = [_read(path, decoder) for path in batch]
            good = [pixels for pixels in found if not isinstance(pixels, str)]
            answers = iter(self._answer(np.stack(good)) if good else ())
            for path, pixels in zip(batch, found, strict=True):
                if isinstance(pixels, str):
                    yield Prediction(path, None, pixels)
                    continue
                answer: NDArray[np.float32] = next(answers)
                if np.isfinite(answer).all():
                    yield Prediction(path, answer)
                else:
                    yield Prediction(path, None, "the model's answer is not finite; train it again")

    def _answer(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (n, classes). Batches are padded to one shape, to compile only once."""
        padded = np.zeros((BATCH, *pixels.shape[1:]), np.float32)
        padded[: len(pixels)] = pixels
        answers = np.asarray(self.model.predict_on_batch(padded))[: len(pixels)]
        return np.hstack([1 - answers, answers]) if answers.shape[1] == 1 else answers


def _read(path: Path, decoder: ReceivedPixels) -> NDArray[np.float32] | str:
    """The pixels of a file, or why there are none."""
    try:
        return decoder.load(read_image(path))
    except (OSError, DataError) as error:
        return str(error)


def image_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The given files, and the files that may be images in the given directories, at any depth.

    Raises:
        DataError: a path does not exist, or a directory cannot be listed.
    """
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or directory")
        if not path.is_dir():
            yield path
            continue
        leaves = Tally()
        yield from sorted(found for found, _ in files(path, "", leaves))
        if leaves.counts:
            logger.info("%s: left out, as download does: %s", path, leaves)

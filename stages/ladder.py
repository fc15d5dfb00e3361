"""`cryobase ladder`: the accuracy and the seconds of each step of transfer learning on a dataset.

A step is called a rung. It is no DVC stage and changes nothing but its output and work directory.
"""

import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cryobase.stages import evaluate, extract, finetune, train
from cryobase.stages.backbones.frameworks import load_keras
from cryobase.stages.data import index as indices
from cryobase.stages.data.augment import Augmentation
from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import PARTS, Splits
from cryobase.stages.data.stream import ImageStream
from cryobase.stages.errors import DataError
from cryobase.stages.evaluate import EvaluateConfig
from cryobase.stages.extract import ExtractConfig, SetConfig
from cryobase.stages.heads.config import HeadConfig
from cryobase.stages.outputs import write_json, write_table
from cryobase.stages.train import TrainConfig
from cryobase.stages.tuning import pictures, starts
from cryobase.stages.tuning.config import Network, NewHead
from cryobase.stages.tuning.convnets import CONVNETS
from cryobase.stages.tuning.freezing import unfreeze
from cryobase.stages.tuning.phase import ImageExamples, OptimizerSettings, Phase, PhaseSettings
from cryobase.store.errors import mended_by

logger = logging.getLogger(__name__)

RUNGS = ("scratch", "scratch augmented", "frozen features", "stored views", "fine-tuned")
SET, HEAD = "ladder", "linear"


@dataclass(frozen=True, kw_only=True)
class LadderConfig:
    """Settings that all rungs share.

    Attributes:
        base: the base of the upper three rungs. The lower two train a small network at the same
            image size.
        network: that small network, a key of `CONVNETS`.
        augmentation: augmentation of the augmented rung and of the stored views.
        views: stored views of every image.
        head_epochs: the most epochs of the head on stored features.
        scratch_epochs: the fewest epochs of the network from scratch. It trains on until it has
            used as many seconds as the frozen rung.
        tuning_epochs, tuning_rate: epochs and learning rate of the last rung.
        train: number of training images that are used, with equal numbers per class; 0 means all.
        rungs: the rungs to run; `frozen features` always runs.
        seed: seed of all random numbers.
    """

    base: SetConfig
    network: str = "five-blocks"
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(
            rotation=10, width_shift=0.1, height_shift=0.1, zoom=0.1
        )
    )
    views: int = 2
    head_epochs: int = 30
    scratch_epochs: int = 5
    tuning_epochs: int = 3
    tuning_rate: float = 1e-5
    train: int = 0
    rungs: tuple[Literal["scratch", "scratch augmented", "stored views", "fine-tuned"], ...] = (
        "scratch",
        "scratch augmented",
        "stored views",
        "fine-tuned",
    )
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Rung:
    """The result of one way of training.

    Attributes:
        rung: name of the rung.
        accuracy: accuracy of the kept weights on the validation images.
        at_frozen_seconds: the best accuracy within the seconds of the frozen rung; 0 if no epoch
            fits into them, None if the rung does not train from scratch.
        seconds: time from images to a trained model.
        bought: accuracy gained over the best lower rung.
    """

    rung: str
    accuracy: float
    at_frozen_seconds: float | None
    seconds: float
    bought: float = 0.0


def run(config: LadderConfig, *, raw: Path, splits: Path, work: Path, output: Path) -> list[Rung]:
    """Run all rungs and write `ladder.csv`, `ladder.json` and `ladder.svg`.

    Args:
        config: the rungs.
        raw: directory of the images.
        splits: directory of the splits.
        work: directory for temporary files; it is emptied.
        output: directory that receives the table and the picture.

    Raises:
        DataError: there are no validation images.
    """
    shutil.rmtree(work, ignore_errors=True)
    subset = _subset(RawImages.open(raw), Splits.open(splits), config.train)
    subset.write(
        work / "splits", [{"part": part, "images": len(subset.ids(part))} for part in PARTS]
    )
    if not len(subset.ids("validation")):
        mend = "raise split.validation, then run `cryobase split`"
        raise DataError(f"{splits}: no validation images; {mend}")
    load_keras()  # takes seconds, which must not count for the first rung
    climb = _Climb(config, _only(raw, subset, work / "raw") if config.train else raw, work)
    frozen = climb.head_on(0)
    makers: dict[str, Callable[[], Rung]] = {
        "scratch": lambda: climb.scratch(None, frozen.seconds),
        "scratch augmented": lambda: climb.scratch(config.augmentation, frozen.seconds),
        "frozen features": lambda: frozen,
        "stored views": lambda: climb.head_on(config.views),
        "fine-tuned": lambda: climb.tuned(frozen.seconds),
    }
    wanted = {*_possible(config), "frozen features"}
    rungs = [makers[name]() for name in RUNGS if name in wanted]
    rungs = _with_gains(rungs)
    output.mkdir(parents=True, exist_ok=True)
    _write(output, rungs)
    return rungs


def _possible(config: LadderConfig) -> tuple[str, ...]:
    """The rungs, without those whose network needs larger images than the set's."""
    smallest = CONVNETS[config.network].smallest
    if config.base.size >= smallest:
        return config.rungs
    logger.warning(
        "the network from nothing needs images of %d pixels, this set's have %d: its rungs are"
        " left out",
        smallest,
        config.base.size,
    )
    return tuple(name for name in config.rungs if not name.startswith("scratch"))


def _subset(images: RawImages, splits: Splits, count: int) -> Splits:
    """The same split without test, with only the first training images of each class by digest."""
    ids = splits.ids("train")
    if not count or count >= len(ids):
        return splits
    examples = images.examples
    positions = np.asarray(examples.positions(ids))
    order = positions[np.lexsort(examples.digests[positions].T[::-1])]
    places: NDArray[np.int64] = np.zeros(len(order), np.int64)
    for label in np.unique(examples.labels[order]):
        same = examples.labels[order] == label
        places[same] = np.arange(same.sum())
    kept = order[np.argsort(places, kind="stable")[:count]]
    chosen = (splits.part == PARTS.index("validation")) | np.isin(
        splits.all_ids, examples.ids[kept]
    )
    return Splits(splits.all_ids[chosen], splits.part[chosen])


def _only(raw: Path, subset: Splits, output: Path) -> Path:
    """Write the images of a subset as a separate directory, so that extraction sees no others."""
    index = indices.read(raw)
    kept = np.isin(index.ids, subset.all_ids)
    images, places = np.unique(index.images[kept], return_inverse=True)
    columns: dict[str, Any] = {
        name: getattr(index, name)[kept] for name in ("ids", "labels", "parts")
    }
    columns |= {name: getattr(index, name)[images] for name in indices.IMAGE_COLUMNS}
    output.mkdir(parents=True)
    for pack in index.packs:
        shutil.copyfile(raw / pack.name, output / pack.name)
    kept_index = indices.Index(
        images=places.astype(np.int64),
        **columns,
        classes=index.classes,
        reasons=index.reasons,
        packs=index.packs,
        in_place=index.in_place,
        source=index.source,
    )
    indices.write(output, kept_index)
    return output


@dataclass(frozen=True)
class _Climb:
    """The directories and data that the rungs use."""

    config: LadderConfig
    raw: Path
    work: Path

    @property
    def splits(self) -> Path:
        return self.work / "splits"

    def head_on(self, views: int) -> Rung:
        """A linear head on stored features, extraction included."""
        begin = time.perf_counter()
        name = f"{SET}-{views}"
        policy = self.config.augmentation if views else None
        chosen = replace(self.config.base, views=views, augmentation=policy)
        features, models = self.work / "features" / name, self.work / "models" / name
        with mended_by(f"remove {self.work}, it is made again"):
            extract.run(
                ExtractConfig(sets={name: chosen}),
                name,
                raw=self.raw,
                pool=self.work / f"pool-{views}",
                output=features,
            )
        head = HeadConfig(
            views=views, epochs=self.config.head_epochs, seed=self.config.seed, patience=0
        )
        train.run(
            TrainConfig(heads={HEAD: head}),
            name,
            features=features,
            splits=self.splits,
            cache=self.work / "heads",
            output=models,
        )
        seconds = time.perf_counter() - begin
        document = evaluate.run(
            EvaluateConfig(final=()),
            name,
            features=features,
            splits=self.splits,
            models=models,
            output=self.work / "results" / name,
        )
        accuracy = document["heads"][HEAD]["validation"]["accuracy"]
        rung = "stored views" if views else "frozen features"
        return _told(rung, accuracy, seconds, None)

    def scratch(self, policy: Augmentation | None, frozen_seconds: float) -> Rung:
        """The small network from scratch, trained at least as long as the frozen rung took."""
        found = from_nothing(
            Network(
                kind=self.config.network,
                image_size=self.config.base.size,
                resize=self.config.base.resize,
                aspect=self.config.base.aspect,
            ),
            NewHead(),
            raw=self.raw,
            splits=self.splits,
            augmentation=policy,
            epochs=self.config.scratch_epochs,
            seconds=frozen_seconds,
            seed=self.config.seed,
        )
        within = [accuracy for seconds, accuracy in found if seconds <= frozen_seconds]
        best = max(accuracy for _, accuracy in found)
        rung = "scratch augmented" if policy else "scratch"
        return _told(rung, best, found[-1][0], max(within, default=0.0))

    def tuned(self, frozen_seconds: float) -> Rung:
        """The frozen rung's head grafted and tuned end to end; its seconds include that rung's."""
        begin = time.perf_counter()
        document = finetune.run(
            finetune.FinetuneRun(
                set=SET,
                head=HEAD,
                epochs=self.config.tuning_epochs,
                learning_rate=self.config.tuning_rate,
                augmentation=self.config.augmentation,
                seed=self.config.seed,
            ),
            raw=self.raw,
            splits=self.splits,
            output=self.work / "tuned",
            results=self.work / "results" / "tuned",
            weights=self.config.base.weights,
            head=self.work / "models" / f"{SET}-0" / HEAD,
            features=self.work / "features" / f"{SET}-0",
            cache=self.work / "epochs",
        )
        seconds = frozen_seconds + time.perf_counter() - begin
        return _told("fine-tuned", document["tuned"]["validation"]["accuracy"], seconds, None)


BATCH = 32
RATE = 1e-3  # Keras' default of Adam


def from_nothing(
    network: Network,
    new: NewHead,
    *,
    raw: Path,
    splits: Path,
    augmentation: Augmentation | None,
    epochs: int,
    seconds: float,
    seed: int,
) -> list[tuple[float, float]]:
    """Train for at least some epochs and at least some seconds.

    Returns:
        For every epoch from 0, the seconds since the beginning and the validation accuracy. The
        seconds include building and compiling the network.
    """
    begin = time.perf_counter()
    images, split = RawImages.open(raw), Splits.open(splits)
    start = starts.scratch(network, new, images.examples.classes, seed)
    unfreeze(start.base, "all")
    stream = ImageStream(
        images=images, pixels=start.pixels, batch_size=BATCH, augmentation=augmentation, seed=seed
    )
    examples = ImageExamples(
        stream=stream,
        train_ids=split.ids("train"),
        validation_ids=split.ids("validation"),
        seed=seed,
    )
    settings = PhaseSettings(
        optimizer=OptimizerSettings(name="adam", learning_rate=RATE),
        epochs=epochs,
        keep="last",
        seed=seed,
    )
    phase = Phase(start.model, start.base, examples, settings)
    row = phase.judged(0, math.nan, math.nan)
    found = [(time.perf_counter() - begin, row["val_accuracy"])]
    while len(found) <= epochs or found[-1][0] < seconds:
        row = phase.epoch(len(found))
        found.append((time.perf_counter() - begin, row["val_accuracy"]))
    return found


def _told(rung: str, accuracy: float, seconds: float, within: float | None) -> Rung:
    logger.info("%s: validation accuracy %.4f after %.1f s", rung, accuracy, seconds)
    return Rung(rung=rung, accuracy=accuracy, seconds=round(seconds, 2), at_frozen_seconds=within)


def _with_gains(rungs: list[Rung]) -> list[Rung]:
    best = 0.0
    found: list[Rung] = []
    for rung in rungs:
        found.append(replace(rung, bought=round(rung.accuracy - best, 6) if found else 0.0))
        best = max(best, rung.accuracy)
    return found


def _write(output: Path, rungs: list[Rung]) -> None:
    rows: list[dict[str, Any]] = [asdict(rung) for rung in rungs]
    write_table(output / "ladder.csv", list(rows[0]), (row.values() for row in rows))
    write_json(output / "ladder.json", rows)
    pictures.ladder(output / "ladder.svg", rows)

"""All phases of a tuning, one after the other, and the record of their epochs.

One phase is trained by `phase.py`; files are written by `outcome.py`.
"""

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import Splits
from cryobase.stages.data.stream import ImageStream
from cryobase.stages.heads.history import overfitting_onset
from cryobase.stages.tuning import cached_trunk, freezing, saved
from cryobase.stages.tuning.cached_trunk import StoredTrunk, store_trunk
from cryobase.stages.tuning.config import FinetuneRun, PhaseConfig
from cryobase.stages.tuning.freezing import (
    learning_layers,
    logits_model,
    place_of_cut,
    unfreeze,
)
from cryobase.stages.tuning.phase import (
    ImageExamples,
    OptimizerSettings,
    Phase,
    PhaseSettings,
    TrainingExamples,
    kept_epoch,
)
from cryobase.stages.tuning.resume import Checkpoints, HistoryRows
from cryobase.stages.tuning.starts import CHECKED, Start, check_joined, precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """The data of a run.

    Attributes:
        images: the images.
        split: the ids that train, validate and test.
        raw: directory of the images.
        pool: directory of the pool that holds rows of trunks.
        rows: directory where a trunk's rows are published while the run trains.
    """

    images: RawImages
    split: Splits
    raw: Path
    pool: Path
    rows: Path


@dataclass(kw_only=True)
class Told:
    """The record of all phases.

    Attributes:
        rows: one row per epoch: phase (from 1), epoch, loss, accuracy, val_loss, val_accuracy.
            Epochs are counted from 0 through all phases.
        kept: for each phase, the epoch whose weights were kept.
        between: validation scores after each phase except the last; empty without validation.
        trunks: by number of the phase, what was stored and how far it changed the logits.
    """

    rows: HistoryRows = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    between: list[dict[str, float]] = field(default_factory=list)
    trunks: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, number: int, settings: PhaseSettings, found: HistoryRows) -> None:
        """Append the rows of a phase. Their epochs count from the start of the phase."""
        self.kept.append(settings.first + kept_epoch(found, settings.keep))
        self.rows.extend(
            {**row, "phase": number, "epoch": settings.first + row["epoch"]}
            for row in (found if number == 1 else found[1:])
        )

    @property
    def starts(self) -> list[int]:
        """The first epoch of every phase but the first."""
        phases = [row["phase"] for row in self.rows]
        return [phases.index(phase) for phase in sorted(set(phases))[1:]]

    @property
    def overfitting_from(self) -> int | None:
        """The epoch where overfitting begins, see `history.overfitting_onset`."""
        rows = self.rows[1:]
        return overfitting_onset([row["loss"] for row in rows], [row["val_loss"] for row in rows])


def train(
    config: FinetuneRun,
    start: Start,
    data: Data,
    *,
    directory: Path,
    scaled: bool,
) -> Told:
    """Run every phase. Afterwards the model of `start` has the weights that the last phase kept.

    Args:
        config: the run.
        start: the model; its weights are changed.
        data: images and split to train on.
        directory: directory of the checkpoints.
        scaled: whether the loss is scaled, which float16 needs.
    """
    stream = ImageStream(
        images=data.images,
        pixels=start.pixels,
        batch_size=config.batch_size,
        augmentation=config.augmentation,
        seed=config.seed,
    )
    check_joined(start, stream, data.split.ids("train"))
    if not len(data.split.ids("validation")):
        logger.warning(
            "no validation images, so each phase keeps its last epoch; raise split.validation"
        )
    record = Told()
    for number, phase in enumerate(config.phases, start=1):
        if number > 1:
            record.between.append(_scores_now(start, stream, data.split))
        free(phase, start)
        place = place_to_store(config, start, data, phase.epochs)
        settings = PhaseSettings(
            optimizer=_optimizer(phase),
            epochs=phase.epochs,
            keep=phase.keep,
            seed=config.seed,
            cut=place.layer if place else None,
            scaled=scaled,
            first=sum(one.epochs for one in config.phases[: number - 1]),
        )
        examples = _examples(config, start, data, stream, place)
        if isinstance(examples, StoredTrunk) and place:
            record.trunks[number] = _told_of_trunk(config, start, stream, examples, place)
        history = Phase(start.model, start.base, examples, settings).run(
            Checkpoints(directory / f"phase-{number}")
        )
        record.add(number, settings, history)
    return record


def place_to_store(
    config: FinetuneRun, start: Start, data: Data, epochs: int
) -> cached_trunk.Place | None:
    """The place whose outputs are stored; None if images go through the whole base each epoch.

    Raises:
        ConfigError: the layer that the run names is not a place to cut.
    """
    if config.trunk == "none":
        return None
    candidates = places_now(config, start, data.images, data.split)
    return cached_trunk.chosen(config.trunk, candidates, epochs, config.trunk_gigabytes * 1e9)


def places_now(
    config: FinetuneRun, start: Start, images: RawImages, split: Splits
) -> list[cached_trunk.Place]:
    """Every place to cut below the layers that currently learn."""
    whole = logits_model(start.model)
    return cached_trunk.places(
        whole,
        learning_layers(whole, start.base),
        images=int((~images.examples.quarantined).sum()),
        train=len(split.ids("train")),
        views=config.views,
        dtype=config.trunk_dtype,
    )


def free(phase: PhaseConfig, start: Start) -> None:
    """Unfreeze the layers that a phase names, and freeze all others."""
    learns = phase.batch_normalization == "trainable"
    unfreeze(start.base, phase.unfreeze, batch_normalization=learns)


def _examples(
    config: FinetuneRun,
    start: Start,
    data: Data,
    stream: ImageStream,
    place: cached_trunk.Place | None,
) -> TrainingExamples:
    train_ids, validation_ids = data.split.ids("train"), data.split.ids("validation")
    if place is None or start.config is None:
        return ImageExamples(
            stream=stream, train_ids=train_ids, validation_ids=validation_ids, seed=config.seed
        )
    wanted = dataclasses.replace(
        start.config,
        output=place.layer,
        dtype=config.trunk_dtype,
        views=config.views,
        augmentation=config.augmentation,
    )
    with precision("float32"):  # rows are shared with other runs
        rows = store_trunk(wanted, raw=data.raw, pool=data.pool, output=data.rows / place.layer)
    return StoredTrunk(
        rows=rows,
        train_ids=train_ids,
        validation_ids=validation_ids,
        batch_size=config.batch_size,
        seed=config.seed,
    )


def _told_of_trunk(
    config: FinetuneRun,
    start: Start,
    stream: ImageStream,
    examples: StoredTrunk,
    place: cached_trunk.Place,
) -> dict[str, Any]:
    """Facts about what is stored: sizes, and how far its logits are from those on the images."""
    whole = logits_model(start.model)
    upper = freezing.split(whole, place_of_cut(whole, start.base, place.layer))[1]
    ids = examples.train_ids[:CHECKED]
    images, _ = next(stream.plain.batches(ids))
    expected = np.asarray(whole(images, training=False), np.float32)
    stored = np.asarray(upper(examples.rows.arrays(ids[: len(images)])[0], training=False))
    facts = {
        "layer": place.layer,
        "dtype": config.trunk_dtype,
        "bytes": place.bytes,
        "logits_differ_by": float(np.abs(stored - expected).max()),
    }
    logger.info("stored trunk: %s", ", ".join(f"{key} {value}" for key, value in facts.items()))
    return facts


def _optimizer(phase: PhaseConfig) -> OptimizerSettings:
    return OptimizerSettings(
        name=phase.optimizer,
        learning_rate=phase.learning_rate,
        momentum=phase.momentum,
        weight_decay=phase.weight_decay,
        layer_decay=phase.layer_decay,
        warmup=phase.warmup,
    )


def _scores_now(start: Start, stream: ImageStream, split: Splits) -> dict[str, float]:
    model = saved.TunedModel(start.model, start.head.classes, start.pixels)
    predictions = saved.answers({"now": model}, stream, split.ids("validation"))
    return saved.scores_of(predictions).get("now", {})

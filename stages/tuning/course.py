"""All phases of a tuning, one after the other, and what was seen on the way."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.data.raw import RawImages
from stages.data.splits import Splits
from stages.data.stream import ImageStream
from stages.heads.history import overfitting_onset
from stages.tuning import trunkplan, tuned
from stages.tuning.checkpoints import Checkpoints, Rows
from stages.tuning.optimization import OptimizerSettings
from stages.tuning.phase import (
    Examples,
    Images,
    Phase,
    Plan,
    kept_epoch,
    learning_layers,
    logits_model,
)
from stages.tuning.starts import Start
from stages.tuning.trunkrows import StoredTrunk, store_trunk
from stages.tuning.unfreezing import unfreeze

if TYPE_CHECKING:
    from stages.finetune import FinetuneRun
    from stages.finetune import Phase as PhaseConfig

CHECKED = 8  # images that the graft check looks at


@dataclass(frozen=True)
class Data:
    """What a run learns from.

    Attributes:
        images: the images.
        split: which of them learn, which judge.
        raw: where the images lie.
        pool: where rows of trunks are kept.
        rows: where a trunk's rows are published while the run is under way.
    """

    images: RawImages
    split: Splits
    raw: Path
    pool: Path
    rows: Path


@dataclass(frozen=True, kw_only=True)
class Told:
    """The record of all phases.

    Attributes:
        rows: one per epoch, counted on through all phases from 0: phase (from 1), epoch, loss,
            accuracy, val_loss, val_accuracy.
        kept: the epoch of each phase whose weights were kept.
        between: validation scores after each phase but the last.
    """

    rows: Rows
    kept: tuple[int, ...]
    between: tuple[dict[str, float], ...]

    @property
    def starts(self) -> list[int]:
        """The first epoch of every phase but the first."""
        phases = [row["phase"] for row in self.rows]
        return [phases.index(phase) for phase in sorted(set(phases))[1:]]

    @property
    def overfitting_from(self) -> int | None:
        """The epoch where overfitting sets in, see `history.overfitting_onset`."""
        rows = self.rows[1:]
        return overfitting_onset([row["loss"] for row in rows], [row["val_loss"] for row in rows])


def train(
    config: "FinetuneRun",
    start: Start,
    data: Data,
    *,
    directory: Path,
    logs: Path | None,
    scaled: bool,
) -> Told:
    """Run every phase; the model of `start` then has the weights that the last one kept.

    Args:
        config: the run.
        start: the model, which is changed.
        data: what it learns from.
        directory: of the checkpoints.
        logs: where logs for TensorBoard go, or None.
        scaled: whether the loss is scaled, for float16.
    """
    stream = ImageStream(
        images=data.images,
        pixels=start.pixels,
        batch_size=config.batch_size,
        augmentation=config.augmentation,
        seed=config.seed,
    )
    check_graft(start, stream, data.split)
    rows: Rows = []
    kept: list[int] = []
    between: list[dict[str, float]] = []
    first = 0
    for number, phase in enumerate(config.phases, start=1):
        if number > 1:
            between.append(_scores_now(start, stream, data.split))
        free(phase, start)
        cut = place_to_store(config, start, data, phase.epochs)
        plan = Plan(
            optimizer=_optimizer(phase),
            epochs=phase.epochs,
            keep=phase.keep,
            seed=config.seed,
            cut=cut,
            scaled=scaled,
            first=first,
        )
        examples = _examples(config, start, data, stream, cut)
        found = Phase(start.model, start.base, examples, plan).run(
            Checkpoints(directory / f"phase-{number}")
        )
        kept.append(first + kept_epoch(found, phase.keep))
        rows += [
            {**row, "phase": number, "epoch": first + row["epoch"]}
            for row in (found if number == 1 else found[1:])
        ]
        first += phase.epochs
    if logs:
        log_for_tensorboard(rows, logs)
    return Told(rows=rows, kept=tuple(kept), between=tuple(between))


def place_to_store(config: "FinetuneRun", start: Start, data: Data, epochs: int) -> str | None:
    """The layer whose outputs are stored; None where the images go through the whole base.

    Raises:
        ConfigError: the layer asked for is no place to cut.
    """
    if config.trunk == "none":
        return None
    found = places_now(config, start, data.images, data.split)
    if config.trunk != "auto":
        return trunkplan.named(found, config.trunk).layer
    return trunkplan.choose(found, epochs=epochs, budget=config.trunk_gigabytes * 1e9)


def places_now(
    config: "FinetuneRun", start: Start, images: RawImages, split: Splits
) -> list[trunkplan.Place]:
    """Every place to cut below the layers that learn now."""
    whole = logits_model(start.model)
    return trunkplan.places(
        whole,
        learning_layers(whole, start.base),
        images=int((~images.examples.quarantined).sum()),
        train=len(split.ids("train")),
        views=config.views,
        dtype=config.trunk_dtype,
    )


def free(phase: "PhaseConfig", start: Start) -> None:
    """Let the layers learn that a phase names."""
    learns = phase.batch_normalization == "trainable"
    unfreeze(start.base, phase.unfreeze, batch_normalization=learns)


def _examples(
    config: "FinetuneRun", start: Start, data: Data, stream: ImageStream, cut: str | None
) -> Examples:
    train_ids, validation_ids = data.split.ids("train"), data.split.ids("validation")
    if cut is None or start.config is None:
        return Images(
            stream=stream, train_ids=train_ids, validation_ids=validation_ids, seed=config.seed
        )
    chosen = dataclasses.replace(
        start.config,
        output=cut,
        dtype=config.trunk_dtype,
        views=config.views,
        augmentation=config.augmentation,
    )
    directory = data.rows / cut
    return StoredTrunk(
        rows=store_trunk(chosen, raw=data.raw, pool=data.pool, output=directory),
        train_ids=train_ids,
        validation_ids=validation_ids,
        batch_size=config.batch_size,
        seed=config.seed,
    )


def check_graft(start: Start, stream: ImageStream, split: Splits) -> None:
    """Refuse to train a model that does not say what base and head say apart."""
    images, _ = next(stream.plain.batches(split.ids("train")[:CHECKED]))
    start.check(images)


def _optimizer(phase: "PhaseConfig") -> OptimizerSettings:
    return OptimizerSettings(
        name=phase.optimizer,
        learning_rate=phase.learning_rate,
        momentum=phase.momentum,
        weight_decay=phase.weight_decay,
        layer_decay=phase.layer_decay,
        warmup=phase.warmup,
    )


def _scores_now(start: Start, stream: ImageStream, split: Splits) -> dict[str, float]:
    model = tuned.TunedModel(start.model, start.head.classes, start.pixels)
    found = tuned.answers({"now": model}, stream, split.ids("validation"))
    return tuned.scores_of(found)["now"]


@contextlib.contextmanager
def precision(policy: str) -> Iterator[bool]:
    """Build and train under a Keras dtype policy; tells whether the loss must be scaled."""
    from stages.backbones.frameworks import load_keras

    keras = load_keras()
    if policy == "auto":
        import tensorflow as tf

        policy = "mixed_float16" if tf.config.list_physical_devices("GPU") else "float32"
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield policy == "mixed_float16"
    finally:
        keras.config.set_dtype_policy(before)


def log_for_tensorboard(rows: Rows, directory: Path) -> None:
    """Event files `train` and `validation` with loss and accuracy by epoch.

    Written record by record, because `tf.summary` needs TensorBoard itself and puts time and host
    into the file; the time of an event is the number of its epoch.
    """
    import tensorflow as tf
    from tensorflow.core.framework.summary_pb2 import Summary
    from tensorflow.core.util.event_pb2 import Event

    for name, prefix in (("train", ""), ("validation", "val_")):
        (directory / name).mkdir(parents=True, exist_ok=True)
        path = directory / name / "events.out.tfevents.0.cryobase"
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(Event(file_version="brain.Event:2").SerializeToString())
            for row in rows:
                values = [
                    Summary.Value(tag=curve, simple_value=row[prefix + curve])
                    for curve in ("loss", "accuracy")
                    if math.isfinite(row[prefix + curve])
                ]
                epoch = int(row["epoch"])
                event = Event(wall_time=epoch, step=epoch, summary=Summary(value=values))
                writer.write(event.SerializeToString())

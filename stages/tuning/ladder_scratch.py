"""Training a small network from nothing against the clock."""

import math
import time
from pathlib import Path

from cryobase.stages.data.augment import Augmentation
from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import Splits
from cryobase.stages.data.stream import ImageStream
from cryobase.stages.tuning import starts
from cryobase.stages.tuning.optimization import OptimizerSettings
from cryobase.stages.tuning.phase import Images, Phase, Plan
from cryobase.stages.tuning.starts import Network, NewHead
from cryobase.stages.tuning.unfreezing import unfreeze

BATCH = 32
RATE = 1e-3  # Keras' default of Adam


def train(
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
    """Train for some epochs and at least some seconds.

    Returns:
        Seconds since the beginning and validation accuracy, after every epoch from 0, building the
        network and compiling it included.
    """
    begin = time.perf_counter()
    images, split = RawImages.open(raw), Splits.open(splits)
    start = starts.scratch(network, new, images.examples.classes, seed)
    unfreeze(start.base, "all")
    stream = ImageStream(
        images=images, pixels=start.pixels, batch_size=BATCH, augmentation=augmentation, seed=seed
    )
    examples = Images(
        stream=stream,
        train_ids=split.ids("train"),
        validation_ids=split.ids("validation"),
        seed=seed,
    )
    plan = Plan(
        optimizer=OptimizerSettings(name="adam", learning_rate=RATE),
        epochs=epochs,
        keep="last",
        seed=seed,
    )
    phase = Phase(start.model, start.base, examples, plan)
    row = phase.judged(0, math.nan, math.nan)
    found = [(time.perf_counter() - begin, row["val_accuracy"])]
    while len(found) <= epochs or found[-1][0] < seconds:
        row = phase.epoch(len(found))
        found.append((time.perf_counter() - begin, row["val_accuracy"]))
    return found

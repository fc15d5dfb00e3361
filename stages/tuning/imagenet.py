"""What a base sees in the images before it learns their classes."""

import logging
from pathlib import Path

import numpy as np

from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import Splits
from cryobase.stages.outputs import write_table
from cryobase.stages.tuning.config import FinetuneRun

TOP = 3
COLUMNS = ("id", "rank", "label", "probability")

logger = logging.getLogger(__name__)


def write(config: FinetuneRun, images: RawImages, split: Splits, output: Path) -> None:
    """Write `imagenet.csv` where a run asks for it, see `FinetuneRun.imagenet_labels`.

    Raises:
        MissingWeightsError: the base's own classifier cannot be had.
    """
    if not config.imagenet_labels or config.base is None:
        return
    from cryobase.stages.backbones.labels import top_labels

    examples = images.examples
    positions = np.asarray(examples.positions(split.ids("train")))
    firsts = np.unique(examples.labels[positions], return_index=True)[1]  # one of each class
    shown = positions[firsts[: config.imagenet_labels]]
    found = top_labels(
        config.base.backbone,
        [images.read(int(position)) for position in shown],
        top=TOP,
        weights="none" if config.base.weights == "none" else "imagenet",
    )
    rows = []
    for position, labels in zip(shown, found, strict=True):
        name = examples.ids[position].decode()
        told = ", ".join(f"{label.name} {label.probability:.3f}" for label in labels)
        logger.info("%s is, of ImageNet's classes: %s", name, told)
        for rank, label in enumerate(labels, start=1):
            rows.append((name, rank, label.name, f"{label.probability:.6f}"))
    write_table(output / "imagenet.csv", COLUMNS, rows)

"""The optional last stage: graft a head onto its backbone, unfreeze, train end to end."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from stages.data.pixels import PixelSpec
from stages.data.raw import RawImages
from stages.data.splits import Splits
from stages.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

Unfreeze = Literal["none", "all"] | Mapping[Literal["from", "last"], str | int]


@dataclass(frozen=True, kw_only=True)
class FinetuneRun:
    """One fine-tuning.

    Attributes:
        set: feature set whose backbone is tuned.
        head: the trained head of that set to start from.
        unfreeze: which layers of the backbone learn: `none`, `all`, `{from: LAYER}` (that one and
            what comes after) or `{last: n}`. BatchNormalization stays frozen.
        final: whether the test split is scored too, once all choices are made.
    """

    set: str
    head: str
    unfreeze: Unfreeze = "all"
    optimizer: Literal["adam", "sgd", "rmsprop"] = "adam"
    learning_rate: float = 1e-5
    epochs: int = 5
    batch_size: int = 32
    seed: int = 0
    final: bool = False

    def __post_init__(self) -> None:
        for key in ("learning_rate", "epochs", "batch_size"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key} must be positive")
        if isinstance(self.unfreeze, Mapping) and len(self.unfreeze) != 1:
            raise ValueError("unfreeze takes one rule: none, all, {from: LAYER} or {last: n}")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """The runs by name; none by default, and then the stage is absent from the pipeline."""

    runs: Mapping[str, FinetuneRun] = field(default_factory=dict)


def run(
    config: FinetuneRun,
    *,
    weights: str,
    raw: Path,
    splits: Path,
    head: Path,
    output: Path,
    results: Path,
) -> None:
    """Tune one model and score it beside the head it started from.

    Args:
        config: what to tune, and how.
        weights: the backbone's weights as in the feature set's params.
        raw: the images.
        splits: which image learns, which one judges.
        head: directory of the trained head.
        output: gets `start.keras` (the grafted model before tuning), `model.keras` and their card.
        results: gets `metrics.json`, `comparison.csv`, `history.csv` and `curves.svg`.

    Raises:
        DataError: images and head do not have the same classes.
        ConfigError: the unfreeze rule names no layer.
    """
    from stages.heads import tuning
    from stages.heads.head import Head

    start = Head.load(head)
    images = RawImages.open(raw)
    if images.examples.classes != start.classes:
        raise DataError(
            f"{raw} has the classes {list(images.examples.classes)}, the head {head}"
            f" {list(start.classes)}; run: cryobase train {config.set}"
        )
    stream = tuning.ImageStream(
        images, Splits.open(splits), PixelSpec.of(start.spec), batch_size=config.batch_size
    )
    model = start.graft(weights)

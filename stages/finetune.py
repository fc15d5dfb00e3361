"""The optional last stage: a grafted model, or a new network, trained end to end."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stages.data.augment import Augmentation
from stages.data.raw import RawImages
from stages.data.splits import Splits
from stages.errors import ConfigError, DataError
from stages.extract import SetConfig
from stages.tuning.starts import Network, NewHead

if TYPE_CHECKING:
    from stages.tuning.starts import Start

FINETUNE_VERSION = 1  # raise by hand when an unchanged run gives other weights
NONE = "none"  # `set` and `head` of a run that starts from no trained head

Unfreeze = Literal["none", "all"] | Mapping[Literal["from", "last"], str | int]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What stays the same from one epoch to the next.

    Attributes:
        unfreeze: which layers of the base learn: `none`, `all`, `{from: LAYER}` (a name or number;
            that one and what comes after) or `{last: n}`. The head always learns.
        batch_normalization: `frozen`, in inference mode, or `trainable` where `unfreeze` says so.
        optimizer: with Keras' defaults but for `momentum` (of `sgd`) and `weight_decay`.
        learning_rate: of the head, and with `layer_decay: 1` of all layers.
        layer_decay: from the head down, each layer learns at this multiple of the rate above it.
        warmup: epochs in which the rate rises linearly from 0.
        epochs: passes over the training images.
        keep: `best` by validation loss, the start counting as epoch 0; `smoothed`, the lowest
            exponentially smoothed validation loss; or `last`.
    """

    unfreeze: Unfreeze = "all"
    batch_normalization: Literal["frozen", "trainable"] = "frozen"
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    learning_rate: float = 1e-5
    momentum: float = 0.0
    weight_decay: float | None = None
    layer_decay: float = 1.0
    warmup: float = 0.0
    epochs: int = 5
    keep: Literal["best", "smoothed", "last"] = "best"

    def __post_init__(self) -> None:
        for key in ("learning_rate", "epochs", "layer_decay"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ValueError(f"{key}: must be positive")
        if not 0 <= self.warmup <= self.epochs:
            raise ValueError("warmup: from 0 to epochs")
        if not 0 <= self.momentum < 1:
            raise ValueError("momentum: at least 0 and below 1")
        if self.weight_decay is not None and not 0 <= self.weight_decay < float("inf"):
            raise ValueError("weight_decay: must not be negative")
        if isinstance(self.unfreeze, Mapping):
            if len(self.unfreeze) != 1:
                raise ValueError("unfreeze: one rule: none, all, {from: LAYER} or {last: n}")
            if not str(self.unfreeze.get("last", 1)).isdigit():
                raise ValueError("unfreeze: last takes a number of layers")


@dataclass(frozen=True, kw_only=True)
class FinetuneRun(Phase):
    """One run: where it starts, and its phases. Its own keys are the first phase.

    Attributes:
        start: `head`, a trained head of a feature set; `fresh`, a new head on a base; `scratch`, a
            network of its own.
        set, head: with `start: head`, which one; else both are `none`.
        base: with `fresh`, the base, described as in `extract.sets`.
        network: with `scratch`, the network.
        new_head: with `fresh` and `scratch`, the head that is put on top.
        then: further phases, each going on with the weights that the one before has kept.
        augmentation: how training images are changed, anew each epoch; never those that judge.
        views: with a trunk, how many augmented views of each image are stored, to draw from.
        trunk: where the base is cut so that the frozen part runs once per image: `none`, `auto`
            (the fastest place within `trunk_gigabytes` that pays, or none), or a layer.
        trunk_dtype: what the store keeps of it.
        trunk_gigabytes: what `auto` may store, in 10^9 bytes.
        precision: `auto` is `mixed_float16` where a GPU is, else `float32`.
        final: whether the test split is scored too, once all choices are made.
        tensorboard: whether logs for TensorBoard are written.
        smoothing: of the curves in the picture, 0 for none.
    """

    start: Literal["head", "fresh", "scratch"] = "head"
    set: str = NONE
    head: str = NONE
    base: SetConfig | None = None
    network: Network | None = None
    new_head: NewHead = field(default_factory=NewHead)
    then: tuple[Phase, ...] = ()
    augmentation: Augmentation | None = None
    views: int = 0
    trunk: str = NONE
    trunk_dtype: Literal["float16", "float32"] = "float16"
    trunk_gigabytes: float = 20.0
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    batch_size: int = 32
    seed: int = 0
    final: bool = False
    tensorboard: bool = False
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.batch_size <= 4096:
            raise ValueError("batch_size: must be positive, at most 4096")
        if not 0 <= self.seed < 1 << 31:
            raise ValueError("seed: must not be negative and below 2**31")
        if not 0 <= self.smoothing < 1:
            raise ValueError("smoothing: at least 0 and below 1")
        needed = {"head": ("set", "head"), "fresh": ("base",), "scratch": ("network",)}
        for start, keys in needed.items():
            for key in keys:
                given = getattr(self, key) not in (NONE, None)
                if given != (start == self.start):
                    raise ValueError(f"{key}: {'only' if given else 'needed'} with start: {start}")
        if self.trunk != NONE and self.start == "scratch":
            raise ValueError("trunk: needs a base that is not trained from scratch")
        if not 0 <= self.views <= 1000 or (self.views and self.trunk == NONE):
            raise ValueError("views: 0 to 1000, and only with a trunk")
        if self.trunk != NONE and (self.augmentation is None) != (self.views == 0):
            raise ValueError("trunk: augmentation goes with stored views alone; set views")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """All phases in order."""
        names = [each.name for each in dataclasses.fields(Phase)]
        return (Phase(**{name: getattr(self, name) for name in names}), *self.then)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """The runs by name; none by default, and then the stage is absent from the pipeline."""

    runs: Mapping[str, FinetuneRun] = field(default_factory=dict)


def run(
    config: FinetuneRun,
    *,
    raw: Path,
    splits: Path,
    output: Path,
    results: Path,
    weights: str | None = None,
    head: Path | None = None,
    cache: Path | None = None,
    pool: Path | None = None,
) -> dict[str, Any]:
    """Tune one model and score it beside what it started from.

    A run that was killed goes on after its last epoch.

    Args:
        config: what to tune, and how.
        raw: the images.
        splits: which image learns, which one judges.
        output: gets `start.keras` (the model before tuning), `model.keras` and `model.json`.
        results: gets `metrics.json`, `comparison.csv`, `history.csv` and pictures.
        weights: with `start: head`, the backbone's weights as in the feature set's params.
        head: with `start: head`, the directory of the trained head.
        cache: where epochs are kept while a run is under way; beside the output by default.
        pool: where stored outputs of a trunk lie; in the cache by default.

    Returns:
        What `metrics.json` says.

    Raises:
        DataError: images and head do not have the same classes, or there is nothing to judge by.
        ConfigError: the unfreeze rule or the trunk names no layer.
        MissingWeightsError: the base's weights cannot be found.
    """
    from stages.tuning import course, outcome, tuned

    images, split = RawImages.open(raw), Splits.open(splits)
    for part in ("train", "validation"):
        if not len(split.ids(part)):
            raise DataError(f"{splits}: no {part} images; raise split.{part} and split again")
    cache = cache or output.parent / ".epochs"
    with course.precision(config.precision) as scaled:
        start = _start(config, images.examples.classes, weights, head)
        directory = cache / _fingerprint(config, start, images, split)
        tuned.save(start.model, output / tuned.START)
        told = course.train(
            config,
            start,
            course.Data(images, split, raw, pool or cache / "pool", directory / "rows"),
            directory=directory,
            logs=output / "tensorboard" if config.tensorboard else None,
            scaled=scaled,
        )
        tuned.save(start.model, output / tuned.TUNED)
    tuned.save_card(output, images.examples.classes, start.pixels)
    document = outcome.write(config, told, images, split, models=output, output=results)
    shutil.rmtree(directory, ignore_errors=True)
    return document


def plan(
    config: FinetuneRun,
    *,
    raw: Path,
    splits: Path,
    weights: str | None = None,
    head: Path | None = None,
) -> list[dict[str, Any]]:
    """Where the base of a run can be cut: a row per phase and place, see `trunkplan.Place`.

    Args:
        config: the run; its `views` and `trunk_dtype` count.
        raw: the images.
        splits: which of them learn.
        weights, head: as for `run`.
    """
    from stages.tuning import course

    images, split = RawImages.open(raw), Splits.open(splits)
    start = _start(config, images.examples.classes, weights, head)
    rows = []
    for number, phase in enumerate(config.phases, start=1):
        course.free(phase, start)
        found = course.places_now(config, start, images, split)
        rows += [{"phase": number, **dataclasses.asdict(place)} for place in found]
    return rows


def _start(
    config: FinetuneRun, classes: tuple[str, ...], weights: str | None, head: Path | None
) -> "Start":
    from stages.tuning import starts

    if config.start == "scratch" and config.network:
        return starts.scratch(config.network, config.new_head, classes, config.seed)
    if config.start == "fresh" and config.base:
        return starts.fresh(config.base, config.new_head, classes, config.seed)
    if weights is None or head is None:
        raise ConfigError("finetune: start: head needs the directory of a head and its weights")
    start = starts.from_head(head, weights)
    if start.head.classes != classes:
        raise DataError(
            f"the images have the classes {list(classes)}, the head {head}"
            f" {list(start.head.classes)}; run: cryobase train {config.set}"
        )
    return start


def _fingerprint(config: FinetuneRun, start: "Start", images: RawImages, split: Splits) -> str:
    """What the weights after each epoch depend on: epochs of another run are never taken up."""
    import keras
    import tensorflow as tf

    no_effect = ("final", "tensorboard", "smoothing", "trunk_gigabytes")
    asked = {k: v for k, v in dataclasses.asdict(config).items() if k not in no_effect}
    hashed = hashlib.sha256()
    for column in (images.examples.ids, images.examples.digests, images.examples.labels):
        hashed.update(column.tobytes())
    versions = [FINETUNE_VERSION, keras.__version__, tf.__version__]
    parts = [versions, asked, start.identity, images.examples.classes, hashed.hexdigest()]
    text = json.dumps([*parts, split.digest], sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()

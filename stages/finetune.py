"""Stage `finetune`, optional: a grafted model or a new network, trained end to end.

The parts are in `stages/tuning`; this module puts them in order.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryobase.stages.backbones.frameworks import load_keras, load_tensorflow
from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import Splits
from cryobase.stages.errors import ConfigError, DataError
from cryobase.stages.tuning import cached_trunk, course, outcome, saved, starts
from cryobase.stages.tuning.config import NONE, FinetuneRun, PhaseConfig
from cryobase.stages.tuning.starts import Start, precision

__all__ = ["FinetuneConfig", "FinetuneRun", "PhaseConfig", "plan", "run"]

FINETUNE_VERSION = 1  # raise by hand when an unchanged run gives different weights


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """The runs of fine-tuning. Without runs, the stage is absent from the pipeline.

    Attributes:
        runs: the runs by name.
    """

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
    features: Path | None = None,
    cache: Path | None = None,
    pool: Path | None = None,
) -> dict[str, Any]:
    """Tune one model, and score it and the model that it started from.

    A run that was killed continues after its last epoch.

    Args:
        config: the run.
        raw: directory of the images.
        splits: directory of the splits.
        output: directory that receives `start.keras` (the model before tuning), `model.keras`,
            `head` (the head of `start.keras`) and `model.json` (what both models are made of);
            also `imagenet.csv` and `tensorboard` if the run asks for them.
        results: directory that receives `metrics.json`, `comparison.csv`, `history.csv` and
            pictures.
        weights: with `start: head`, the backbone's weights as in the feature set's params.
        head: with `start: head`, the directory of the trained head.
        features: with `start: head`, the feature set that the head was trained on.
        cache: directory of the checkpoints while a run trains; beside the output by default.
        pool: directory of the stored outputs of a trunk; in the cache by default.

    Returns:
        The content of `metrics.json`.

    Raises:
        DataError: images and head do not have the same classes, or there are no training images.
        ConfigError: the unfreeze rule or the trunk names a layer that does not exist.
        GraftError: the head does not fit its backbone; nothing was trained.
        MissingWeightsError: the base's weights cannot be found.
    """

    images, split = RawImages.open(raw), Splits.open(splits)
    if not len(split.ids("train")):
        raise DataError(f"{splits}: no train images; raise split.train, then run `cryobase split`")
    if config.start == "head":
        if weights is None or head is None or features is None:
            raise ConfigError("finetune: start: head needs a head, its weights and its feature set")
        starts.check_stored(head, weights, features, images, split.ids("train"))
    cache = cache or output.parent / ".epochs"
    outcome.write_imagenet(config, images, split, output)
    with precision(config.precision) as policy:
        start = _start(config, images.examples.classes, weights, head)
        directory = cache / _fingerprint(config, policy, start, images, split)
        saved.save(start.model, output / saved.START)
        told = course.train(
            config,
            start,
            course.Data(images, split, raw, pool or cache / "pool", directory / "rows"),
            directory=directory,
            scaled=policy == "mixed_float16",
        )
        saved.save(start.model, output / saved.TUNED)
        if config.tensorboard:
            outcome.write_curves(told.rows, output / "tensorboard")
    saved.save_card(output, start, policy)
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
    """The places where the base of a run can be cut, and the place that the run takes.

    Args:
        config: the run; `views` and `trunk_dtype` change the sizes.
        raw: directory of the images.
        splits: directory of the splits.
        weights, head: as for `run`.

    Returns:
        One row per phase and place, see `cached_trunk.Place`. `taken` marks the place that the
        run's `trunk` means; with `trunk: none`, the place that `auto` would take.
    """

    images, split = RawImages.open(raw), Splits.open(splits)
    start = _start(config, images.examples.classes, weights, head)
    trunk = "auto" if config.trunk == NONE else config.trunk
    rows = []
    for number, phase in enumerate(config.phases, start=1):
        course.free(phase, start)
        found = course.places_now(config, start, images, split)
        taken = cached_trunk.chosen(trunk, found, phase.epochs, config.trunk_gigabytes * 1e9)
        rows += [
            {"phase": number, **dataclasses.asdict(place), "taken": "yes" if place == taken else ""}
            for place in found
        ]
    return rows


def _start(
    config: FinetuneRun, classes: tuple[str, ...], weights: str | None, head: Path | None
) -> Start:

    if config.start == "scratch" and config.network:
        return starts.scratch(config.network, config.new_head, classes, config.seed)
    if config.start == "fresh" and config.base:
        return starts.fresh(config.base, config.new_head, classes, config.seed)
    if weights is None or head is None:
        raise ConfigError("finetune: start: head needs the directory of a head and its weights")
    return starts.from_head(head, weights)


def _fingerprint(
    config: FinetuneRun, policy: str, start: Start, images: RawImages, split: Splits
) -> str:
    """A digest of everything that the weights depend on, so checkpoints never mix two runs."""
    keras = load_keras()
    tf = load_tensorflow()

    no_effect = ("final", "imagenet_labels", "tensorboard", "smoothing")
    asked = {k: v for k, v in dataclasses.asdict(config).items() if k not in no_effect}
    asked["precision"] = policy
    hashed = hashlib.sha256()
    for column in (images.examples.ids, images.examples.digests, images.examples.labels):
        hashed.update(column.tobytes())
    versions = [FINETUNE_VERSION, keras.__version__, tf.__version__]
    parts = [versions, asked, start.identity, images.examples.classes, hashed.hexdigest()]
    text = json.dumps([*parts, split.digest], sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()

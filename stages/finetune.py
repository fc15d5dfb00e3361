"""The optional last stage: a grafted model, or a new network, trained end to end."""

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

FINETUNE_VERSION = 1  # raise by hand when an unchanged run gives other weights


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """The runs of fine-tuning; without one the stage is absent from the pipeline.

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
    """Tune one model and score it beside what it started from.

    A run that was killed goes on after its last epoch.

    Args:
        config: what to tune, and how.
        raw: the images.
        splits: which image learns, which one judges.
        output: gets `start.keras` (the model before tuning), `model.keras`, `head` (that of the
            former) and `model.json` (what both are made of), and where they are asked for
            `imagenet.csv` and `tensorboard`.
        results: gets `metrics.json`, `comparison.csv`, `history.csv` and pictures.
        weights: with `start: head`, the backbone's weights as in the feature set's params.
        head: with `start: head`, the directory of the trained head.
        features: with `start: head`, the feature set that it was trained on.
        cache: where epochs are kept while a run is under way; beside the output by default.
        pool: where stored outputs of a trunk lie; in the cache by default.

    Returns:
        What `metrics.json` says.

    Raises:
        DataError: images and head do not have the same classes, or there are no training images.
        ConfigError: the unfreeze rule or the trunk names no layer.
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
    """Where the base of a run can be cut, and which place the run takes.

    Returns:
        A row per phase and place, see `cached_trunk.Place`; `taken` says which one the run's
        `trunk` means, with `none` what `auto` would take.

    Args:
        config: the run; its `views` and `trunk_dtype` count.
        raw: the images.
        splits: which of them learn.
        weights, head: as for `run`.
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
    """What the weights after each epoch depend on: epochs of another run are never taken up."""
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

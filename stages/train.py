"""Stage `train`: train every head of a feature set, or of a pair of sets, in one scan of the rows.

Heads that were trained before are linked from the cache, see `stages/heads/finished.py`.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cryobase.stages.data.splits import Splits
from cryobase.stages.errors import ConfigError, DataError
from cryobase.stages.heads import finished
from cryobase.stages.heads.config import HeadConfig, HeadParams, expand
from cryobase.stages.heads.head import Head, Trained
from cryobase.stages.heads.kinds import train
from cryobase.stages.heads.rows import Task, open_rows
from cryobase.stages.heads.side_by_side import Paths, SideBySide
from cryobase.store.elsewhere import FOREIGN, ORIGIN, ORIGIN_IS
from cryobase.store.text import counted, visible

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The heads that are trained on every feature set.

    Attributes:
        heads: heads by name; a list as value of a key makes a grid, see `HeadConfig`.
        pairs: for each name of a pair, two feature sets whose features side by side are one input.
        foreign: for each imported feature set, the program that computed it, as named in
            `store import --foreign`.
    """

    heads: Mapping[str, HeadConfig] = field(default_factory=lambda: {"linear": HeadConfig()})
    pairs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    foreign: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expand(self.heads)
        for name, (first, second) in self.pairs.items():
            if first == second:
                raise ValueError(f"pairs.{name}: two different feature sets make a pair")
        for name, origin in self.foreign.items():
            if not ORIGIN.fullmatch(origin):
                raise ValueError(f"foreign.{name}: {ORIGIN_IS}")


@dataclass(frozen=True)
class TrainSummary:
    """Names of the heads of a set: trained now, or reused because nothing changed."""

    trained: tuple[str, ...]
    reused: tuple[str, ...]


def run(
    config: TrainConfig,
    name: str,
    *,
    features: Paths,
    splits: Path,
    cache: Path,
    output: Path,
    executor: Executor | None = None,
) -> TrainSummary:
    """Train the heads that the cache does not have, and link all of them into the output.

    Args:
        config: the heads.
        name: name of the feature set or pair.
        features: directory of the published set, or of several sets side by side.
        splits: directory of the splits.
        cache: directory of finished heads by fingerprint.
        output: directory that receives, for each head, `<head>/weights.npz`, `head.json` and
            `history.csv`; and `training.json`, which lists the heads that were trained now and
            those that were reused.
        executor: sums up partitions of the rows for `ridge` heads, on a Dask cluster for example.

    Raises:
        DataError: there are too few rows or classes, or the weights of a head are not finite.
        ConfigError: the params of a head do not fit the classes or views of the set.
    """
    rows, split = SideBySide.open(features), Splits.open(splits)
    _check_origin(config, name, rows)
    heads = expand(config.heads)
    for head, params in heads.items():
        _check(f"train.heads: {head}", params, rows)
    data = rows.digest, split.digest
    fingerprints = {head: params.fingerprint(*data) for head, params in heads.items()}
    missing = [head for head in heads if not finished.find(cache, fingerprints[head], rows)]
    if missing:
        views = max(heads[head].views for head in missing)
        task = task_of(rows, split, views, executor)
        if not len(task.validation):
            logger.warning(
                "%s: no validation images, so no head stops early, and each keeps its last epoch's"
                " weights; raise split.validation",
                name,
            )
        for head, trained in train(task, {head: heads[head] for head in missing}).items():
            saved = _head(heads[head], trained, rows, data, f"{name}: {head}")
            finished.keep(cache, fingerprints[head], saved)
    finished.clear(output)
    for head, fingerprint in fingerprints.items():
        finished.link(cache, fingerprint, output / head)
    told = {"trained": missing, "reused": [head for head in heads if head not in missing]}
    finished.tell(output, told)
    for verb, names in told.items():
        if names:
            logger.info("%s: %s %s: %s", name, counted(len(names), "head"), verb, ", ".join(names))
    return TrainSummary(*map(tuple, told.values()))


def task_of(
    rows: SideBySide, split: Splits, views: int = 0, executor: Executor | None = None
) -> Task:
    """The training and validation rows of a set under a split.

    Raises:
        DataError: there are no training rows, or a class has no training row.
    """
    train_rows, validation = (
        np.asarray(rows.examples.positions(rows.having(split.ids(part))), np.int64)
        for part in ("train", "validation")
    )
    counts = np.bincount(rows.examples.labels[train_rows], minlength=len(rows.classes))
    empty = [name for name, count in zip(rows.classes, counts, strict=True) if not count]
    if empty:
        raise DataError(f"train: no training image of {empty[0]!r}; run `cryobase split`")
    if len(rows.classes) < 2:
        raise DataError(
            "train: fewer than two classes; add images of another, then run `cryobase download &&"
            " cryobase split && cryobase extract`"
        )
    stored = open_rows(rows, views, stored=executor is not None)
    return Task(stored, train_rows, validation, executor)


def _check_origin(config: TrainConfig, name: str, rows: SideBySide) -> None:
    """Refuse features from a different program than params name: they may be an older import."""
    parts = config.pairs.get(name, (name,))  # sets side by side need not be a pair in params
    for part, spec in zip(parts, rows.specs, strict=False):
        if part in config.foreign and spec.backbone != f"{FOREIGN}: {config.foreign[part]}":
            raise ConfigError(
                f"train.foreign.{part}: {config.foreign[part]}, but the set is of"
                f" {visible(spec.backbone)[:200]}; import the features anew, or name that"
            )


def _check(where: str, params: HeadParams, rows: SideBySide) -> None:
    if params.output == "sigmoid" and len(rows.classes) != 2:
        raise ConfigError(f"{where}: output: sigmoid is for 2 classes, found {len(rows.classes)}")
    if isinstance(params.class_weights, Mapping):
        for name in params.class_weights:
            if name not in rows.classes:
                known = ", ".join(rows.classes)
                raise ConfigError(f"{where}: class_weights: no class {name!r}; known: {known}")
    if params.views > rows.views:
        raise ConfigError(
            f"{where}: views: {params.views}, but the set stores {rows.views};"
            " raise extract.sets.NAME.views"
        )


def _head(
    params: HeadParams, trained: Trained, rows: SideBySide, data: tuple[str, ...], where: str
) -> Head:
    if len(trained.history) and trained.history.best_epoch is None:
        logger.warning("%s: diverged, its weights are the initial ones; lower learning_rate", where)
    try:
        return Head(
            params=params,
            classes=rows.classes,
            specs=rows.specs,
            shapes=rows.shapes,
            layers=trained.layers,
            mean=trained.mean,
            scale=trained.scale,
            data=data,
            history=trained.history,
        )
    except DataError as error:
        raise DataError(f"{where}: {error}") from error

"""How many parameters a model has, and how many of them learn, without loading any weights."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryobase.stages.backbones.build import build
from cryobase.stages.backbones.frameworks import load_keras
from cryobase.stages.extract import SetConfig
from cryobase.stages.heads.config import HeadConfig, expand
from cryobase.stages.heads.graft import graft
from cryobase.stages.tuning import convnets
from cryobase.stages.tuning.config import FinetuneRun, NewHead
from cryobase.stages.tuning.freezing import unfreeze
from cryobase.stages.tuning.starts import preprocessing_of, untrained


@dataclass(frozen=True, kw_only=True)
class Count:
    """One phase of training one model.

    Attributes:
        what: `SET` (extraction), `SET/HEAD` (a head on stored features) or `RUN` (end to end).
        phase: from 1; 0 for extraction.
        total: number of parameters.
        trainable: number of parameters that learn.
        frozen: number of all others, including moving statistics of BatchNormalization.
        tensors: number of weight tensors that learn.
    """

    what: str
    phase: int
    total: int
    trainable: int
    frozen: int
    tensors: int


def counts(
    sets: Mapping[str, SetConfig],
    heads: Mapping[str, HeadConfig],
    runs: Mapping[str, FinetuneRun],
    classes: Sequence[str],
) -> Iterator[Count]:
    """One row for each base, each head on a base, and each phase of each run.

    Args:
        sets: `extract.sets`.
        heads: `train.heads`.
        runs: `finetune.runs`; a run that starts from a trained head is counted with that head.
        classes: names of the classes.
    """
    for name, config in sets.items():
        base = _base(config)
        yield _count(name, 0, base)
        shape = tuple(base.outputs[0].shape[1:])
        for head, params in expand(heads).items():
            new = NewHead(units=params.units, dropout=0, output=params.output)
            yield _count(f"{name}/{head}", 1, _alone(new, shape, classes))
    for name, run in runs.items():
        base = _base_of_run(run, sets)
        model = graft(base, _head(_new_head(run, heads), base, classes))
        for number, phase in enumerate(run.phases, start=1):
            learns = phase.batch_normalization == "trainable"
            unfreeze(base, phase.unfreeze, batch_normalization=learns)
            yield _count(name, number, model)


def _count(what: str, phase: int, model: Any) -> Count:
    total, trainable = (
        sum(math.prod(variable.shape) for variable in variables)
        for variables in (model.weights, model.trainable_variables)
    )
    return Count(
        what=what,
        phase=phase,
        total=total,
        trainable=trainable,
        frozen=total - trainable,
        tensors=len(model.trainable_variables),
    )


def _base(config: SetConfig) -> Any:
    return build(
        config.backbone,
        None,
        image_size=config.size,
        preprocessing=preprocessing_of(config),
        outputs=[config.output],
    )


def _base_of_run(run: FinetuneRun, sets: Mapping[str, SetConfig]) -> Any:
    if run.network:
        return convnets.build(run.network.kind, image_size=run.network.image_size)
    return _base(run.base or sets[run.set])


def _new_head(run: FinetuneRun, heads: Mapping[str, HeadConfig]) -> NewHead:
    if run.start != "head":
        return run.new_head
    params = expand(heads)[run.head]
    return NewHead(units=params.units, output=params.output)


def _head(new: NewHead, base: Any, classes: Sequence[str]) -> Any:
    return untrained(new, tuple(base.outputs[0].shape[1:]), classes, seed=0)


def _alone(new: NewHead, shape: tuple[int, ...], classes: Sequence[str]) -> Any:
    """The head as a separate model that takes features."""
    keras = load_keras()

    features = keras.Input(shape, name="features")
    return graft(keras.Model(features, [features]), untrained(new, shape, classes, seed=0))

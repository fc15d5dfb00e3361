"""The kinds of head. A new kind is one row here; every test over `HEADS` then covers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryobase.stages.heads.config import HeadParams
    from cryobase.stages.heads.rows import Task
    from cryobase.stages.heads.trained import Trained

    Trainer = Callable[[Task, Mapping[str, HeadParams]], dict[str, Trained]]

FITTED = frozenset({"class_weights", "standardize"})
ITERATED = FITTED | {
    "batch_size",
    "dropout",
    "epochs",
    "learning_rate",
    "momentum",
    "optimizer",
    "output",
    "patience",
    "seed",
    "views",
    "weight_decay",
}


@dataclass(frozen=True)
class HeadKind:
    """One kind of head.

    Attributes:
        keys: the keys of `HeadConfig` that it reads; any other given key is an error.
        train: trains all heads of this kind on one task and gives them by name.
        hidden: whether it has hidden layers, of `units` units.
    """

    keys: frozenset[str]
    train: Trainer
    hidden: bool = False


def _scan(task: Task, heads: Mapping[str, HeadParams]) -> dict[str, Trained]:
    from cryobase.stages.backbones.frameworks import load_keras

    load_keras()  # seconds, so only when something must be trained
    from cryobase.stages.heads.scan import train

    return train(task, heads)


def _solve(task: Task, heads: Mapping[str, HeadParams]) -> dict[str, Trained]:
    from cryobase.stages.heads.ridge import train

    return train(task, heads)


HEADS: dict[str, HeadKind] = {
    "linear": HeadKind(ITERATED, _scan),
    "mlp": HeadKind(ITERATED | {"activation", "units"}, _scan, hidden=True),
    "ridge": HeadKind(FITTED | {"penalty"}, _solve),
}


def train(task: Task, heads: Mapping[str, HeadParams]) -> dict[str, Trained]:
    """Train heads of any kind on one task; each comes out as if it had been trained alone."""
    trained: dict[str, Trained] = {}
    for kind in dict.fromkeys(params.kind for params in heads.values()):
        those = {name: params for name, params in heads.items() if params.kind == kind}
        trained |= HEADS[kind].train(task, those)
    return {name: trained[name] for name in heads}

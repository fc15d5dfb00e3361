"""The kinds of head, and the function that trains each. Tests run over every row of `HEADS`.

The keys that a kind reads are in the table of keys, `HeadKeys` in `config.py`.
"""

from collections.abc import Callable, Mapping

from cryobase.stages.backbones.frameworks import load_keras
from cryobase.stages.heads import ridge
from cryobase.stages.heads.config import HeadParams, Kind
from cryobase.stages.heads.head import Trained
from cryobase.stages.heads.rows import Task

Trainer = Callable[[Task, Mapping[str, HeadParams]], dict[str, Trained]]


def _sweep(task: Task, heads: Mapping[str, HeadParams]) -> dict[str, Trained]:
    load_keras()  # takes seconds, so only when something must be trained
    from cryobase.stages.heads.sweep import train

    return train(task, heads)


HEADS: dict[Kind, Trainer] = {"linear": _sweep, "mlp": _sweep, "ridge": ridge.train}


def train(task: Task, heads: Mapping[str, HeadParams]) -> dict[str, Trained]:
    """Train heads of any kind on one task. Each head's result is as if it were trained alone.

    Args:
        task: the rows.
        heads: params of the heads to train, by name.

    Raises:
        ConfigError: a head cannot be trained on features this wide.
    """
    trained: dict[str, Trained] = {}
    for kind in dict.fromkeys(params.kind for params in heads.values()):
        those = {name: params for name, params in heads.items() if params.kind == kind}
        trained |= HEADS[kind](task, those)
    return {name: trained[name] for name in heads}

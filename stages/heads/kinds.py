"""The kinds of head, and who trains each. Every test over `HEADS` covers a new one.

Which keys a kind reads stands in the table of keys, `HeadKeys` in `config.py`.
"""

from collections.abc import Callable, Mapping

from cryobase.stages.backbones.frameworks import load_keras
from cryobase.stages.heads import ridge
from cryobase.stages.heads.config import HeadParams, Kind
from cryobase.stages.heads.head import Trained
from cryobase.stages.heads.rows import Task

Trainer = Callable[[Task, Mapping[str, HeadParams]], dict[str, Trained]]


def _sweep(task: Task, heads: Mapping[str, HeadParams]) -> dict[str, Trained]:
    load_keras()  # seconds, so only when something must be trained
    from cryobase.stages.heads.sweep import train

    return train(task, heads)


HEADS: dict[Kind, Trainer] = {"linear": _sweep, "mlp": _sweep, "ridge": ridge.train}


def train(task: Task, heads: Mapping[str, HeadParams]) -> dict[str, Trained]:
    """Train heads of any kind on one task; each comes out as if it had been trained alone.

    Args:
        task: the rows.
        heads: what to train, by name.

    Raises:
        ConfigError: a head cannot be trained on features this wide.
    """
    trained: dict[str, Trained] = {}
    for kind in dict.fromkeys(params.kind for params in heads.values()):
        those = {name: params for name, params in heads.items() if params.kind == kind}
        trained |= HEADS[kind](task, those)
    return {name: trained[name] for name in heads}

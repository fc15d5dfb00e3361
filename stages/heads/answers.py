"""What many heads say of many rows, in one scan of them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.heads.head import Head
from cryobase.stages.heads.metrics import Predictions
from cryobase.stages.heads.rows import READ
from cryobase.stages.heads.side_by_side import SideBySide


def answer(
    heads: Mapping[str, Head], rows: SideBySide, ids: NDArray[np.bytes_]
) -> dict[str, Predictions]:
    """Predictions of every head for the named examples, plain view, in one reading."""
    logits: dict[str, list[NDArray[np.float32]]] = {name: [] for name in heads}
    for start in range(0, len(ids), READ):
        features, _ = rows.arrays(ids[start : start + READ])
        for name, head in heads.items():
            logits[name].append(head.logits(features))
    labels = rows.examples.labels[rows.examples.positions(ids)] if len(ids) else np.empty(0, "i4")
    return {
        name: Predictions.of(
            ids,
            labels,
            np.concatenate(parts or [np.empty((0, heads[name].outputs), np.float32)]),
            rows.classes,
        )
        for name, parts in logits.items()
    }

"""Rows whose label is contradicted by heads that never saw it."""

from dataclasses import dataclass

import numpy as np

from cryobase.stages.heads.resample import OutOfFold


@dataclass(frozen=True)
class Suspect:
    """A row whose label may be wrong.

    Attributes:
        position: of the row.
        label: index of its class.
        predicted: index of the class that it looks like.
        doubt: probability of that class less that of the label; from -1 to 1.
    """

    position: int
    label: int
    predicted: int
    doubt: float


def label_suspects(found: OutOfFold, head: str) -> list[Suspect]:
    """All rows, the most doubtful label first.

    The doubt is the negated margin of out-of-fold probabilities, the "normalized margin" of
    confident learning (Northcutt, Jiang and Chuang, 2021).
    """
    rows = np.arange(len(found.labels))
    probabilities = found.probabilities[head]
    others = probabilities.copy()
    others[rows, found.labels] = -1
    rivals = others.argmax(1)
    doubts = probabilities[rows, rivals] - probabilities[rows, found.labels]
    order = np.lexsort((found.positions, -doubts))
    columns = (found.positions, found.labels, rivals, doubts.round(6))
    ordered = (column[order].tolist() for column in columns)
    return [Suspect(*row) for row in zip(*ordered, strict=True)]

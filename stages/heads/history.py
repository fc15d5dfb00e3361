"""The record of a head's epochs, its CSV file, and the epoch where overfitting begins."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

COLUMNS = ("loss", "accuracy", "val_loss", "val_accuracy")
HEADER = ",".join(("epoch", *COLUMNS))
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", re.ASCII)
MAX_LINE = 100  # characters
LARGEST = float(np.finfo(np.float32).max)
WINDOW = 3  # epochs of the centred moving average, fewer at both ends
TOLERANCE = 0.01  # share of the smoothed minimum; a loss above it by more than this is worse


@dataclass
class History:
    """One list per curve, one value per epoch. Training values are running means, with dropout."""

    curves: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in COLUMNS})

    def __len__(self) -> int:
        return len(self.curves["loss"])

    def append(self, row: Mapping[str, float]) -> None:
        """Add one epoch. Values become float32, which nine digits in the CSV keep exactly."""
        for name in COLUMNS:
            self.curves[name].append(float(np.float32(row[name])))

    @property
    def best_epoch(self) -> int | None:
        """The epoch, from 1, whose weights are kept: that of the lowest validation loss.

        Without validation it is the last epoch. None if there were no epochs, or if no loss was
        ever finite.
        """
        losses = np.array(self.curves["val_loss"])
        if np.isfinite(losses).any():
            return int(np.nanargmin(losses)) + 1
        return len(losses) if np.isfinite(self.curves["loss"]).any() else None

    @property
    def overfitting_from(self) -> int | None:
        """The epoch, from 1, where overfitting begins, see `overfitting_onset`."""
        return overfitting_onset(self.curves["loss"], self.curves["val_loss"])

    def to_csv(self) -> str:
        """`epoch,loss,accuracy,val_loss,val_accuracy`, one line per epoch.

        A cell is empty if there is no number: without validation images, or after divergence.
        """
        lines = [HEADER]
        for epoch, row in enumerate(zip(*(self.curves[name] for name in COLUMNS), strict=True)):
            cells = (f"{value:.9g}" if math.isfinite(value) else "" for value in row)
            lines.append(",".join((str(epoch + 1), *cells)))
        return "\n".join(lines) + "\n"

    @classmethod
    def from_csv(cls, text: str) -> "History":
        """Read what `to_csv` writes; the text may come from somebody else.

        Raises:
            ValueError: a line is not in the form that `to_csv` writes; the message names it.
        """
        header, *lines = text.removesuffix("\n").split("\n")
        if header != HEADER:
            raise ValueError(f"the columns of the history are not {HEADER}")
        history = cls()
        for number, line in enumerate(lines, start=1):
            epoch, *cells = line[:MAX_LINE].split(",")
            if epoch != str(number) or len(cells) != len(COLUMNS) or len(line) > MAX_LINE:
                raise ValueError(f"line {number + 1} of the history is {line[:40]!r}")
            for name, cell in zip(COLUMNS, cells, strict=True):
                history.curves[name].append(_number(cell, number + 1))
        return history


def _number(cell: str, line: int) -> float:
    """A value as float32; NaN for an empty cell. Earlier versions wrote `nan` and `inf`."""
    if cell in ("", "nan", "inf"):
        return math.nan
    if not NUMBER.fullmatch(cell) or abs(float(cell)) > LARGEST:
        raise ValueError(f"history: line {line} has {cell[:20]!r}, not a number")
    return float(np.float32(cell))


def smooth(values: Sequence[float], window: int = WINDOW) -> NDArray[np.float64]:
    """Centred moving average; at both ends, over the values that exist."""
    series = np.asarray(values, np.float64)
    half = window // 2
    return np.array(
        [series[max(0, k - half) : k + half + 1].mean() for k in range(len(series))], np.float64
    )


def overfitting_onset(loss: Sequence[float], val_loss: Sequence[float]) -> int | None:
    """The epoch, from 1, from which more training only fits the training rows better.

    Both curves are smoothed. Let m be the epoch of the lowest validation loss. Overfitting begins
    at the first epoch e after m for which: from e to the end, the validation loss stays more than
    1 % above its minimum; and the training loss at e is below the training loss at m. None if
    there is no such epoch.
    """
    if len(val_loss) < WINDOW or not np.isfinite(val_loss).all():
        return None
    train, validation = smooth(loss), smooth(val_loss)
    lowest = int(validation.argmin())
    worse = validation > validation[lowest] * (1 + TOLERANCE)
    onset = len(worse)
    while onset > lowest + 1 and worse[onset - 1]:
        onset -= 1
    return onset + 1 if onset < len(worse) and train[onset] < train[lowest] else None

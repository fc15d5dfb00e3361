"""The record of a head's epochs, and where in it overfitting sets in."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

COLUMNS = ("loss", "accuracy", "val_loss", "val_accuracy")
WINDOW = 3  # epochs of the centred moving average, less at both ends
TOLERANCE = 0.01  # of the smoothed minimum: what counts as worse


@dataclass
class History:
    """One list per curve, a value per epoch. Training values are running means, with dropout."""

    curves: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in COLUMNS})

    def __len__(self) -> int:
        return len(self.curves["loss"])

    def append(self, row: Mapping[str, float]) -> None:
        """Add one epoch, in float32, which the nine digits of the CSV keep exactly."""
        for name in COLUMNS:
            self.curves[name].append(float(np.float32(row[name])))

    @property
    def best_epoch(self) -> int | None:
        """The epoch, from 1, whose weights are kept: lowest validation loss, or the last.

        None where there were no epochs, or no loss was ever finite.
        """
        losses = np.array(self.curves["val_loss"])
        if np.isfinite(losses).any():
            return int(np.nanargmin(losses)) + 1
        return len(losses) if np.isfinite(self.curves["loss"]).any() else None

    @property
    def overfitting_from(self) -> int | None:
        """The epoch, from 1, where overfitting sets in, see `overfitting_onset`."""
        return overfitting_onset(self.curves["loss"], self.curves["val_loss"])

    def to_csv(self) -> str:
        """`epoch,loss,accuracy,val_loss,val_accuracy`, one line per epoch."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("epoch", *COLUMNS))
        for epoch, row in enumerate(zip(*(self.curves[name] for name in COLUMNS), strict=True)):
            writer.writerow((epoch + 1, *(f"{value:.9g}" for value in row)))
        return text.getvalue()

    @classmethod
    def from_csv(cls, text: str) -> "History":
        """The reverse of `to_csv`.

        Raises:
            ValueError: a line is none that `to_csv` writes.
        """
        header, *lines = text.splitlines() or [""]
        if header.split(",") != ["epoch", *COLUMNS]:
            raise ValueError(f"a history of other columns than epoch, {', '.join(COLUMNS)}")
        history = cls()
        for line in lines:
            try:
                _, *values = map(float, line.split(","))
                history.append(dict(zip(COLUMNS, values, strict=True)))
            except ValueError:
                raise ValueError(f"a line of the history is {line[:40]!r}") from None
        return history


def smooth(values: Sequence[float], window: int = WINDOW) -> NDArray[np.float64]:
    """Centred moving average; at both ends over what there is."""
    series = np.asarray(values, np.float64)
    half = window // 2
    return np.array(
        [series[max(0, k - half) : k + half + 1].mean() for k in range(len(series))], np.float64
    )


def overfitting_onset(loss: Sequence[float], val_loss: Sequence[float]) -> int | None:
    """The epoch, from 1, from which more training only fits the training rows better.

    With both curves smoothed, let m be the epoch of the lowest validation loss. Overfitting sets in
    at the first epoch after m from which on the validation loss stays more than 1 % above that
    minimum until the end, while the training loss there is below what it was at m. None if that
    never happens.
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

"""Pictures of heads: learning curves, confusion matrix, reliability. Nothing here computes scores.

All are SVG files, drawn through `stages/figure.py`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.figure import figure, label
from cryobase.stages.heads.history import History

WRITTEN = 30  # classes up to which a confusion matrix has its counts written in
NAMED = 12  # curves up to which a legend names each
BLUE, RED, GREY = "#1f6feb", "#d1242f", "#8c959f"


def learning_curves(path: Path, history: History, title: str) -> None:
    """Loss and accuracy of one head by epoch, its best epoch and the onset of overfitting."""
    epochs = np.arange(1, len(history) + 1)
    with figure(path, 2) as axes:
        for axis, curve in zip(axes, ("loss", "accuracy"), strict=True):
            axis.plot(epochs, history.curves[curve], color=GREY, label="training")
            axis.plot(epochs, history.curves[f"val_{curve}"], color=BLUE, label="validation")
            _mark(axis, history)
            axis.set(xlabel="epoch", ylabel=curve, title=label(title))
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0].legend(frameon=False)


def _mark(axis: Any, history: History) -> None:
    if history.best_epoch:
        axis.axvline(history.best_epoch, color=BLUE, linestyle=":", label="best epoch")
    if history.overfitting_from:
        end = len(history) + 0.5
        axis.axvspan(history.overfitting_from, end, color=RED, alpha=0.1, label="overfitting")


def all_curves(path: Path, histories: Mapping[str, History], best: str) -> None:
    """Validation loss and accuracy of all heads of a set; the best one stands out."""
    with figure(path, 2) as axes:
        for axis, curve in zip(axes, ("loss", "accuracy"), strict=True):
            for name, history in histories.items():
                values = history.curves[f"val_{curve}"]
                style = {"color": BLUE, "linewidth": 2, "zorder": 3} if name == best else {}
                few = len(histories) <= NAMED
                shown = label(name) if few or name == best else None
                line = {"color": None if few else GREY, "linewidth": 1, **style}
                axis.plot(range(1, len(values) + 1), values, label=shown, **line)
            axis.set(xlabel="epoch", ylabel=f"validation {curve}")
            axis.xaxis.get_major_locator().set_params(integer=True)
            _mark(axis, histories[best])
        axes[0].legend(frameon=False)


def confusion_matrix(
    path: Path, counts: NDArray[np.int64], classes: Sequence[str], title: str
) -> None:
    """Rows are true classes, columns are predicted classes. Shades show shares of each row."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(12.0, 2.5 + 0.32 * len(classes))
    with figure(path, 1, (side + 0.6, side)) as (axis,):
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if len(classes) <= WRITTEN:
            names = [label(name) for name in classes]
            axis.set_xticks(range(len(names)), names, rotation=90)
            axis.set_yticks(range(len(names)), names)
            for row, column in np.argwhere(counts):
                shade = "white" if shares[row, column] > 0.5 else "black"
                axis.text(
                    column, row, counts[row, column], ha="center", va="center", color=shade, size=7
                )
        axis.set(xlabel="predicted", ylabel="true", title=label(title))


def reliability_plot(path: Path, rows: Sequence[Mapping[str, float]], error: float) -> None:
    """Accuracy over confidence. On the diagonal, a head is right as often as it claims."""
    with figure(path, 1, (4.0, 4.0)) as (axis,):
        axis.plot([0, 1], [0, 1], color=GREY, linestyle=":")
        size = np.sqrt([row["images"] for row in rows])
        axis.scatter(
            [row["confidence"] for row in rows],
            [row["accuracy"] for row in rows],
            s=4 + 3 * size,
            color=BLUE,
        )
        axis.set(xlabel="confidence", ylabel="accuracy", title=f"calibration error {error:.3f}")
        axis.set(xlim=(0, 1.02), ylim=(0, 1.02))


def data_curve(path: Path, curve: Sequence[tuple[int, float]]) -> None:
    """Accuracy over the number of training images, which doubles from tick to tick."""
    with figure(path, 1, (4.5, 3.2)) as (axis,):
        counts, accuracies = zip(*curve, strict=True)
        axis.semilogx(counts, accuracies, color=BLUE, marker="o", base=2)
        axis.set_xticks(counts, [f"{count:,}" for count in counts])
        axis.minorticks_off()
        axis.set(xlabel="training images", ylabel="accuracy")

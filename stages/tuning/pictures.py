"""Pictures of a tuning as SVG: its curves, predictions on images, mistakes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.figure import figure
from cryobase.stages.tuning.phase import smoothed

BLUE, RED, GREY = "#1f6feb", "#d1242f", "#8c959f"
THUMBNAIL = 96  # pixels a side
COLUMNS = 6


def curves(
    path: Path,
    rows: Sequence[Mapping[str, float]],
    *,
    phase_starts: Sequence[int],
    kept: int,
    overfitting_from: int | None,
    smoothing: float,
) -> None:
    """Accuracy and loss of all phases in one figure.

    Args:
        path: the SVG file.
        rows: one row per epoch from 0, see `course.Told`.
        phase_starts: first epochs of further phases; a line marks each.
        kept: the epoch whose weights were kept.
        overfitting_from: the epoch where overfitting begins; from there the figure is shaded.
        smoothing: factor of exponential smoothing; the values without smoothing are drawn pale
            behind the curve.
    """
    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(epochs) < 4 else None  # a line through a single point is invisible
    with figure(path, 2, (9.0, 3.6)) as axes:
        for axis, curve in zip(axes, ("accuracy", "loss"), strict=True):
            for name, color in ((curve, GREY), (f"val_{curve}", BLUE)):
                values = [row[name] for row in rows]
                label = "validation" if name.startswith("val_") else "training"
                if smoothing:
                    axis.plot(epochs, values, color=color, alpha=0.3, linewidth=1)
                    axis.plot(
                        *_smoothed(rows, name, smoothing), color=color, label=label, marker=marker
                    )
                else:
                    axis.plot(epochs, values, color=color, label=label, marker=marker)
            for begin in phase_starts:
                axis.axvline(begin - 0.5, color="black", linewidth=1, label="fine-tuning starts")
            axis.axvline(kept, color=BLUE, linestyle=":", label=f"kept: epoch {kept}")
            if overfitting_from:
                label = f"overfitting from epoch {overfitting_from}"
                axis.axvspan(overfitting_from, epochs[-1] + 0.5, color=RED, alpha=0.1, label=label)
            axis.set(xlabel="epoch", ylabel=curve)
            axis.xaxis.get_major_locator().set_params(integer=True)
        shown = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
        axes[0].figure.legend(
            shown.values(), shown, loc="outside lower center", ncols=len(shown), frameon=False
        )


def _smoothed(
    rows: Sequence[Mapping[str, float]], name: str, factor: float
) -> tuple[list[float], list[float]]:
    """Epochs and smoothed values. Smoothing starts again in each phase and leaves out epoch 0."""
    epochs: list[float] = []
    values: list[float] = []
    for phase in sorted({row["phase"] for row in rows}):
        known = [row for row in rows if row["phase"] == phase and row["epoch"]]
        epochs += [row["epoch"] for row in known]
        values += smoothed([row[name] for row in known], factor)
    return epochs, values


def grid(
    path: Path,
    images: Sequence[NDArray[np.float32]],
    titles: Sequence[str],
    colors: Sequence[str],
    *,
    columns: int = COLUMNS,
    empty: str = "no images",
) -> None:
    """Images (h, w, 3) in 0 to 255 in rows, each with a title in its colour."""
    rows = max(1, -(-len(images) // columns))
    with figure(path, columns, (1.45 * columns, 1.65 * rows), rows=rows) as axes:
        for axis in axes:
            axis.axis("off")
        if not images:
            axes[0].text(0, 0.5, empty)
        for axis, image, title, color in zip(axes, images, titles, colors, strict=False):
            axis.imshow(_thumbnail(image))
            axis.set_title(title, color=color, fontsize=7)


def ladder(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy and seconds of every rung, side by side, and the accuracy that each rung added.

    A line across a bar is the accuracy that was reached in the seconds of the frozen rung.
    """
    names = [row["rung"] for row in rows]
    with figure(path, 2, (9.0, 0.5 * len(rows) + 1.2)) as axes:
        bars = axes[0].barh(names, [row["accuracy"] for row in rows], color=BLUE)
        texts = [f"{row['accuracy']:.3f} ({row['bought']:+.3f})" for row in rows]
        axes[0].bar_label(bars, [f"{rows[0]['accuracy']:.3f}", *texts[1:]], padding=3)
        for place, row in enumerate(rows):
            if row["at_frozen_seconds"] is not None:
                x = [row["at_frozen_seconds"]] * 2
                axes[0].plot(x, [place - 0.4, place + 0.4], color="black", linewidth=1.5)
        axes[0].set(xlabel="validation accuracy; line: at equal seconds", xlim=(0, 1.35))
        axes[0].set_xticks([0, 0.25, 0.5, 0.75, 1])
        bars = axes[1].barh(names, [row["seconds"] for row in rows], color=GREY)
        axes[1].bar_label(bars, fmt="%.0f", padding=3)
        axes[1].set(xlabel="seconds", yticks=[])
        axes[1].margins(x=0.15)
        for axis in axes:
            axis.invert_yaxis()


def _thumbnail(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    import cv2

    side = min(THUMBNAIL, image.shape[0])
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    pixels: NDArray[np.uint8] = np.clip(np.rint(small), 0, 255).astype(np.uint8)
    return pixels

"""Pictures of a tuning as SVG: its curves, what the model says of images, what it gets wrong."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.tuning.phase import smoothed

STYLE = {
    "svg.hashsalt": "cryobase",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9.0,
}
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
        rows: one per epoch from 0, see `course.Told`.
        phase_starts: first epochs of further phases, each marked by a line.
        kept: the epoch whose weights were kept.
        overfitting_from: where overfitting sets in, shaded from there on.
        smoothing: factor of exponential smoothing; the values themselves then stand pale behind.
    """
    epochs = [row["epoch"] for row in rows]
    with figure(path, 2, (9.0, 3.4)) as axes:
        for axis, curve in zip(axes, ("accuracy", "loss"), strict=True):
            for name, color in ((curve, GREY), (f"val_{curve}", BLUE)):
                values = [row[name] for row in rows]
                label = "validation" if name.startswith("val_") else "training"
                _line(axis, epochs, values, color=color, label=label, smoothing=smoothing)
            for begin in phase_starts:
                axis.axvline(begin - 0.5, color="black", linewidth=1, label="fine-tuning starts")
            axis.axvline(kept, color=BLUE, linestyle=":", label=f"kept: epoch {kept}")
            if overfitting_from:
                label = f"overfitting from {overfitting_from}"
                axis.axvspan(overfitting_from, epochs[-1] + 0.5, color=RED, alpha=0.1, label=label)
            axis.set(xlabel="epoch", ylabel=curve)
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0].legend(frameon=False, fontsize=8)


def _line(
    axis: Any,
    epochs: Sequence[float],
    values: Sequence[float],
    *,
    color: str,
    label: str,
    smoothing: float,
) -> None:
    if smoothing:
        axis.plot(epochs, values, color=color, alpha=0.3, linewidth=1)
        # epoch 0, before training, would weigh on all that follows
        known = [(e, v) for e, v in zip(epochs, values, strict=True) if e and np.isfinite(v)]
        epochs = [e for e, _ in known]
        values = smoothed([v for _, v in known], smoothing)
    axis.plot(epochs, values, color=color, label=label, marker="o" if len(epochs) < 3 else None)


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
    """Accuracy and seconds of every rung, side by side."""
    names = [row["rung"] for row in rows]
    with figure(path, 2, (9.0, 0.45 * len(rows) + 1.0)) as axes:
        bars = axes[0].barh(names, [row["accuracy"] for row in rows], color=BLUE)
        axes[0].bar_label(bars, fmt="%.3f", padding=3)
        axes[0].set(xlabel="validation accuracy", xlim=(0, 1.1))
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


@contextmanager
def figure(path: Path, columns: int, size: tuple[float, float], rows: int = 1) -> Iterator[Any]:
    """Axes of a figure that is written to `path` in the end, without date or random ids."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(drawn)
        yield drawn.subplots(rows, columns, squeeze=False).ravel()
        text = io.StringIO()
        drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    path.write_text(text.getvalue(), encoding="utf-8")

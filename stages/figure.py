"""Figures as SVG: the same numbers give the same bytes, and text from users stays plain text.

Every picture is drawn inside `figure`, and every name in a picture goes through `label`.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryobase.stages.outputs import write_text
from cryobase.store.text import visible

STYLE = {
    "svg.hashsalt": "cryobase",
    "svg.fonttype": "path",
    "text.parse_math": False,  # a dollar sign in a name must not start a formula
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9.0,
}
LONGEST = 32  # characters of a name in a picture
MISSING = "Glyph .* missing from"  # matplotlib's warning about a character that its font lacks


@contextmanager
def figure(
    path: Path, columns: int, size: tuple[float, float] = (9.0, 3.2), rows: int = 1
) -> Iterator[Any]:
    """Axes of a figure that is written to `path` at the end, without date or random ids.

    The user's `matplotlibrc` is ignored. Text is written as outlines, which look the same
    everywhere. If the font lacks a character, text is written as text, for the viewer's fonts.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        drawn = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(drawn)
        yield drawn.subplots(rows, columns, squeeze=False).ravel()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            text = _saved(drawn)
        lacking = [one for one in caught if str(one.message).startswith("Glyph ")]
        for one in caught:
            if one not in lacking:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        if lacking:
            mpl.rcParams["svg.fonttype"] = "none"
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", MISSING)
                text = _saved(drawn)
    write_text(path, text)


def label(name: str, longest: int = LONGEST) -> str:
    """A name for a picture: one line, control characters made visible, a long middle left out."""
    shown = visible(name)
    if len(shown) <= longest:
        return shown
    end = longest // 2
    return f"{shown[: longest - end - 1]}…{shown[-end:]}"


def _saved(drawn: Any) -> str:
    text = io.StringIO()
    drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()

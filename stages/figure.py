"""Figures as SVG: the same bytes for the same numbers, and text that is only text.

Every picture is drawn within `figure`, and every name in it goes through `label`.
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
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9.0,
}
LONGEST = 32  # characters of a name in a picture
MISSING = "Glyph .* missing from"  # matplotlib's warning of what its font does not have


@contextmanager
def figure(
    path: Path, columns: int, size: tuple[float, float] = (9.0, 3.2), rows: int = 1
) -> Iterator[Any]:
    """Axes of a figure that is written to `path` in the end, without date or random ids.

    Settings of the user's own `matplotlibrc` are left out. Text is written as outlines, which look
    the same everywhere; where the font lacks a character, as text for the viewer's fonts.
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
    """A name as it stands in a picture: in one line, everything visible, the middle left out."""
    shown = visible(name)
    if len(shown) <= longest:
        return shown
    end = longest // 2
    return f"{shown[: longest - end - 1]}…{shown[-end:]}"


def _saved(drawn: Any) -> str:
    text = io.StringIO()
    drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()

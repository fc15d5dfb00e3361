"""Results on stdout: a table or lines for people, one JSON document or CSV for programs.

Only this module and `logs` write to the terminal. Control characters in names and messages are made
visible, so a terminal never obeys them. `store.text` is imported late, because it loads numpy.
"""

import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, TextIO

Row = Mapping[str, Any]

LONGEST = 200  # columns of a cell
RED, GREEN, YELLOW = 31, 32, 33  # colour codes of a terminal
STATES = {  # what stands in a column `state`, or in front of a finding
    **dict.fromkeys(("done", "fine", "always"), GREEN),
    **dict.fromkeys(("stale", "missing", "follows", "note"), YELLOW),
    "wrong": RED,
}


def show(rows: Sequence[Row], *, as_json: bool = False, as_csv: bool = False) -> None:
    """Print rows that have the same keys."""
    if as_json:
        print_json(rows)
    elif as_csv:
        _print_csv(rows)
    else:
        _print_table(rows)


def line(text: str, *, error: bool = False, mark: str = "") -> None:
    """Print one line for people.

    Args:
        text: the line.
        error: whether the line goes to stderr, because it is not a result.
        mark: a word to begin the line with, in the colour of its state in `STATES`, else red.
    """
    from cryobase.stages.progress import aside
    from cryobase.store.text import visible

    stream = sys.stderr if error else sys.stdout
    shown = visible(text)
    if mark:
        shown = _coloured(mark, STATES.get(mark, RED), stream) + shown.removeprefix(mark)
    with aside():
        stream.write(shown + "\n")


def _coloured(word: str, colour: int, stream: TextIO) -> str:
    """A word in a colour, if a terminal shows it and the user has not turned colours off."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return word if plain else f"\x1b[{colour}m{word}\x1b[0m"


def print_json(document: Any) -> None:
    """Print one JSON document. Values are exact; control characters are escaped.

    JSON cannot write infinity and NaN: both become null.
    """
    document = _finite(document)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if text.encode(encoding, "replace").decode(encoding) != text:
        text = json.dumps(document, indent=2, allow_nan=False)
    lines = ("".join(map(_shown, line)) for line in text.split("\n"))
    sys.stdout.write("\n".join(lines) + "\n")


def _finite(value: Any) -> Any:
    """A document in which infinity and NaN are replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value


def _shown(character: str) -> str:
    """A character of a JSON text, or its escape."""
    from cryobase.store.text import is_seen

    return character if is_seen(character) else json.dumps(character)[1:-1]


def size(count: int | None) -> str:
    """Bytes as people read them: 12.4 MB; powers of ten, as DVC and disks count."""
    if count is None:
        return "?"
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def duration(seconds: float) -> str:
    """Seconds as people read them: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def _print_csv(rows: Sequence[Row]) -> None:
    """Exact for a program, but for `store.text.cell`; on a terminal everything is visible."""
    from cryobase.store.text import csv_line, visible

    if not rows:
        return
    terminal = sys.stdout.isatty()
    for values in (list(rows[0]), *(row.values() for row in rows)):
        shown = (visible(v) if terminal and isinstance(v, str) else v for v in values)
        sys.stdout.write(csv_line(shown))


def _print_table(rows: Sequence[Row]) -> None:
    if not rows:
        return
    head, *lines = text(rows).split("\n")
    start = re.search(r"(?<!\S)state(?!\S)", head)
    sys.stdout.write(head + "\n")
    for row, one in zip(rows, lines, strict=True):
        word = str(row.get("state", ""))
        if start and one.startswith(word, start.start()) and word in STATES:
            coloured = _coloured(word, STATES[word], sys.stdout)
            one = one[: start.start()] + coloured + one[start.start() + len(word) :]  # noqa: PLW2901
        sys.stdout.write(one + "\n")


def text(rows: Sequence[Row]) -> str:
    """Rows that have the same keys as a table for a terminal, without the last line feed."""
    from cryobase.store.text import width

    lines = [list(map(_cell, row)) for row in rows[:1]]
    lines += [list(map(_cell, row.values())) for row in rows]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    padded = (
        (one + " " * (whole - width(one)) for one, whole in zip(cells, widths, strict=True))
        for cells in lines
    )
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def html(rows: Sequence[Row]) -> str:
    """The same table as HTML for a notebook; names are escaped."""
    lines = [f"<th>{escape(_cell(name))}</th>" for row in rows[:1] for name in row]
    cells = ("".join(f"<td>{escape(_cell(one))}</td>" for one in row.values()) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in cells)
    return f"<table><thead><tr>{''.join(lines)}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    from cryobase.store.text import visible

    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = visible(str(value))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"

"""Received text, made safe for its use: JSON, file names, terminals, spreadsheets.

Each use has one function here: `parse_json` and `record` for a parser, `component` and `below` for
a path, `visible` for a terminal, `cell` for a CSV file. All received text must go through them.
"""

import csv
import dataclasses
import io
import json
import math
import re
import types
import typing
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cryobase.store.files import read_file

Record = TypeVar("Record")

MAX_BYTES = 1 << 23
MAX_VALUES = 200_000  # limits the cost: 8 MiB of brackets take seconds and a gigabyte
MAX_DEPTH = 32
MAX_DIGITS = 20  # of an integer: 2**64 has 20
MAX_COMPONENT = 255  # bytes of a file name, on most file systems

_JOINERS = "\u200c\u200d"  # invisible, but scripts and emoji need them
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", re.ASCII | re.IGNORECASE)


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """The value of a JSON file, see `parse_json`.

    Raises:
        StoreError: it is missing, not a regular file, or larger than `limit` bytes.
        ValueError: `parse_json` refuses it.
    """
    return parse_json(read_file(path, limit))


def parse_json(
    data: bytes, *, floats: bool = True, keys: int | None = None, values: int = MAX_VALUES
) -> Any:
    """The value of a JSON text, if every JSON reader would read the same value.

    The text must be UTF-8. Refused are: a key that occurs twice, NaN, infinity, a number that does
    not fit into a float or 64 bits, nesting deeper than 32, and half of a surrogate pair. The
    surrogates that stand for a byte of a file name (`os.fsdecode`) are allowed.

    Args:
        data: The text.
        floats: Whether numbers may have a decimal point or exponent.
        keys: The most keys of an object; None for no limit.
        values: The most values in all. They are counted before parsing.

    Raises:
        ValueError: the text is refused; the message gives the reason in one short line.
    """
    if (count := at_least(data)) > values:
        raise ValueError(f"unexpected {count:,} values, at most {values:,}")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_Objects(keys),
            parse_constant=_refuse,
            parse_int=_integer,
            parse_float=_float if floats else _refuse,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"unexpected byte {error.start}, not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise ValueError("unexpected depth") from None
    _check(value, MAX_DEPTH)
    return value


def at_least(data: bytes) -> int:
    """A fast estimate of the number of values in a JSON text, from its brackets and commas."""
    return sum(map(data.count, (b"[", b"{", b",")))


class _Objects:
    """Makes a dict of an object's pairs. Refuses a key that occurs twice, and too many keys."""

    def __init__(self, keys: int | None) -> None:
        self._keys = keys

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if self._keys is not None and len(pairs) > self._keys:
            raise ValueError(f"unexpected object of more than {self._keys} keys")
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ValueError("unexpected key that comes twice")
        return value


def _refuse(constant: str) -> None:
    raise ValueError(f"unexpected number {constant[:20]}")


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"unexpected number of {len(text):,} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _refuse(text)
    return value


def _check(value: Any, depth: int) -> None:
    """Refuse values that are nested too deeply, and halves of surrogate pairs."""
    if depth < 0:
        raise ValueError("unexpected depth")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode("utf-8", "surrogateescape")  # allows the surrogates of `os.fsdecode`
        except UnicodeEncodeError:
            raise ValueError("unexpected half of a character") from None
    elif isinstance(value, list):
        for item in value:
            _check(item, depth - 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(key, depth)
            _check(item, depth - 1)


def record(kind: type[Record], value: Any) -> Record:
    """A dataclass from a received JSON object, whose keys are the fields.

    Each value must have the type of its field: text, a number, true or false, null, a `Literal`, or
    lists and objects of these. The dataclass itself checks whatever else its values must satisfy.

    Raises:
        ValueError: a key is unknown or missing, or a value has another type.
    """
    if not isinstance(value, dict):
        raise ValueError(f"unexpected {type(value).__name__}, not an object")  # noqa: TRY004
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(typing.cast("Any", kind))}
    if unknown := value.keys() - known.keys():
        raise ValueError(f"unexpected key {visible(min(unknown))[:40]!r}")
    for name, field in known.items():
        missing = dataclasses.MISSING
        if name not in value and field.default is missing and field.default_factory is missing:
            raise ValueError(f"without {name!r}")
    return kind(**{name: _typed(name, hints[name], item) for name, item in value.items()})


def _typed(name: str, hint: Any, value: Any) -> Any:
    """The value, if it has the type `hint`; lists become tuples.

    Raises:
        ValueError: it has another type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal and value in arguments and isinstance(value, str):
        return value
    if origin in (typing.Union, types.UnionType):
        for choice in arguments:
            with suppress(ValueError):
                return _typed(name, choice, value)
    elif origin is tuple and isinstance(value, list | tuple):
        return tuple(_typed(name, arguments[0], item) for item in value)
    elif origin is Mapping and isinstance(value, dict):
        return {key: _typed(name, arguments[1], item) for key, item in value.items()}
    elif hint is Any or type(value) in ((int, float) if hint is float else (hint,)):
        return value
    raise ValueError(f"unexpected {name}: {visible(str(value))[:40]!r}")


def component(name: object) -> str:
    """A received name that is a single part of a path, so that it cannot lead elsewhere.

    Raises:
        ValueError: it is not a single part, or no file can have this name.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"unexpected name {visible(str(name))[:60]!r}, not a text")
    size = len(name.encode("utf-8", "surrogatepass"))
    if name in (".", "..") or "/" in name or "\\" in name or size > MAX_COMPONENT:
        raise ValueError(f"unexpected name {visible(name)[:60]!r}, not one part of a path")
    if visible(name) != name:
        raise ValueError(f"unexpected name {visible(name)[:60]!r}, with invisible characters")
    return name


def below(directory: Path, *names: object) -> Path:
    """A path below `directory`, built from received names; see `component`.

    Raises:
        ValueError: a name is not a single part of a path.
    """
    return directory.joinpath(*map(component, names))


def visible(text: str) -> str:
    r"""The text with invisible characters escaped: `\x1b`, `\n`, `\u202e`.

    Control characters could control the terminal, and direction marks could make a name look like
    another name. A byte of a file name that is not UTF-8 becomes `\xe9`, for example.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if is_seen(c) else _escaped(c) for c in text)


def is_seen(character: str) -> bool:
    """Whether a character is visible, or joins visible ones."""
    return character in _JOINERS or unicodedata.category(character) not in _INVISIBLE


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8, see os.fsdecode
        return f"\\x{code - 0xDC00:02x}"
    if short := {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character):
        return short
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def counted(count: int, noun: str) -> str:
    """A number of things in words: `1 row`, `2,000 rows`, `3 classes`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}{'es' if noun.endswith('s') else 's'}"


def width(text: str) -> int:
    """The number of terminal columns of a text that `visible` returned."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if character in _JOINERS or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cell(value: Any) -> Any:
    """A value for a CSV file: text that a spreadsheet would run as a formula gets a `'` in front.

    Numbers stay as they are. Text that is a formula after leading quotes also gets one more quote,
    so that `cell_text` can restore every text.
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def csv_line(values: Iterable[Any]) -> str:
    """A line of a CSV file, with a line feed. Each value goes through `cell`."""
    line = io.StringIO(newline="")
    # Makes csv quote both \r and \n.
    csv.writer(line, lineterminator="\r\n").writerow(map(cell, values))
    return line.getvalue().removesuffix("\r\n") + "\n"


def cell_text(value: str) -> str:
    """The original text of a cell; the reverse of `cell`."""
    return value[1:] if value.startswith("'") and _FORMULA.match(value) else value

"""Text from somebody else: JSON, names of files, what a terminal or a spreadsheet is shown.

A text may be meant for a parser, a terminal, a table or a path. Each of these has one function
here, and everything that was received goes through it.
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
MAX_VALUES = 200_000  # what parsing costs: 8 MiB of brackets take seconds and a gigabyte
MAX_DEPTH = 32
MAX_DIGITS = 20  # of an integer: 2**64 has as many
MAX_COMPONENT = 255  # bytes of a name, on the usual file systems

_JOINERS = "\u200c\u200d"  # invisible, but scripts and emoji need them
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", re.ASCII | re.IGNORECASE)


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """The value of a JSON file, see `parse_json`.

    Raises:
        StoreError: it is missing, no regular file, or larger than `limit` bytes.
        ValueError: it is no such JSON.
    """
    return parse_json(read_file(path, limit))


def parse_json(
    data: bytes, *, floats: bool = True, keys: int | None = None, values: int = MAX_VALUES
) -> Any:
    """The value of a JSON text that means the same to every reader.

    UTF-8, no key twice, no NaN or infinity, no number that a float or 64 bits cannot hold, nothing
    nested deeper than 32, and no half of a character, but for those that stand for a byte of a file
    name (`os.fsdecode`).

    Args:
        data: the text.
        floats: whether numbers may have a point or exponent.
        keys: how many an object may have at most.
        values: how many there may be in all; they are counted before anything is parsed.

    Raises:
        ValueError: it is none; the message says why, in one short line.
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
    """At least the number of values in a JSON text, which costs less to count than to parse."""
    return sum(map(data.count, (b"[", b"{", b",")))


class _Objects:
    """Makes a dict of an object's pairs, if each key is there once."""

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
    """Refuse what is nested too deeply, and halves of characters."""
    if depth < 0:
        raise ValueError("unexpected depth")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode("utf-8", "surrogateescape")  # which bytes that are no UTF-8 become
        except UnicodeEncodeError:
            raise ValueError("unexpected half of a character") from None
    elif isinstance(value, list):
        for one in value:
            _check(one, depth - 1)
    elif isinstance(value, dict):
        for key, one in value.items():
            _check(key, depth)
            _check(one, depth - 1)


def record(kind: type[Record], value: Any) -> Record:
    """A dataclass from a received object: its keys, each of the type that its field says.

    Fields may be text, numbers, true or false, `Literal`, lists of these, objects of these, or
    null. What else a value must be is for the dataclass to say.

    Raises:
        ValueError: a key is unknown, missing or of another type.
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
    return kind(**{name: _typed(name, hints[name], one) for name, one in value.items()})


def _typed(name: str, hint: Any, value: Any) -> Any:
    """The value, lists as tuples, if it is of a type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal and value in arguments and isinstance(value, str):
        return value
    if origin in (typing.Union, types.UnionType):
        for one in arguments:
            with suppress(ValueError):
                return _typed(name, one, value)
    elif origin is tuple and isinstance(value, list | tuple):
        return tuple(_typed(name, arguments[0], one) for one in value)
    elif origin is Mapping and isinstance(value, dict):
        return {key: _typed(name, arguments[1], one) for key, one in value.items()}
    elif hint is Any or type(value) in ((int, float) if hint is float else (hint,)):
        return value
    raise ValueError(f"unexpected {name}: {visible(str(value))[:40]!r}")


def component(name: object) -> str:
    """A name that stands for one file or directory below another one.

    Raises:
        ValueError: it would lead elsewhere, or no file can have it.
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
    """The one place where a name becomes a path: each is a part of its own, see `component`.

    Raises:
        ValueError: a name would lead elsewhere.
    """
    return directory.joinpath(*map(component, names))


def visible(text: str) -> str:
    r"""A text in which everything is seen: `\x1b`, `\n`, `\u202e` in place of what is not.

    Control characters move a terminal's cursor or change what it does; marks of direction make a
    name look like another one. Bytes of a file name that is no UTF-8 come out as `\xe9`.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if is_seen(one) else _escaped(one) for one in text)


def is_seen(character: str) -> bool:
    """Whether a terminal shows a character, or needs it to join others."""
    return character in _JOINERS or unicodedata.category(character) not in _INVISIBLE


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8, see os.fsdecode
        return f"\\x{code - 0xDC00:02x}"
    if short := {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character):
        return short
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def width(text: str) -> int:
    """How many columns of a terminal a visible text takes."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if character in _JOINERS or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cell(value: Any) -> Any:
    """A value for a CSV file: text that a spreadsheet would run as a formula gets a `'` in front.

    Numbers stay as they are. `cell_text` gives the text back: what begins with quotes and would
    then be a formula gets one more.
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def csv_line(values: Iterable[Any]) -> str:
    """A line of a CSV file, with its end; each value goes through `cell`."""
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow(map(cell, values))  # so it quotes both ends
    return line.getvalue().removesuffix("\r\n") + "\n"


def cell_text(value: str) -> str:
    """The text that `cell` was given."""
    return value[1:] if value.startswith("'") and _FORMULA.match(value) else value

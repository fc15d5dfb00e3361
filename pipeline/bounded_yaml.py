"""Reading YAML that may come from somebody else, in bounded time and memory.

Only plain values of bounded size are accepted. Nothing here knows the keys of params.
"""

import os
import stat
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

MAX_BYTES = 1 << 20
MAX_EVENTS = 50_000  # values, and starts and ends of lists and maps: a few seconds' parsing
MAX_DEPTH = 32
MAX_INTEGER = 1 << 63


class UnusableYamlError(ValueError):
    """A YAML file cannot be used. The message gives the reason, without the file's name."""


class Integer(int):
    """An integer that remembers how it was written: `007` may be meant as a name."""

    text: str


class Float(float):
    """A float that remembers how it was written: `1.10` may be meant as a version."""

    text: str


class _Constructor(SafeConstructor):
    def construct_yaml_int(self, node: Any) -> Integer:
        number = Integer(super().construct_yaml_int(node))
        number.text = self.construct_scalar(node)
        return number

    def construct_yaml_float(self, node: Any) -> Float:
        number = Float(super().construct_yaml_float(node))
        number.text = self.construct_scalar(node)
        return number


for _kind, _construct in (
    ("int", _Constructor.construct_yaml_int),
    ("float", _Constructor.construct_yaml_float),
    ("timestamp", SafeConstructor.construct_yaml_str),  # no key of ours takes a date
):
    _Constructor.add_constructor(f"tag:yaml.org,2002:{_kind}", _construct)


def read(path: Path, *, events: int = MAX_EVENTS) -> Any:
    """The single document of a regular file, or None if it is empty.

    Aliases and tags are refused: with them, a short text can become huge, or create objects.

    Raises:
        FileNotFoundError: there is no such file.
        UnusableYamlError: the file cannot be read, or contains something else.
    """
    text = _text(path)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    try:
        _look_over(yaml, text, events)
        document = yaml.load(text)
    except UnusableYamlError:
        raise
    except (YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split()) or "nested too deeply"
        raise UnusableYamlError(f"not valid YAML: {reason[:300]}") from None
    except ValueError as error:  # an integer of 5,000 digits
        raise UnusableYamlError(f"not valid YAML: {str(error)[:300]}") from None
    _check(document)
    return document


def _text(path: Path) -> str:
    try:
        # A FIFO without O_NONBLOCK would wait for its writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnusableYamlError("not a regular file")
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UnusableYamlError(f"cannot be read ({reason})") from None
    if len(data) > MAX_BYTES:
        raise UnusableYamlError(f"more than {MAX_BYTES:,} bytes, which are the most that are read")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnusableYamlError(f"not UTF-8 ({error.reason} at byte {error.start})") from None


def _look_over(yaml: YAML, text: str, events: int) -> None:
    """Check and count the values of a text while it is parsed, before objects are built."""
    depth = 0
    for count, event in enumerate(yaml.parse(text)):
        if isinstance(event, AliasEvent):
            raise UnusableYamlError("YAML aliases (*name) are refused; write the value out")
        if tag := getattr(event, "tag", None):
            raise UnusableYamlError(f"YAML tags ({str(tag)[:60]}) are refused; write the value")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise UnusableYamlError(f"nested too deeply; at most {MAX_DEPTH} levels are read")
        if count > events:
            raise UnusableYamlError(f"more than {events:,} values; fewer are read")


def _check(value: Any) -> None:
    if isinstance(value, dict):
        if len({str(key) for key in value}) < len(value):
            raise UnusableYamlError("a map has a key twice, as a number and as text")
        for key, one in value.items():
            _check(key)
            _check(one)
    elif isinstance(value, list):
        for one in value:
            _check(one)
    elif isinstance(value, int) and not -MAX_INTEGER <= value < MAX_INTEGER:
        raise UnusableYamlError("an integer of more than 64 bits")

"""Pages that the code tells itself: commands from Typer, params from the config classes.

`conf.py` has them written before Sphinx reads its sources. They lie in `docs/reference`, which Git
ignores, so that they cannot differ from the code.
"""

import dataclasses
import re
import shutil
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

from typer.main import get_command

from cryobase.pipeline.cli import app
from cryobase.pipeline.params import Params
from cryobase.stages.sources.table import SOURCES, DownloadConfig

ATTRIBUTES = re.compile(
    r"^ {4}(\w[\w, ]*): (.*?)(?=^ {4}\w[\w, ]*: |^ {0,3}\S|\Z)", re.MULTILINE | re.DOTALL
)


def write(directory: Path) -> None:
    """Write all generated pages anew."""
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "commands").mkdir(parents=True)
    names = []
    for words, command in commands():
        name = "-".join(words)
        names.append(name)
        text = _command_page(words, command)
        (directory / "commands" / f"{name}.md").write_text(text, encoding="utf-8")
    listing = "\n".join(names)
    (directory / "commands.md").write_text(
        "# Commands\n\n`cryobase COMMAND --help` says the same in a terminal. How a command ends: "
        "[exit codes](../exit_codes.md).\n\n"
        f"```{{toctree}}\n:glob:\n\n{_under('commands', listing)}\n```\n",
        encoding="utf-8",
    )
    (directory / "params.md").write_text(_params_page(), encoding="utf-8")


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with its words after `cryobase`."""
    yield from _below((), get_command(app))


def _below(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", {})
    for name in sorted(below):
        yield from _below((*words, name), below[name])
    if not below and not command.hidden:
        yield words, command


def _command_page(words: tuple[str, ...], command: Any) -> str:
    name = " ".join(("cryobase", *words))
    context = command.make_context(name, [], resilient_parsing=True)
    usage = command.get_usage(context).removeprefix("Usage: ")
    page = [f"# {name}", _paragraphs(command.help or ""), f"```text\n{usage}\n```"]
    records = [p.get_help_record(context) for p in command.params if not p.hidden]
    rows = [(f"`{what}`", _cell(meaning)) for what, meaning in filter(None, records)]
    if rows:
        page.append(_table(("argument or option", "meaning"), rows))
    return "\n\n".join(page) + "\n"


def _paragraphs(text: str) -> str:
    """Help as Markdown: its paragraphs, with what looks like a placeholder as code."""
    lines = re.sub(r"(?<![`\w/])([A-Z]{3,}(?:/[A-Z]+)*)(?![`\w])", r"`\1`", text)
    return "\n\n".join(" ".join(part.split()) for part in lines.split("\n\n"))


def _params_page() -> str:
    page = [
        "# Params",
        "`params.yaml` has a section for each stage. A section that is missing means its defaults;"
        " a key that is not in these tables is an error that lists the valid ones.",
    ]
    described: dict[type, str] = {}
    for section, hint in typing.get_type_hints(Params).items():
        page += _sections(section, hint, 2, described)
    return "\n\n".join(page) + "\n"


def _sections(path: str, config: type, level: int, described: dict[type, str]) -> list[str]:
    """A table of a config class, then those of the classes that its keys hold.

    Args:
        path: The key whose value it is.
        config: The class.
        level: Of its heading.
        described: The classes that have a table, and the key above it; this one is added.
    """
    described[config] = path
    hints = typing.get_type_hints(config)
    meaning = _attributes(config)
    rows, below = [], []
    for entry in dataclasses.fields(config):
        hint = hints[entry.name]
        key = f"{path}.{entry.name}" + (".NAME" if _is_map(hint) else "")
        held = [one for one in _leaves(hint) if dataclasses.is_dataclass(one)]
        below += [(key, one) for one in held if one not in described]
        keys = [f"keys as in `{described.get(one, key)}`" for one in held]
        rows.append(
            (
                f"`{entry.name}`",
                _kind(hint, dict(zip(held, keys, strict=True))),
                _default(entry),
                _cell(meaning[entry.name]),
            )
        )
    page = [f"{'#' * level} {path}", _summary(config)]
    page.append(_table(("key", "values", "default", "meaning"), rows))
    for key, one in below:
        page += _sections(key, one, min(level + 1, 4), described)
    return page


def _attributes(config: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of its fields."""
    described = [*reversed(config.__mro__)]
    if config is DownloadConfig:  # it has the keys of all sources
        described += [base for row in SOURCES.values() for base in reversed(row.Config.__mro__)]
    found: dict[str, str] = {}
    for one in described:
        _, _, listed = (one.__doc__ or "").partition("Attributes:\n")
        text = "\n".join(line[4:] for line in listed.splitlines())
        for names, said in ATTRIBUTES.findall(text + "\n"):
            found |= dict.fromkeys(names.split(", "), " ".join(said.split()))
    return found


def _summary(config: type) -> str:
    return " ".join((config.__doc__ or "").partition("\n\n")[0].split())


def _leaves(hint: Any) -> list[Any]:
    """The types that a hint consists of."""
    arguments = typing.get_args(hint)
    if not arguments or typing.get_origin(hint) is Literal:
        return [hint]
    return [leaf for argument in arguments for leaf in _leaves(argument)]


def _is_map(hint: Any) -> bool:
    origins = [typing.get_origin(hint), *(typing.get_origin(one) for one in typing.get_args(hint))]
    return any(isinstance(one, type) and issubclass(one, Mapping) for one in origins)


NAMES = {str: "text", int: "a whole number", float: "a number", bool: "`true`, `false`"}


def _kind(hint: Any, known: Mapping[Any, str]) -> str:
    """The values that a hint allows, for a person; `known` says it of classes."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _kind(arguments[0], known)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is None:
        return known.get(hint) or NAMES[hint]
    held = [one for one in arguments if one not in {NoneType, Ellipsis}]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a map from name to {_kind(held[1], known)}"
    kinds = " or ".join(dict.fromkeys(_kind(one, known) for one in held))
    return kinds if origin in {typing.Union, UnionType} else f"a list of {kinds}"


def _default(entry: "dataclasses.Field[Any]") -> str:
    if entry.default is not dataclasses.MISSING:
        value = entry.default
    elif entry.default_factory is not dataclasses.MISSING:
        value = entry.default_factory()
    else:
        return "needed"
    nothing = value is None or isinstance(value, Mapping) or dataclasses.is_dataclass(value)
    if nothing or value in ((), ""):
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]
    return "\n".join(lines)


def _under(folder: str, names: str) -> str:
    return "\n".join(f"{folder}/{name}" for name in names.splitlines())

"""`params.yaml`: one section per stage, checked against the stages' own config dataclasses."""

import dataclasses
import functools
import json
import os
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent

from stages.download import DownloadConfig
from stages.evaluate import EvaluateConfig
from stages.extract import ExtractConfig
from stages.finetune import FinetuneConfig
from stages.report import ReportConfig
from stages.split import SplitConfig
from stages.train import TrainConfig

MAX_BYTES = 1 << 20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=-]*")
RESERVED_SETS = ("none", "tuned")  # runs without a head; results/tuned


class ParamsError(ValueError):
    """`params.yaml` cannot be used as it is (exit code 2)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params:
    """All of `params.yaml`; a missing section means its defaults."""

    download: DownloadConfig = dataclasses.field(default_factory=DownloadConfig)
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    extract: ExtractConfig = dataclasses.field(default_factory=ExtractConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    finetune: FinetuneConfig = dataclasses.field(default_factory=FinetuneConfig)
    report: ReportConfig = dataclasses.field(default_factory=ReportConfig)

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """What heads are trained on, by name: every feature set alone, and every pair of them."""
        alone = {name: (name,) for name in self.extract.sets}
        return {**alone, **self.train.pairs}


def load(path: Path) -> Params:
    """Read and check a params file.

    Raises:
        ParamsError: no such file, no YAML, an unknown key, a wrong type or value; the message gives
            the key's path.
    """
    document = _read_yaml(path)
    _expand_homes(path, document)
    try:
        text = json.dumps(document, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ParamsError(f"{path}: {error}; use finite numbers, strings, lists and maps") from None
    try:
        params = _adapter().validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        raise ParamsError(f"{path}: " + "; ".join(_complaints(error))) from None
    _check_names(path, params)
    return params


def _read_yaml(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; run in the directory of params.yaml") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
    if len(text) > MAX_BYTES:
        raise ParamsError(f"{path}: {len(text):,} characters; at most {MAX_BYTES:,} are read")
    yaml = YAML(typ="safe", pure=True)
    try:
        if any(isinstance(event, AliasEvent) for event in yaml.parse(text)):
            raise ParamsError(f"{path}: YAML aliases (*name) are refused; write the value out")
        return yaml.load(text) or {}
    except (YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split()) or "nested too deeply"
        raise ParamsError(f"{path}: not valid YAML: {reason}") from None


def _expand_homes(path: Path, document: Any) -> None:
    """Put home directories in place of `~` and `~user`, wherever a path stands."""
    sections = document if isinstance(document, dict) else {}
    download, extract = (sections.get(key) or {} for key in ("download", "extract"))
    found = [(download, "download", key) for key in ("path", "data_dir")]
    found += [(extract, "extract", "scheduler_file")]
    sets = extract.get("sets") if isinstance(extract, dict) else None
    for name, one in sets.items() if isinstance(sets, dict) else ():
        found += [(one, f"extract.sets.{name}", "weights")]
    for section, where, key in found:
        text = section.get(key) if isinstance(section, dict) else None
        if isinstance(text, str) and text.startswith("~"):
            section[key] = os.path.expanduser(text)
            if section[key].startswith("~"):
                raise ParamsError(
                    f"{path}: {where}.{key}: no home directory is known for {text!r}; write the"
                    " path out"
                )


@functools.cache
def _adapter() -> pydantic.TypeAdapter[Params]:
    for config in _dataclasses_in(Params):
        config.__pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    return pydantic.TypeAdapter(Params)


def _dataclasses_in(annotation: Any) -> Iterator[Any]:
    """Every dataclass that an annotation mentions, at any depth."""
    if dataclasses.is_dataclass(annotation):
        yield annotation
        hints = typing.get_type_hints(annotation)
        for field in dataclasses.fields(annotation):
            yield from _dataclasses_in(hints[field.name])
    for argument in typing.get_args(annotation):
        yield from _dataclasses_in(argument)


def _complaints(error: pydantic.ValidationError) -> Iterator[str]:
    for fault in error.errors(include_url=False):
        path = ".".join(str(part) for part in fault["loc"]) or "the document"
        if fault["type"] == "unexpected_keyword_argument":
            keys = sorted(_valid_keys(fault["loc"][:-1]))
            yield f"{path}: unknown key; valid here: {', '.join(keys)}"
        else:
            message = fault["msg"].removeprefix("Value error, ")
            yield f"{path}: {message[0].lower()}{message[1:]}, not {fault['input']!r:.60}"


def _valid_keys(location: tuple[int | str, ...]) -> set[str]:
    """The field names of the dataclass(es) that stand at a location such as `extract.sets.a`."""
    candidates: list[Any] = [Params]
    for part in location:
        candidates = [inner for outer in candidates for inner in _step(outer, part)]
    return {field.name for found in candidates for field in dataclasses.fields(found)}


def _step(outer: Any, part: int | str) -> list[Any]:
    hint = typing.get_type_hints(outer).get(str(part))
    if hint is None:  # a key of a mapping, or pydantic's name for a union's member: stay
        return [outer]
    return [found for found in _dataclasses_in(hint) if _direct(hint, found)]


def _direct(hint: Any, found: Any) -> bool:
    """Whether a dataclass is mentioned by the annotation itself, not by one of its fields."""
    return hint is found or any(_direct(argument, found) for argument in typing.get_args(hint))


def _check_names(path: Path, params: Params) -> None:
    """Names become directories: refuse what could leave its place, or is taken."""
    tables: dict[str, Mapping[str, Any]] = {
        "extract.sets": params.extract.sets,
        "train.heads": params.train.heads,
        "train.pairs": params.train.pairs,
        "finetune.runs": params.finetune.runs,
    }
    for key, table in tables.items():
        for name in table:
            if not NAME.fullmatch(name) or name in RESERVED_SETS:
                raise ParamsError(
                    f"{path}: {key}.{name}: not a usable name; take letters, digits, _ . = and -,"
                    f" a letter or digit first, and none of: {', '.join(RESERVED_SETS)}"
                )
    _check_pairs(path, params)
    for name, run in params.finetune.runs.items():
        if run.start == "head" and run.set not in params.extract.sets:
            known = ", ".join(params.extract.sets) or "none"
            raise ParamsError(
                f"{path}: finetune.runs.{name}.set: no set {run.set!r}; known: {known}"
            )


def _check_pairs(path: Path, params: Params) -> None:
    sets = params.extract.sets
    for name, pair in params.train.pairs.items():
        where = f"{path}: train.pairs.{name}"
        if name in sets:
            raise ParamsError(f"{where}: extract.sets has this name too; rename one of them")
        if unknown := [one for one in pair if one not in sets]:
            known = ", ".join(sets) or "none"
            raise ParamsError(f"{where}: no set {unknown[0]!r}; known: {known}")


def one_or_all(table: Mapping[str, Any], name: str | None, key: str) -> list[str]:
    """The names to work on: all keys of a table, or the one asked for.

    Raises:
        ParamsError: the table has no such name.
    """
    if name is None:
        return list(table)
    if name not in table:
        raise ParamsError(
            f"params.yaml: {key} has no {name!r}; known: {', '.join(table) or 'none'}"
        )
    return [name]

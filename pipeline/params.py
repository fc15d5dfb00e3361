"""Reading and checking `params.yaml`: one section per stage, one config dataclass per section.

The dataclasses belong to the stages; this module owns the checks across sections and the words of
the messages.
"""

import dataclasses
import functools
import json
import os
import re
import typing
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic

from cryobase.pipeline import bounded_yaml
from cryobase.stages.evaluate import EvaluateConfig
from cryobase.stages.extract import ExtractConfig
from cryobase.stages.finetune import FinetuneConfig
from cryobase.stages.heads.config import expand
from cryobase.stages.report import ReportConfig
from cryobase.stages.sources.table import DownloadConfig
from cryobase.stages.split import SplitConfig
from cryobase.stages.train import TrainConfig
from cryobase.store.text import visible

# Names that DVC accepts everywhere: in DVC a dot separates keys of params, a number cannot name a
# stage, and `-S` refuses a name that begins with a digit or contains `=`.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
TAKEN = frozenset(("none", "tuned"))  # runs without a head; results/tuned
DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])")  # not allowed as files on Windows
NAMED = ("extract.sets", "train.heads", "train.pairs", "train.foreign", "finetune.runs")
INPUTS = "extract.sets, train.pairs or train.foreign"  # inputs of heads, see `Params.inputs`
NAMES_ARE = (
    "DVC takes letters, digits, _ and -, a letter first, at most 64 characters, and none of:"
    f" {', '.join(sorted(TAKEN))}"
)
TRACKED = {  # what the stages of dvc.yaml depend on -> the line that means the defaults
    "download": "download: {source: sample}",
    "split": "split: {}",
    "report": "report: {}",
}
TRACKED_WITH_SETS = {
    "train.heads": "train: {heads: {linear: {kind: linear}}}",
    "evaluate": "evaluate: {}",
}
JSON_WORDS = {
    "Input should be a valid array": "Input should be a list",
    "Input should be an object": "Input should be a map",
}
STAGES = ("download", "split", "train", "evaluate", "report")


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
        """The inputs of heads by name: every feature set alone, and every pair of sets."""
        alone = {name: (name,) for name in (*self.extract.sets, *self.train.foreign)}
        return {**alone, **self.train.pairs}


def load(path: Path, *stages: str) -> Params:
    """Read and check a params file.

    Args:
        path: The file.
        stages: Names of sections that must be present if `dvc.yaml` is beside the file, because
            DVC requires them.

    Raises:
        ParamsError: the file is missing or not YAML, a key is unknown, or a type or value is wrong;
            the message gives the key's path.
    """
    return _checked(path, _read(path), stages)


def of(sections: Params | Mapping[str, Any]) -> Params:
    """Check params from a program: sections as in params.yaml, or config objects.

    Raises:
        ParamsError: as `load`.
    """
    sections = vars(sections) if isinstance(sections, Params) else sections
    document = {key: _plain(section) for key, section in sections.items()}
    return _checked(Path("params"), document, ())


def _plain(section: Any) -> Any:
    """A copy of a section in the form that YAML gives; a copy, because checking changes it."""
    if dataclasses.is_dataclass(section) and not isinstance(section, type):
        return dataclasses.asdict(section)
    if isinstance(section, Mapping):
        return {key: _plain(value) for key, value in section.items()}
    if isinstance(section, list | tuple):
        return [_plain(value) for value in section]
    return os.fspath(section) if isinstance(section, os.PathLike) else section


def _checked(path: Path, document: Any, stages: Collection[str]) -> Params:
    _check_sections(path, document, stages)
    _expand_homes(path, document)
    try:
        params = _validated(document)
    except (TypeError, ValueError) as error:
        if not isinstance(error, pydantic.ValidationError):
            fact = f"{error}; use finite numbers, strings, lists and maps"
            raise ParamsError(f"{path}: {fact}") from None
        raise ParamsError(f"{path}: " + "; ".join(_complaints(error, document))) from None
    _check_names(path, params)
    return params


def _validated(document: Any) -> Params:
    """Params from a document. A number in the place of a text is read as the text in the file."""
    try:
        return _adapter().validate_json(json.dumps(document, allow_nan=False), strict=True)
    except pydantic.ValidationError as error:
        faults = error.errors(include_url=False)
        texts = [fault["loc"] for fault in faults if fault["type"] == "string_type"]
        changed = [_as_written(document, location) for location in texts]
        if not any(changed):
            raise
    return _adapter().validate_json(json.dumps(document, allow_nan=False), strict=True)


def _as_written(document: Any, location: tuple[int | str, ...]) -> bool:
    """Replace a number by its text in the file. Returns whether there was a number."""
    *parents, key = location
    try:
        for parent in parents:
            document = document[parent]
        document[key] = document[key].text
    except (LookupError, TypeError, AttributeError):  # not a number, or a location in pydantic
        return False
    return True


def _read(path: Path) -> Any:
    try:
        return bounded_yaml.read(path) or {}
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; {_elsewhere(path)}") from None
    except bounded_yaml.UnusableYamlError as error:
        raise ParamsError(f"{path}: {error}") from None


def _elsewhere(path: Path) -> str:
    """What helps where a params file is not there: the pipeline around the place, or a new one."""
    for above in path.absolute().parents[1:]:
        if (above / path.name).is_file() and (above / "dvc.yaml").is_file():
            return f"run in {above}, which has one"
    return "run in the directory of params.yaml, or make one here with `cryobase init`"


def _expand_homes(path: Path, document: Any) -> None:
    """Replace `~` and `~user` by home directories in every path."""
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


def _complaints(error: pydantic.ValidationError, document: Any) -> Iterator[str]:
    """One complaint per key; a union's members complain together of what none of them takes."""
    faults: dict[tuple[int | str, ...], list[Any]] = {}
    inside = set[tuple[int | str, ...]]()
    for fault in error.errors(include_url=False):
        place = _place(document, fault)
        faults.setdefault(place, []).append(fault)
        inside.update(place[:depth] for depth in range(len(place)))
    for place, (fault, *others) in faults.items():
        if place in inside and len(fault["loc"]) > len(place):  # another member read further
            continue
        path = ".".join(map(str, place)) or "the document"
        if fault["type"] == "unexpected_keyword_argument":
            keys = sorted(_valid_keys(fault["loc"][:-1]))
            yield f"{path}: unknown key; valid here: {', '.join(keys)}"
        elif fault["type"] == "value_error" and isinstance(fault["input"], dict):
            yield _own_complaint(path, str(fault["ctx"]["error"]), fault["input"])
        else:
            yield f"{path}: {_expected([fault, *others])}, not {fault['input']!r:.60}"


def _place(document: Any, fault: Any) -> tuple[int | str, ...]:
    """The keys that lead to a fault, without pydantic's names for the members of a union."""
    place: list[int | str] = []
    for part in fault["loc"]:
        if fault["type"] != "missing" and document == fault["input"]:
            break
        if isinstance(document, dict):
            document = {str(key): value for key, value in document.items()}
        try:
            document = document[part]
        except (LookupError, TypeError):  # a union's member, or the key that is missing
            continue
        place.append(part)
    return (*place, *(fault["loc"][-1:] if fault["type"] == "missing" else ()))


def _expected(faults: list[Any]) -> str:
    """What was expected in one place, in the words of params: pydantic's are those of JSON."""
    messages = [fault["msg"].removeprefix("Value error, ") for fault in faults]
    first, *others = dict.fromkeys(JSON_WORDS.get(message, message) for message in messages)
    either = [first, *(other.removeprefix("Input should be ") for other in others)]
    return f"{first[0].lower()}{' or '.join(either)[1:]}"


def _own_complaint(path: str, message: str, section: Mapping[str, Any]) -> str:
    """The message of a section's own check, `key: expectation`, with the actual value added."""
    key, _, expected = message.partition(": ")
    if not key.isidentifier() or not expected:
        return f"{path}: {message}"
    found = f", not {section[key]!r:.60}" if key in section and ", not " not in expected else ""
    return f"{path}.{key}: {expected}{found}"


def _valid_keys(location: tuple[int | str, ...]) -> set[str]:
    """The field names of the dataclass(es) at a location such as `extract.sets.a`."""
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
    """Whether the annotation itself mentions a dataclass, not only one of its fields."""
    return hint is found or any(_direct(argument, found) for argument in typing.get_args(hint))


def _check_sections(path: Path, document: Any, stages: Collection[str]) -> None:
    """Refuse sections at which DVC would stop, or which it would ignore; messages name the keys.

    DVC has defaults only for names (`vars` of dvc.yaml). All keys that a stage depends on must be
    in the file.
    """
    if not isinstance(document, dict):
        raise ParamsError(f"{path}: sections are expected, not {str(document)[:60]!r}")
    for key in ("extract.sets", "train.pairs", "train.foreign", "finetune.runs", *document):
        if _at(document, str(key)) is None and _has(document, str(key)):
            raise ParamsError(f"{path}: {key}: empty; write its keys, or leave it out")
    for table in NAMED:
        names = _at(document, table)
        for name in names if isinstance(names, dict) else ():
            if not isinstance(name, str):
                number = isinstance(name, int | float) and not isinstance(name, bool)
                kind = "nothing" if name is None else "a number" if number else "true or false"
                raise ParamsError(
                    f"{path}: {table}.{name}: a name is text, and in YAML this is {kind}, which DVC"
                    f" makes no stage of; {NAMES_ARE}"
                )
    if path.with_name("dvc.yaml").exists():
        needed = TRACKED | (TRACKED_WITH_SETS if _at(document, "extract.sets") else {})
        for key, line in needed.items():
            if key.partition(".")[0] in stages and not _has(document, key):
                raise ParamsError(
                    f"{path}: {key}: missing, and stages of dvc.yaml depend on it; write `{line}`"
                )


def _has(document: dict[str, Any], key: str) -> bool:
    head, _, rest = key.partition(".")
    inner = document.get(head)
    return head in document and (not rest or (isinstance(inner, dict) and _has(inner, rest)))


def _at(document: dict[str, Any], key: str) -> Any:
    head, _, rest = key.partition(".")
    inner = document.get(head)
    return _at(inner, rest) if rest and isinstance(inner, dict) else None if rest else inner


def _check_names(path: Path, params: Params) -> None:
    """Refuse names that cannot be a directory, a stage and a key of DVC at the same time."""
    tables: dict[str, Mapping[str, Any]] = {
        "extract.sets": params.extract.sets,
        "train.heads": params.train.heads,
        "train.pairs": params.train.pairs,
        "train.foreign": params.train.foreign,
        "finetune.runs": params.finetune.runs,
    }
    for key, table in tables.items():
        seen: dict[str, str] = {}
        for name in table:
            if not NAME.fullmatch(name) or name in TAKEN or DEVICES.fullmatch(name):
                raise ParamsError(
                    f"{path}: {key}.{visible(name)[:80]}: not a usable name; {NAMES_ARE}"
                )
            if (other := seen.setdefault(name.lower(), name)) != name:
                raise ParamsError(
                    f"{path}: {key}.{name}: {other} is there too, and one directory for both where"
                    " case does not count; rename one of them"
                )
    _check_pairs(path, params)
    _check_runs(path, params)


def _check_runs(path: Path, params: Params) -> None:
    heads = expand(params.train.heads)
    for name, run in params.finetune.runs.items():
        if run.start != "head":
            continue
        for key, known in (("set", params.extract.sets), ("head", heads)):
            if (asked := getattr(run, key)) not in known:
                raise ParamsError(
                    f"{path}: finetune.runs.{name}.{key}: no {key} {visible(asked)[:80]!r};"
                    f" known: {', '.join([*known][:20]) or 'none'}"
                )


def _check_pairs(path: Path, params: Params) -> None:
    sets = {**dict.fromkeys(params.extract.sets), **dict.fromkeys(params.train.foreign)}
    for name in params.train.foreign:
        if name in params.extract.sets:
            where = f"{path}: train.foreign.{name}"
            raise ParamsError(f"{where}: extract.sets has this name too; rename one of them")
    for name, pair in params.train.pairs.items():
        where = f"{path}: train.pairs.{name}"
        if name in sets:
            other = "extract.sets" if name in params.extract.sets else "train.foreign"
            raise ParamsError(f"{where}: {other} has this name too; rename one of them")
        if unknown := [one for one in pair if one not in sets]:
            known = ", ".join(sets) or "none"
            raise ParamsError(f"{where}: no set {visible(unknown[0])[:80]!r}; known: {known}")


def one_or_all(table: Mapping[str, Any], name: str | None, key: str) -> list[str]:
    """The names to work on: all keys of a table, or only the given name.

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

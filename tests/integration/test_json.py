"""Every JSON document has the keys and types that docs/json.md gives, and no others."""

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cryobase.pipeline import dvc_status, predictions
from cryobase.pipeline.cli import app
from cryobase.stages import finetune as finetune_stage
from cryobase.stages import ladder as ladder_stage
from cryobase.stages.tuning.cached_trunk import Place
from tests.integration.remedies.situations import PARAMS, write_params
from tests.integration.store_checkout import cryobase, make_and_run, work_in_copy

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/json.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([^`]+)` \| ([a-z ]+) \| *(.*?) *\|$", re.MULTILINE)
TYPES = {
    "text": (str,),
    "integer": (int,),
    "number": (int, float),
    "list": (list,),
    "object": (dict,),
    "true or false": (bool,),
    "null": (type(None),),
    "any": (object,),
}
SECTIONS = {
    title: {key: (kind, "sometimes" in words) for key, kind, words in ROW.findall(text)}
    for title, text in re.findall(
        r"^## `([^`]+)`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
}
RUN = {  # what is typed for each, with --json at its end
    "store show": "store show small",
    "store diff": "store diff small small",
    "store why": "store why small",
    "heads plan": "heads plan small",
    "heads evidence": "heads evidence small",
    "recipe show": "recipe show keras-book-mnist",
    "recipe show --counts": "recipe show keras-book-mnist --counts",
    "predict": "predict images --model models/small/weak",
    "ladder": "ladder small",
    "finetune --plan": "finetune --plan",
}
WITH_KEYS = {"source", "total"}  # objects whose keys are on the page; those of others are names


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    commands = ("split", "extract", "train", "evaluate")
    return make_and_run(tmp_path_factory.mktemp("made"), PARAMS, *commands)


@pytest.fixture
def place(made, quick_path, monkeypatch):
    """A copy of it, where commands that would need Keras get what their stage returns."""
    work_in_copy(made, quick_path, monkeypatch)
    rungs = [
        ladder_stage.Rung(rung="nothing", accuracy=0.5, at_frozen_seconds=None, seconds=2.5),
        ladder_stage.Rung(rung="frozen", accuracy=0.75, at_frozen_seconds=0.5, seconds=2),
    ]
    monkeypatch.setattr(ladder_stage, "run", lambda *_, **__: rungs)
    cut = dataclasses.asdict(
        Place(layer="block5_pool", bytes=12, speedup=1.5, break_even=float("inf"))
    )
    rows = [
        {"phase": 1, **cut, "taken": ""},
        {"phase": 1, **cut, "break_even": 2.0, "taken": "yes"},
    ]
    monkeypatch.setattr(finetune_stage, "plan", lambda *_, **__: rows)
    found = [predictions._row(Path("a.jpg"), [("cat", 0.5)]), {"file": "b.jpg", "reason": "empty"}]
    answers = predictions.Answers("models/small/weak", found)
    monkeypatch.setattr(predictions, "of_head", lambda *_, **__: answers)
    return quick_path


def keys_of(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of an object, as the page writes them: `shards[].name`."""
    for key, one in value.items():
        yield prefix + key, one
        if isinstance(one, dict) and prefix + key in WITH_KEYS:
            yield from keys_of(one, f"{prefix}{key}.")
        for inner in one if isinstance(one, list) else ():
            if isinstance(inner, dict):
                yield from keys_of(inner, f"{prefix}{key}[].")


def is_of(value: Any, kind: str) -> bool:
    names = kind.split(" or ") if kind not in TYPES else [kind]
    types = tuple(one for name in names for one in TYPES[name])
    return isinstance(value, types) and (
        not isinstance(value, bool) or bool in types or object in types
    )


def check(title: str, document: Any) -> None:
    """Each key is on the page with its type; what is on the page is there, unless *sometimes*."""
    told, seen = SECTIONS[title], set()
    rows = document if isinstance(document, list) else [document]
    for row in rows:
        found = list(keys_of(row))
        for key, value in found:
            assert key in told, f"{title}: {key} is not on the page"
            assert is_of(value, told[key][0]), f"{title}: {key}: {value!r} is no {told[key][0]}"
        always = {key for key, (_, rare) in told.items() if not rare and "[]" not in key}
        assert always <= {key for key, _ in found}
        seen |= {key for key, _ in found}
    missing = {key for key, (_, rare) in told.items() if not rare} - seen
    assert not missing, f"{title}: on the page, but not printed: {missing}"


@pytest.mark.parametrize("title", SECTIONS)
def test_what_is_printed_is_what_the_page_says(place, monkeypatch, title):
    if title == "store gc":
        (pool,) = Path(".cryobase/pool").glob("*/")
        leftover = pool / f"shard-{'0' * 64}.h5"
        leftover.write_bytes(b"x")
        os.utime(leftover, (0, 0))
    if title == "store why":
        code, text = cryobase("store", "why", "small", "--json")
        assert (code, json.loads(text)) == (0, [])
        sets = {"small": PARAMS["extract"]["sets"]["small"] | {"image_size": 64}}
        write_params(PARAMS | {"extract": {"sets": sets}})
    if title == "status":
        monkeypatch.setattr(dvc_status, "in_repository", lambda _: True)
        monkeypatch.setattr(dvc_status, "ask", lambda _: {"split": ["split: modified"]})
    if title == "finetune --plan":
        run = {"set": "small", "head": "weak", "epochs": 1}
        write_params(PARAMS | {"finetune": {"runs": {"ft": run}}})
    code, text = cryobase(*RUN.get(title, title).split(), "--json")
    assert code == 0, text
    check(title, json.loads(text, parse_constant=pytest.fail))


def test_a_key_that_is_not_on_the_page_or_of_another_type_is_seen():
    row = {"path": "a", "removed": True}
    check("store gc", [row])
    for wrong in ({**row, "more": 1}, {"path": "a"}, {**row, "removed": 1}, {**row, "path": None}):
        with pytest.raises(AssertionError):
            check("store gc", [wrong])


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, f"{name} ")
        else:
            yield prefix + name, one


def test_every_command_with_json_has_a_section_and_every_section_a_command():
    found = {
        name
        for name, one in commands(get_command(app))
        if any("--json" in p.opts for p in one.params)
    }
    assert found == {title.partition(" --")[0] for title in SECTIONS}
    assert len(found) >= 14


def test_json_of_finetune_goes_with_plan(place):
    assert cryobase("finetune", "--json")[0] == 2

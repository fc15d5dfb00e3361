"""Completion at the tab key: names of sets, heads, runs, recipes and bases.

Names are read from `params.yaml` and from directories, without checks, so that no large library is
loaded while the user waits. A completed name becomes part of a command line, so names with
characters that a shell interprets are not offered.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,254}")
RECIPES = Path(__file__).with_name("recipes")
SET_TABLES = ("extract.sets",)
INPUT_TABLES = ("extract.sets", "train.pairs", "train.foreign")


def sets(incomplete: str) -> list[str]:
    """Feature sets, of params and published."""
    return _beginning(incomplete, _keys(*SET_TABLES), _published())


def inputs(incomplete: str) -> list[str]:
    """Feature sets and pairs, on which heads are trained."""
    return _beginning(incomplete, _keys(*INPUT_TABLES), _directories("models"))


def heads(ctx: typer.Context, incomplete: str) -> list[str]:
    """Heads of the set that the command line names before; of a grid, the trained heads."""
    name = str(ctx.params.get("name") or "")
    trained = _directories(f"models/{name}") if PLAIN.fullmatch(name) else ()
    return _beginning(incomplete, trained, _keys("train.heads"))


def models(incomplete: str) -> list[str]:
    """Trained heads and fine-tuned models, as `predict --model` takes them."""
    found = [f"tuned/{run}" for run in _directories("tuned")]
    for name in _directories("models"):
        found += [f"models/{name}/{head}" for head in _directories(f"models/{name}")]
    return sorted(one for one in found if one.startswith(incomplete))


def runs(incomplete: str) -> list[str]:
    """Runs of fine-tuning."""
    return _beginning(incomplete, _keys("finetune.runs"))


def recipes(incomplete: str) -> list[str]:
    """Recipes of this installation."""
    return _beginning(incomplete, (path.stem for path in RECIPES.glob("*.yaml")))


def backbones(incomplete: str) -> list[str]:
    """Bases of the table."""
    from cryobase.stages.backbones.table import BACKBONES

    return _beginning(incomplete, BACKBONES)


def _beginning(incomplete: str, *names: Iterable[str]) -> list[str]:
    """The names without special characters that begin with what the user has typed."""
    found = {name for some in names for name in some if PLAIN.fullmatch(name)}
    return sorted(name for name in found if name.startswith(incomplete))


def _keys(*tables: str) -> Iterator[str]:
    """The keys of some tables of params.yaml; nothing if it cannot be read."""
    from cryobase.pipeline import bounded_yaml

    try:
        document: Any = bounded_yaml.read(Path("params.yaml"))
    except (OSError, bounded_yaml.UnusableYamlError):
        return
    for table in tables:
        inner = document
        for key in table.split("."):
            inner = inner.get(key) if isinstance(inner, dict) else None
        yield from (str(key) for key in inner) if isinstance(inner, dict) else ()


def _published() -> Iterator[str]:
    return (path.parent.name for path in Path("features").glob("*/manifest-*.json"))


def _directories(place: str) -> Iterator[str]:
    """The names of directories in a place, without hidden ones."""
    try:
        names = [path.name for path in Path(place).iterdir() if path.is_dir()]
    except OSError:
        return
    yield from filter(PLAIN.fullmatch, names)

"""Hostile names in params.yaml: the real `dvc repro` runs, creates and deletes nothing for them."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import product

import pytest
from ruamel.yaml import YAML

from cryobase.pipeline.layout import PER_NAME
from tests.e2e.conftest import ROOT, SMALL, Project, clone
from tests.scale import RUN_ALL

pytestmark = pytest.mark.e2e

NAMES = [  # {root} is the checkout's directory
    "x; touch pwned #",
    "x\ntouch pwned",
    "x'; touch pwned; '",
    "`touch pwned`",
    "$(touch pwned)",
    "| touch pwned",
    ">pwned",
    "--help",
    "..",
    "../../victim",
    "../stages",
    "../data",
    "../.git",
    "../stages/heads",
    "a/../../stages",
    "../../../../../../../../../../../../../../../..{root}/stages",
    "../../../../../../../../../../../../../../../..{root}/../victim/stages/x",
    "../../../../../../../../../../../../../../../..{root}/../victim/.cryobase-stages/x",
    "../../../../../../../../../../../../../../../..{root}/.cryobase-stages/x",
    "../../victim/.cryobase-stages/x",
    "../../victim/.cryobase-stages/names_are_no_paths.yaml",
    "../../victim/.cryobase-stages/y/z",
    "../../../../../../../../../../../../../../../..{root}/../victim/.cryobase-stages/y/z",
    "../.cryobase-stages/names_are_no_paths.yaml",
    "../.cryobase-stages/x",
    "{root}/stages",
    "{root}/.cryobase-stages/x",
    "../../checkout/stages/heads",
    "../../checkout/.cryobase-stages/x",
    " blank ",
    "",
    "ünï ✓",
    "${extract.sets}",
    "x@y",
    "x:extract@fine",
    "n" * 300,
    "bell\x07",
    "con",
    "none",
]
NAMES += RUN_ALL * [
    'x"; touch pwned; "',
    "&touch pwned&",
    "-rf",
    ".",
    "a/b",
    "{root}/../victim",
    "\\${key}",
    "nul\x00",
    ".git",
    "*",
    "~",
    "tuned",
    "x.dvc",
    "dvc.yaml",
    "1.5",
    "64",
]

# In one process, because a start of DVC takes longer than its refusal.
SCRIPT = """
import json, os, sys
from pathlib import Path
from dvc.cli import main

root = Path.cwd()
MINE = (root / ".dvc" / "tmp", root / ".dvc" / "cache")

def seen():
    found = {}
    for top, folders, files in os.walk(root.parent):
        folders[:] = [name for name in folders if Path(top, name) not in MINE]
        for name in folders + files:
            status = os.lstat(os.path.join(top, name))
            found[os.path.join(top, name)] = (status.st_ino, status.st_size, status.st_mtime_ns)
        for name in folders:
            found[os.path.join(top, name)] = found[os.path.join(top, name)][0]
    return found

for line in sys.stdin:
    text, *commands = json.loads(line)
    Path("params.yaml").write_text(text)
    before = seen()
    for command in commands:
        code = main(command)
        after = seen()
        changed = sorted(k for k in {*before, *after} if before.get(k) != after.get(k))
        print("RESULT", json.dumps([command, code, changed]), flush=True)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Project:
    """A clone beside a folder of somebody's, in which nothing has run."""
    made = clone(tmp_path_factory.mktemp("names") / "checkout")
    victim = made.root.parent / "victim" / "stages"
    victim.mkdir(parents=True)
    (victim / "file").write_text("precious")
    shutil.copytree(made.root / PER_NAME, victim.parent / PER_NAME)  # a checkout, nearly
    (victim.parent / PER_NAME / "x").write_text("precious")
    (victim.parent / "file").write_text("precious")
    (made.root / "data" / "raw").mkdir(parents=True)
    (made.root / "data" / "raw" / "file").write_text("precious")
    return made


def params(kind: str, name: str) -> str:
    """A params file with one hostile name; JSON is YAML, and holds any text."""
    document = json.loads(json.dumps({"download": {"source": "sample"}, **SMALL}))
    one = document["extract"]["sets"]["small"]
    run = {"set": "small", "head": "linear", "epochs": 1}
    if kind == "set":
        document["extract"]["sets"] = {name: one}
    elif kind == "pair":
        document["train"]["pairs"] = {name: ["small", "small"]}
    elif kind == "foreign":
        document["train"]["foreign"] = {name: "dinov2@3f2a91c"}
    elif kind == "pair's set":
        document["train"]["pairs"] = {"both": ["small", name]}
    elif kind == "run":
        document["finetune"]["runs"] = {name: run}
    elif kind == "run's set":
        document["finetune"]["runs"] = {"ft": {**run, "set": name}}
    elif kind == "run's head":
        document["finetune"]["runs"] = {"ft": {**run, "head": name}}
    else:
        document["train"]["heads"][name] = {"kind": "linear"}
    return json.dumps(document)


FORCED = {  # their outputs have the name
    "set": "extract",
    "pair": "train_pair",
    "foreign": "train_foreign",
    "run": "finetune",
}
WHOLE = ("set", "pair", "run")  # no output has the others' names, or stages made as a pair's do


@pytest.mark.parametrize(
    "kind", ["set", "pair", "foreign", "pair's set", "run", "run's set", "run's head", "head"]
)
def test_a_hostile_name_runs_creates_and_deletes_nothing(checkout, kind):
    names = [name.format(root=checkout.root) if "{root}" in name else name for name in NAMES]
    if kind not in WHOLE and not RUN_ALL:
        names = random.Random(kind).sample(names, len(names) // 3)
    forced = [["repro", "--force", "--single-item", FORCED[kind]]] if kind in FORCED else []
    lines = [json.dumps([params(kind, name), ["repro"], *forced]) for name in names]
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input="\n".join(lines),
        cwd=checkout.root,
        env=checkout.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    found = [json.loads(line[7:]) for line in result.stdout.splitlines() if line[:7] == "RESULT "]
    assert len(found) == len(lines) * (1 + len(forced)), result.stderr[-2000:]
    asked = [name for name in names for _ in range(1 + len(forced))]
    for name, (command, code, changed) in zip(asked, found, strict=True):
        assert not changed, (name, command)
        assert code != 0, (name, command)


@pytest.mark.parametrize("name", ["../../victim", "x; touch pwned #"])
def test_an_experiment_with_a_hostile_name_is_refused(checkout, name):
    checkout.run("git", "checkout", "-q", ".")
    change = json.dumps({name: {"backbone": "efficientnet_lite0"}})
    output = checkout.run("dvc", "exp", "run", "-S", f"+extract.sets={change}", check=False)
    assert "ERROR" in output
    assert (checkout.root.parent / "victim" / "file").exists()
    assert not list(checkout.root.rglob("pwned"))


def stages_per_name() -> Iterator[tuple[str, list[str]]]:
    """`wdir` and outputs of each stage that is made per name; commands have no text of params."""
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    for stage in (entry.get("do", entry) for entry in stages.values()):
        assert "$" not in stage["cmd"]
        outputs = [*stage.get("outs", ()), *stage.get("metrics", ()), *stage.get("plots", ())]
        if any("$" in json.dumps(output) for output in outputs):
            assert stage["wdir"] == f"{PER_NAME}/${{key}}/${{key}}/../.."
            assert stage["vars"] == ["names_are_no_paths.yaml"]
            assert not [output for output in outputs if "${item" in json.dumps(output)]
            yield stage["wdir"], outputs


# All are checkouts of Cryobase; others may lie anywhere.
MINE = "/r/q/mine"
OTHERS = ("/r/q/other", "/r/other", "/r", "/other", "/r/q/mine/mine", "/r/q/other/other")
WORDS = (PER_NAME, "mine", "other", "q", "features", "x", "names_are_no_paths.yaml")


def climbing(up: int, down: int) -> Iterator[str]:
    """Names of up to so many steps up and down."""
    for steps, length in product(range(up + 1), range(down + 1)):
        for words in product(WORDS, repeat=length):
            yield "/".join((*[".."] * steps, *words))


def test_no_name_leads_to_an_output_that_another_checkout_has():
    """What DVC removes before a stage runs, where `names_are_no_paths.yaml` lies for that stage."""
    marked = {f"{root}/{PER_NAME}" for root in (MINE, *OTHERS)}
    loaded = 0
    for wdir, outputs in stages_per_name():
        for name in climbing(4, 4):
            place = os.path.normpath(f"{MINE}/{wdir.replace('${key}', name)}")
            if place not in marked:
                continue
            for output in outputs:
                path = os.path.normpath(f"{place}/{output.replace('${key}', name)}")
                loaded += 1
                if place == f"{MINE}/{PER_NAME}" and name in WORDS:
                    assert path.startswith(f"{MINE}/")  # a plain name
                elif not path.startswith(f"{MINE}/{PER_NAME}/"):  # .dvcignore refuses these
                    assert re.search(f"/{PER_NAME}/[^/]+/", path), (name, path)
    assert loaded > 100

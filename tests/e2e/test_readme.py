"""Every command of the README, run in the README's order in a fresh clone, on small images."""

import re
import stat
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from cryobase.pipeline.cli import app
from tests.e2e.conftest import ROOT, SMALL, Project, clone
from tests.images import write_folder

pytestmark = pytest.mark.e2e

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)

# What a block must leave behind, found by a word of the block.
LEAVES = {
    "make repro": "models/lite0-160/linear/head.json",
    "cryobase init": "../own/report/index.html",
    "predict": "results/lite0-160/metrics.json",
    "git clone": "../colleague/results/lite0-160/metrics.json",
}


@pytest.fixture(scope="module")
def readme(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone whose images and features are small, and whose installers do nothing."""
    made = clone(tmp_path_factory.mktemp("readme") / "project")
    images = write_folder(made.root.parent / "images", 20)
    made.params(  # the rest is as it is shipped: what `-S` overrides must be there
        download={"source": "folder", "path": str(images)},
        split=SMALL["split"],
        extract={"sets": {"lite0-160": SMALL["extract"]["sets"]["small"]}},
    )
    write_folder(made.root / "photos", 1)
    made.commit()
    made.repro()
    return made


def run_block(project: Project, block: str) -> str:
    """Run a block as a shell does; environments are not built again and tests do not nest."""
    stub = project.root.parent / "bin" / "pip"
    stub.parent.mkdir(exist_ok=True)
    stub.write_text("#!/bin/sh\nexit 0\n")
    stub.chmod(stub.stat().st_mode | stat.S_IEXEC)
    script = block.replace("make repro", "make -o .venv/.installed -o env repro")
    script = re.sub(r"^make (test|docs)\b.*$", r"make -n \1", script, flags=re.MULTILINE)
    place = own_folder(project) if "cryobase init" in block else project
    return place.run("bash", "-ec", f'export PATH="{stub.parent}:$PATH"\n{script}')


def own_folder(project: Project) -> Project:
    """A folder that has photographs and nothing else."""
    own = Project(project.root.parent / "own")
    write_folder(own.root / "photos", 10)
    return own


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_readme_works(readme, number):
    block = BLOCKS[number]
    run_block(readme, block)
    for word, path in LEAVES.items():
        if word in block:
            assert (readme.root / path).exists(), path


def test_the_colleague_never_had_the_images(readme):
    colleague = readme.root.parent / "colleague"
    assert (colleague / "features" / "lite0-160").exists()
    assert not (colleague / "data" / "raw").exists()


def test_an_edit_of_another_head_tunes_nothing(readme):
    readme.params(finetune={"runs": {"ft": {"set": "lite0-160", "head": "mlp", "epochs": 1}}})
    assert "finetune@ft" in readme.repro()
    heads = YAML(typ="safe").load(readme.root / "params.yaml")["train"]["heads"]
    heads["linear"]["learning_rate"] = 0.03
    readme.params(train={"heads": heads})
    ran = readme.repro()
    assert "train@lite0-160" in ran
    assert "finetune@ft" not in ran
    table = (readme.root / "results/tuned/ft/comparison.csv").read_text()
    assert {line.split(",")[0] for line in table.splitlines()[1:]} == {"start", "tuned"}


def test_every_block_that_must_leave_something_exists():
    for word in LEAVES:
        assert any(word in block for block in BLOCKS), word


def test_extras_that_are_named_exist():
    declared = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r"cryobase\[([a-z,-]+)\]", README)
    assert named
    for extras in named:
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", declared, flags=re.MULTILINE), extra


def test_every_command_is_in_the_docs():
    text = README + "".join(path.read_text() for path in Path(ROOT / "docs").glob("*.md"))
    for name in get_command(app).commands:
        assert re.search(rf"`(cryobase )?{name}\b|cryobase {name}\b", text), name

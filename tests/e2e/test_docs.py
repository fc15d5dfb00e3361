"""Every block of code of every page runs: in a checkout with small images, page by page.

The tutorial and the notebooks run whenever the pages are built (`make docs`), the README in
`test_readme.py`.
"""

import importlib.util
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from cryobase.pipeline import params
from tests.e2e.conftest import ROOT, SMALL, Project, clone
from tests.images import write_folder

pytestmark = pytest.mark.e2e

DOCS = ROOT / "docs"
_spec = importlib.util.spec_from_file_location("walk", DOCS / "walk.py")
assert _spec is not None
assert _spec.loader is not None
walk = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(walk)

PAGES = sorted(
    str(path.relative_to(DOCS))
    for path in (*DOCS.glob("*.md"), *DOCS.glob("tutorials/*.md"), *DOCS.glob("adr/*.md"))
)
PARAMS = {**SMALL, "extract": {"sets": {"lite0-160": SMALL["extract"]["sets"]["small"]}}}
TUTORIAL = "tutorial.md"
ELSEWHERE = {  # page, first words of a block -> what runs it
    ("format.md", '"""Read a Cryobase'): "tests/integration/test_store_format.py",
    ("heads.md", "cryobase train --scheduler-file"): "tests/integration/test_cli_train.py",
}
# What a block is part of, where it is not the whole of anything.
AROUND = {
    ("backbones.md", '"resnet101"'): (
        "from cryobase.stages.backbones.table import KERAS, Backbone\nROWS = {{\n{block}}}"
    ),
    ("heads.md", "def train("): "from __future__ import annotations\n{block}",
    ("recipes.md", "cryobase finetune"): (
        "sed -i 's/runs: {{}}/runs: {{ft: {{set: lite0-160, head: linear}}}}/' params.yaml\n{block}"
    ),
    ("store.md", "cryobase store import"): (
        "mkdir ../foreign && cp dino.npz ../foreign && cd ../foreign\n{block}"
    ),
    ("store.md", "import numpy"): (
        "import numpy as random_numpy\n"
        "vectors = random_numpy.random.default_rng(0).normal(size=(30, 8))\n"
        "names = [f'{{k:02}}' for k in range(30)]\nclasses = ['a', 'b', 'c'] * 10\n{block}"
    ),
}


def found(table: dict[tuple[str, str], str], page: str, text: str) -> str | None:
    for (name, start), value in table.items():
        if name == page and text.startswith(start):
            return value
    return None


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone with small images, features of the default name and heads, committed to Git."""
    made = clone(tmp_path_factory.mktemp("docs") / "project")
    images = write_folder(made.root.parent / "images", 20)
    made.params(  # the rest is as it is shipped: what `-S` overrides must be there
        download={"source": "folder", "path": str(images)},
        split=PARAMS["split"],
        extract=PARAMS["extract"],
    )
    write_folder(made.root / "photos", 1)
    made.commit()
    made.repro("train")
    made.repro("evaluate")
    made.run("git", "add", "dvc.lock")
    made.run("git", "commit", "-qm", "features")
    return made


@pytest.mark.parametrize("page", [page for page in PAGES if page != TUTORIAL])
def test_the_code_of_a_page_runs(page, request, tmp_path):
    text = (DOCS / page).read_text(encoding="utf-8")
    for block in walk.blocks(text):
        if block.language == "yaml":
            check_params(block.text, tmp_path / "params.yaml")
        elif block.language in {"sh", "python"} and not found(ELSEWHERE, page, block.text):
            around = found(AROUND, page, block.text) or "{block}"
            code = around.format(block=block.text)
            project = request.getfixturevalue("checkout")
            project.run("git", "checkout", "-q", "params.yaml")
            if "recipe use" in code:  # which test_recipes_smoke.py runs to the end
                code = code.replace("dvc repro", "dvc repro --dry --force")
            walk.run(walk.Block(block.language, code, 0), project.root)
        else:
            assert block.language in {"sh", "python", "text"}, block


def check_params(text: str, path: Path) -> None:
    """It may stand in `params.yaml`; where it has a section twice, each of them may."""
    sections = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    names = [section.partition(":")[0] for section in sections]
    for part in [text] if len({*names}) == len(names) else sections:
        with path.open("w") as file:
            YAML().dump({**PARAMS, **YAML(typ="safe").load(part)}, file)
        params.load(path)


def test_what_runs_elsewhere_exists():
    for (page, start), where in (*ELSEWHERE.items(), *AROUND.items()):
        texts = [block.text for block in walk.blocks((DOCS / page).read_text(encoding="utf-8"))]
        assert any(text.startswith(start) for text in texts), (page, start)
        assert "{block}" in where or (ROOT / where).exists()


def test_a_block_that_fails_is_an_error(tmp_path):
    (tmp_path / "root").mkdir()
    for block in walk.blocks("```sh\ntrue\nfalse\ntrue\n```\n\n  ```python\n  1 / 0\n  ```\n"):
        with pytest.raises(walk.BlockError, match=r"exit 1 of"):
            walk.run(block, tmp_path / "root")
    page = "a\n```sh\necho $((6 * 7))\n```\nb\n```text\nno\n```\n"
    told = walk.told(page, tmp_path / "root")
    assert told == "a\n```sh\necho $((6 * 7))\n```\n\n```text\n42\n```\nb\n```text\nno\n```\n"

"""Pages whose code is run: their blocks, and what these say when they are run in order.

`conf.py` walks through the tutorial whenever the pages are built, so that what it shows is what
happened; `tests/e2e/test_docs.py` walks through the others.
"""

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
QUIET = {
    "DVC_NO_ANALYTICS": "1",
    "NO_COLOR": "1",
    "GIT_AUTHOR_NAME": "A reader",
    "GIT_AUTHOR_EMAIL": "reader@example.org",
    "GIT_COMMITTER_NAME": "A reader",
    "GIT_COMMITTER_EMAIL": "reader@example.org",
}
SHOWN = 30  # lines of an output, the last ones
WIDTH = 110


class BlockError(RuntimeError):
    """A block of a page does not work."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text, and where it ends in the page."""

    language: str
    text: str
    end: int


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page that name a language, in order."""
    for found in FENCE.finditer(page):
        yield Block(found[2], textwrap.dedent(found[3]), found.end())


def run(block: Block, directory: Path) -> str:
    """What a block of shell or Python prints when it runs in a directory.

    Nothing is installed: the packages are those of this Python.

    Raises:
        BlockError: it fails.
    """
    programs = directory.parent / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "pip").write_text("#!/bin/sh\n")
    (programs / "pip").chmod(0o755)
    path = os.pathsep.join((str(programs), str(Path(sys.executable).parent), os.environ["PATH"]))
    command = ["bash", "-euc"] if block.language == "sh" else [sys.executable, "-c"]
    done = subprocess.run(
        [*command, block.text],
        cwd=directory,
        env={**os.environ, "PATH": path, **QUIET},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BlockError(f"exit {done.returncode} of\n{block.text}\n{done.stdout}")
    return done.stdout


def told(page: str, directory: Path) -> str:
    """A page with the end of each block's output below it, after running all of them in order."""
    parts, last = [], 0
    for block in blocks(page):
        parts.append(page[last : block.end])
        last = block.end
        if block.language in {"sh", "python"}:
            parts.append(_shown(run(block, directory), directory))
    return "".join((*parts, page[last:]))


def _shown(output: str, directory: Path) -> str:
    lines = [
        textwrap.shorten(line.replace(str(directory), "~/flowers"), WIDTH, placeholder=" …")
        if len(line) > WIDTH
        else line.replace(str(directory), "~/flowers")
        for line in output.splitlines()
        if line.strip()
    ]
    if not lines:
        return ""
    dots = ["…"] if len(lines) > SHOWN else []
    return "\n\n```text\n" + "\n".join([*dots, *lines[-SHOWN:]]) + "\n```"

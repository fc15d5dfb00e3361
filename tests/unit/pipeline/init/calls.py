"""Calls of `cryobase init` as a user makes them, and what they meet."""

import shlex
import subprocess
from pathlib import Path

from typer.testing import CliRunner

from cryobase.pipeline.cli import app

ROOT = Path(__file__).parents[4]
WRITTEN = {
    ".cryobase-stages/names_are_no_paths.yaml",
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
    "dvc.yaml",
    "features/none/README",
    "models/none/none/README",
    "params.yaml",
}
FOREIGN = "stages:\n  theirs:\n    cmd: python train.py\n"


HOSTILE = [
    'it\'s "quoted"',
    "two\nlines",
    "carriage\rreturn",
    "a: b",
    "# no comment",
    " # ",
    "${HOME} $(rm x) `ls`",
    "{brace} [bracket]",
    "&anchor",
    "*alias",
    "!tag",
    "%directive",
    "- dash",
    "-f",
    "? question",
    "| pipe",
    "null",
    "true",
    "0x10",
    "1.10",
    "2026-11-27",
    "~",
    "~root",
    "blank at the end ",
    "\ttab",
    "日本語 ünï",
    "👩‍🔬",
    "\u2028line\u0085end",
    "\ufeffmark",
    "\uffff",
    "\x7f\x1b[31m",
    "x" * 200,
]


def run(*arguments: str) -> str:
    """What `cryobase init` prints; the error that it raises."""
    result = CliRunner().invoke(app, ["init", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stderr + result.stdout


def obey(error: Exception) -> str:
    """Run the command that a message names, as a shell does; what `init` prints then."""
    output = ""
    for part in str(error).split("`")[1].split(" && "):
        words = shlex.split(part)
        if words[:2] == ["cryobase", "init"]:
            output = run(*words[2:])
        else:
            subprocess.run(words, check=True)
    return output


def contents(root: Path) -> dict[str, bytes]:
    """The files below a folder, but for Git's own and what DVC makes at every start."""
    return {
        name: path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not (name := str(path.relative_to(root))).startswith(".git/")
        if not name.startswith((".dvc/tmp", "photos/"))
    }

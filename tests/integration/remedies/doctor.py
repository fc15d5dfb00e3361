"""What `cryobase doctor` finds, and the commands that it names."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.images import write_folder
from tests.integration.remedies.situations import environment, execute, set_param, situation
from tests.integration.remedies.source import COMMAND, pattern


def obey_line(text: str) -> Callable[[str], None]:
    """Run the command that stands in one line of what the doctor says."""

    def work(said: str) -> None:
        line = next(line for line in said.splitlines() if pattern(text).search(line))
        execute(COMMAND.findall(line)[0])

    return work


def shell(command: str) -> None:
    subprocess.run(command, shell=True, check=True, env=environment(), timeout=100)


def repository(*commands: str, stages: bool = True) -> None:
    """A real Git repository in place of the fixture's empty folder, and a pipeline."""
    shutil.rmtree(".git")
    for command in commands:
        shell(command)
    if stages:
        Path("dvc.yaml").write_text("stages: {}\n")


INIT = "run `dvc init`"


@situation(INIT, probe="doctor", obey=obey_line(INIT))
def a_pipeline_in_git_without_dvc():
    repository("git init -q")


FILES = "run `cryobase init`"
GUARD = ".cryobase-stages/names_are_no_paths.yaml"


@situation(FILES, probe="doctor", obey=obey_line(FILES))
def a_pipeline_that_has_lost_its_stages():
    repository("git init -q", "dvc init -q", stages=False)
    Path(GUARD).parent.mkdir()
    Path(GUARD).write_text("{}\n")


@situation(FILES, probe="doctor", obey=obey_line(FILES))
def a_pipeline_whose_ignored_files_were_edited():
    a_pipeline_that_has_lost_its_stages()
    execute("cryobase init")
    Path(".dvcignore").write_text("# nothing\n")
    shutil.rmtree("models/none")


SUBDIR = "run `dvc init --subdir`"


@situation(SUBDIR, probe="doctor", obey=obey_line(SUBDIR))
def a_pipeline_below_the_root_of_git():
    repository("mkdir above", "git init -q above")
    shutil.copytree("images", "above/inner/images")
    for name in ("params.yaml", "dvc.yaml", "own.weights.h5"):
        shutil.copy(name, "above/inner")
    os.chdir("above/inner")


NO_SCM = "run `dvc init --no-scm`"


@situation(NO_SCM, probe="doctor", obey=obey_line(NO_SCM))
def a_pipeline_without_git():
    repository()


RELINK = (
    "run `dvc config --local cache.type hardlink,copy && dvc checkout --relink --allow-missing`"
)


@situation(RELINK, probe="doctor", obey=obey_line(RELINK))
def dvc_that_makes_symbolic_links():
    repository("git init -q", "dvc init -q", "dvc config cache.type symlink")


TYPE = "run `dvc config cache.type hardlink,copy`, which makes tracked files read-only"


@situation(TYPE, probe="doctor", obey=obey_line(TYPE))
def dvc_that_keeps_a_second_copy():
    repository("git init -q", "dvc init -q")


STAGE = "run `dvc config core.autostage true`"


@situation(STAGE, probe="doctor", obey=obey_line(STAGE))
def dvc_that_leaves_git_to_the_user():
    repository("git init -q", "dvc init -q", "dvc config cache.type hardlink,copy")


GIT = "run `dvc config core.no_scm false`"


@situation(GIT, probe="doctor", obey=obey_line(GIT))
def dvc_that_was_made_before_git():
    repository("dvc init -q --no-scm", "git init -q")


@situation(GIT, probe="doctor", obey=obey_line(GIT))
def dvc_that_was_made_below_git_without_it():
    repository("mkdir above")
    shutil.copytree("images", "above/inner/images")
    for name in ("params.yaml", "dvc.yaml", "own.weights.h5"):
        shutil.copy(name, "above/inner")
    os.chdir("above/inner")
    shell("dvc init -q --no-scm")
    shell("git init -q ..")


GIT_LOCAL = "run `dvc config --local core.no_scm false`"


@situation(GIT_LOCAL, probe="doctor", obey=obey_line(GIT_LOCAL))
def dvc_that_leaves_git_out_on_this_machine():
    repository("git init -q", "dvc init -q", "dvc config --local core.no_scm true")


LINKS = "run `find -H {} -type l ! -exec test -e {} \\; -exec rm {} +`"


@situation(LINKS, probe="doctor", obey=obey_line(LINKS))
def links_that_lead_nowhere():
    Path("images/red/a b.jpg").symlink_to("gone.jpg")
    Path("images/loop").symlink_to("loop")
    Path("images/sound.jpg").symlink_to(Path("params.yaml").resolve())


@situation(LINKS, probe="doctor", obey=obey_line(LINKS))
def links_in_a_folder_with_a_name_like_an_option():
    write_folder(Path("-P it's"), 1)
    Path("-P it's/gone.jpg").symlink_to("nowhere")
    set_param("download.path", "-P it's")


NAME = "run `mv -n {} {}`"


@situation(NAME, probe="doctor", obey=obey_line(NAME))
def a_name_in_latin_1():
    Path(os.fsdecode(b"images/red/caf\xe9 $(x) 100%.jpg")).write_bytes(b"x")


@situation(NAME, probe="doctor", obey=obey_line(NAME))
def a_name_with_quotes_in_a_folder_of_another_place():
    write_folder(Path("it's 100% \\n"), 1)
    Path(os.fsdecode(b"it's 100% \\n/\xe9'\"`.jpg")).write_bytes(b"x")
    set_param("download.path", "it's 100% \\n")


ABOVE = "rename the folders above it first"


def rename_folder(_: str) -> None:
    Path(os.fsdecode(b"images/caf\xe9")).rename("images/caf\u00e9")


@situation(ABOVE, probe="doctor", obey=rename_folder)
def a_folder_in_latin_1():
    folder = Path(os.fsdecode(b"images/caf\xe9"))
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"x")
    (folder / os.fsdecode(b"\xe9.jpg")).write_bytes(b"x")

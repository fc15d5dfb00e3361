"""What `init` does in a folder, as a difference or written.

Owns which files a pipeline needs (the table in docs/init.md), and when `dvc.yaml` and `params.yaml`
are left alone. Must not overwrite anything but a `dvc.yaml` that Cryobase wrote and nobody edited.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryobase.pipeline.dvc_stage import PIPELINE
from cryobase.pipeline.init import dvc_settings, place, stages_file
from cryobase.pipeline.init.changes import Change, read, with_lines
from cryobase.pipeline.init.choice import Choice, new_params
from cryobase.pipeline.init.place import GUARD, Place
from cryobase.pipeline.init.stages_file import State, resource
from cryobase.pipeline.params import ParamsError
from cryobase.store.publish import storage_errors

TITLE = "Cryobase"
NOTES = ("features/none/README", "models/none/none/README")  # docs/adr/0008
IGNORE_FILES = (".gitignore", ".dvcignore")
SHARED = "/.cryobase/"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `init` will do in a place that may be used.

    Attributes:
        place: The place.
        params: The text of a new `params.yaml`; None where one is kept.
        remarks: What a person should know, a line each.
    """

    place: Place
    params: str | None
    remarks: Sequence[str]

    def changes(self) -> list[Change]:
        """The files as they differ now, `dvc.yaml` last: where it is, all others are."""
        root, shared = self.place.root, self.place.shared
        lines = dict(zip(IGNORE_FILES, (_ignored_by_git(), _ignored_by_dvc()), strict=True))
        texts = {GUARD: resource("names_are_no_paths.yaml")}
        texts |= dict.fromkeys(NOTES, resource("none"))
        texts |= {"params.yaml": self.params} if self.params is not None else {}
        changes = [dvc_settings.cache_settings(self.place)]
        if shared != root:
            changes += [with_lines(shared / name, [SHARED], TITLE) for name in IGNORE_FILES]
        changes += [with_lines(root / name, lines[name], TITLE) for name in IGNORE_FILES]
        changes += [Change(root / name, None, text) for name, text in texts.items()
                    if not os.path.lexists(root / name)]  # fmt: skip
        path = root / PIPELINE
        if stages_file.state(path) is not State.CURRENT:
            changes.append(Change(path, read(path), stages_file.stamped()))
        return [change for change in changes if change]

    @property
    def needed(self) -> list[Path]:
        """The files that must be in Git, for colleagues and for experiments in copies."""
        names = (PIPELINE, "params.yaml", GUARD, *NOTES, *IGNORE_FILES)
        return [self.place.root / name for name in names]

    def diff(self) -> Iterator[str]:
        """Unified, relative to the repository; what DVC itself makes first is a comment."""
        if arguments := dvc_settings.arguments(self.place):
            yield f"# {shlex.join(('dvc', *arguments))}"
        for change in self.changes():
            yield from change.diff(os.path.relpath(change.path, self.place.repository))

    def write(self) -> list[Path]:
        """Do it; the files that were written.

        Raises:
            ParamsError: DVC refuses.
            StoreError, DataError: a file cannot be written, or came in between.
        """
        with storage_errors(self.place.root):
            self.place.root.mkdir(parents=True, exist_ok=True)
        if dvc_settings.arguments(self.place):
            dvc_settings.make(self.place)
        changes = self.changes()
        for change in changes:
            change.write()
        return [change.path for change in changes]


def plan(directory: Path, choice: Choice, *, upgrade: bool = False) -> Plan:
    """What `init` will do in a folder.

    Args:
        directory: The folder, which may be missing.
        choice: Where the images come from.
        upgrade: Whether a `dvc.yaml` of another Cryobase is replaced if nobody has edited it.

    Raises:
        ParamsError: the place is taken, the choice contradicts itself, or `dvc.yaml` is not to be
            replaced; the message has the command that goes on.
        DataError, ConfigError: the images cannot be used.
    """
    choice.check()
    where = place.around(directory)
    state = stages_file.state(where.root / PIPELINE)
    _check_stages(where, state, choice, upgrade=upgrade)
    ours = state is not State.MISSING or where.is_ours()
    if not ours:
        place.refuse_occupied(where, choice.arguments)
    params = where.root / "params.yaml"
    text: str | None = None
    if os.path.lexists(params) and not ours and not place.is_own_params(params):
        raise ParamsError(_taken(where, "params.yaml", choice))
    if choice == Choice() and os.path.lexists(params):
        remarks = [f"{place.shown(params)}: kept as it is"]
    else:
        text, remarks = new_params(where, choice)
    if os.path.lexists(params):
        _keep_params(where, text, choice)
        text = None
    made = Plan(place=where, params=text, remarks=[*remarks, *_about(where)])
    made.changes()  # a file that cannot be read is refused before anything is written
    return made


def _ignored_by_git() -> list[str]:
    """Lines of this repository's `.gitignore` that every pipeline needs: those below its title."""
    return resource("gitignore").partition(f"# {TITLE}")[2].splitlines()[1:]


def _ignored_by_dvc() -> list[str]:
    return [line for line in resource("dvcignore").splitlines() if not line.startswith("#")]


def difference(directory: Path) -> Iterator[str]:
    """What an edited `dvc.yaml` has otherwise than `init` would write it, as a unified diff."""
    path = place.around(directory).root / PIPELINE
    if stages_file.state(path) is State.EDITED:
        yield from Change(path, read(path), stages_file.stamped()).diff(PIPELINE)


def _check_stages(where: Place, state: State, choice: Choice, *, upgrade: bool) -> None:
    """Refuse a `dvc.yaml` that is not to be replaced."""
    path = place.shown(where.root / PIPELINE)
    again = shlex.join((*where.arguments, "--upgrade"))
    if state is State.FOREIGN:
        raise ParamsError(_taken(where, PIPELINE, choice))
    if state is State.NEWER:
        raise ParamsError(f"{path}: of a newer Cryobase; run `pip install -U cryobase`")
    if state is State.OLDER and not upgrade:
        raise ParamsError(
            f"{path}: of another Cryobase; bring it up to date with `cryobase init {again}`"
        )
    if state is State.EDITED and not upgrade:
        raise ParamsError(
            f"{path}: has been edited, so it stays; `cryobase init {again}` shows what is new"
        )
    if state is State.EDITED:
        aside = _aside(where.root / PIPELINE)
        raise ParamsError(
            f"{path}: has been edited, so it is not replaced; put it aside with `mv {aside} &&"
            f" cryobase init {again}`, and stages of your own into the dvc.yaml of another folder"
        )


def _taken(where: Place, name: str, choice: Choice) -> str:
    """That a file is another pipeline's, and the command that goes round it."""
    return (
        f"{place.shown(where.root / name)}: of another pipeline, and a folder has one; give this"
        f" one a folder of its own: `cryobase init {place.other_folder(where, choice.arguments)}`"
    )


def _aside(path: Path) -> str:
    """The arguments of `mv` that give a file a name that is free."""
    names = (f"{path.name}.old", *(f"{path.name}.old-{number}" for number in range(2, 100)))
    free = next(new for name in names if not os.path.lexists(new := path.with_name(name)))
    return shlex.join((place.shown(path), place.shown(free)))


def _keep_params(where: Place, text: str | None, choice: Choice) -> None:
    """Raises ParamsError where other params are asked for than those that are there."""
    path = where.root / "params.yaml"
    if text is not None and read(path) != text:
        again = shlex.join((*where.arguments, *choice.arguments))
        raise ParamsError(
            f"{place.shown(path)}: there already, and is not overwritten; change its section"
            f" download, or put it aside with `mv {_aside(path)} && cryobase init {again}`"
        )


def _about(where: Place) -> list[str]:
    """Remarks on Git and DVC."""
    git = "" if where.git else "no Git repository here: `dvc repro` needs none, `dvc exp` does"
    return [remark for remark in (git, dvc_settings.remark(where)) if remark]


def next_step(where: Place) -> str:
    """The command that runs the pipeline, from the current directory."""
    change = [f"cd {shlex.quote(place.shown(where.root))}"] if where.arguments else []
    programs = "" if shutil.which("dvc") and shutil.which("cryobase") else _programs()
    return " && ".join([*change, programs + shlex.join(("dvc", "repro"))])


def _programs() -> str:
    """An assignment that puts this installation's programs on the path."""
    return f'PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH" '

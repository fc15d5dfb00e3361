"""Where a pipeline is to live: its folder, Git and DVC around it, what is in the way.

Owns what `init` refuses because it is somebody else's, with the command that goes round it. Must
not write anything.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryobase.pipeline import bounded_yaml
from cryobase.pipeline.layout import PER_NAME, dvc_root, git_root
from cryobase.pipeline.params import ParamsError, load

GUARD = f"{PER_NAME}/names_are_no_paths.yaml"
KEPT = {"features": {"none"}, "models": {"none"}}  # which are in Git
OUTPUTS = ("data", "features", "models", "results", "tuned", "report", "export", "ladder")
OWN_FOLDER = "cryobase"  # that is proposed where another pipeline has the place


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder for the pipeline.

    Attributes:
        root: The folder, absolute; it may be missing.
        git: The root of the Git repository around it, None if there is none.
        dvc: The root of the DVC repository around it, None if there is none yet.
    """

    root: Path
    git: Path | None
    dvc: Path | None

    @property
    def repository(self) -> Path:
        """Within which paths are relative."""
        return self.git or self.dvc or self.root

    @property
    def shared(self) -> Path:
        """Where `.cryobase` will lie, see `Layout`."""
        return self.dvc or self.root

    @property
    def arguments(self) -> list[str]:
        """The folder as an argument of `cryobase init`; none for the current directory."""
        return [] if self.root == Path.cwd() else [shown(self.root)]

    def is_ours(self) -> bool:
        """Whether a pipeline of Cryobase has been here, with its `dvc.yaml` or without."""
        return (self.root / GUARD).is_file()


def around(directory: Path) -> Place:
    """The place that a folder is, which may be missing.

    Raises:
        ParamsError: it is no folder.
    """
    root = Path(os.path.realpath(directory))
    if os.path.lexists(root) and not root.is_dir():
        raise ParamsError(f"{directory}: not a folder; name one, or a new one")
    git, dvc = git_root(root), dvc_root(root)
    if git and dvc and not dvc.is_relative_to(git):  # a Git repository in somebody's DVC repository
        dvc = None
    return Place(root=root, git=git, dvc=dvc)


def refuse_occupied(place: Place, arguments: Sequence[str]) -> None:
    """Refuse a folder that holds what the pipeline would write to, or remove.

    DVC removes a stage's outputs before it runs, whoever has made them.

    Args:
        place: The folder.
        arguments: Those of `cryobase init` but for its folder, for the command of the message.

    Raises:
        ParamsError: with a command that takes another folder.
    """
    if place.is_ours():
        return
    if taken := next(_taken(place.root), ""):
        raise ParamsError(
            f"{place.root / taken}: there already, and the pipeline would write there; give it a"
            f" folder of its own: `cryobase init {other_folder(place, arguments)}`"
        )


def _taken(root: Path) -> Iterator[str]:
    for name in OUTPUTS:
        path = root / name
        inner = set(os.listdir(path)) if path.is_dir() else set()
        if inner - KEPT.get(name, set()) or (os.path.lexists(path) and not path.is_dir()):
            yield name


def is_own_params(path: Path) -> bool:
    """Whether a `params.yaml` is one for this pipeline, with the section that names the images.

    Raises:
        ParamsError: it is, and has a mistake.
    """
    try:
        sections = bounded_yaml.read(path)
    except bounded_yaml.UnusableYamlError:
        return False
    if not isinstance(sections, dict) or "download" not in sections:
        return False
    load(path)
    return True


def other_folder(place: Place, arguments: Sequence[str]) -> str:
    """The arguments of `cryobase init` for a new folder in a place that is taken."""
    names = (OWN_FOLDER, *(f"{OWN_FOLDER}-{number}" for number in range(2, 100)))
    path = next(path for name in names if not (path := place.root / name).exists())
    return shlex.join((shown(path), *arguments))


def shown(path: Path) -> str:
    """A path as a command line takes it in the current directory."""
    text = os.path.relpath(path)
    return f"./{text}" if text.startswith("-") else text


def refuse_images(place: Place, images: Path) -> None:
    """Refuse images among which the pipeline's folders would lie, or the other way round.

    Raises:
        ParamsError: with a command that takes another folder.
    """
    images = Path(os.path.realpath(images))
    if place.root.is_relative_to(images):
        beside = images.with_name(f"{images.name or OWN_FOLDER}-pipeline")
        command = shlex.join((shown(beside), "--images", shown(images)))
        raise ParamsError(
            f"{images}: the pipeline's folders would lie among the images and become classes; make"
            f" it beside them: `cryobase init {command}`"
        )
    for name in OUTPUTS:
        if images.is_relative_to(place.root / name):
            command = other_folder(place, ("--images", shown(images)))
            raise ParamsError(
                f"{images}: the pipeline writes to {name}/ too; give it a folder of its own:"
                f" `cryobase init {command}`"
            )


def ignored_by_git(place: Place, paths: Sequence[Path]) -> list[str]:
    """Those of some files that Git would leave out, though colleagues need them."""
    program = shutil.which("git")
    if place.git is None or program is None:
        return []
    names = "\0".join(str(path.relative_to(place.git)) for path in paths)
    result = subprocess.run(
        [program, "check-ignore", "-z", "--stdin"],
        cwd=place.git, input=os.fsencode(names), capture_output=True, check=False,
    )  # fmt: skip
    return [os.fsdecode(name) for name in result.stdout.split(b"\0") if name]

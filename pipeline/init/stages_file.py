"""`dvc.yaml` as `init` writes it: this package's stages below lines that tell an edited copy.

Owns what a `dvc.yaml` is to this Cryobase: current, older, edited, newer, or another pipeline's.
Must not write it.
"""

import enum
import hashlib
import re
from importlib import metadata, resources
from pathlib import Path

from cryobase.pipeline import bounded_yaml
from cryobase.pipeline.init import changes

PROGRAM = "cryobase"
STAMP = (
    "# Written by Cryobase {version}; the SHA-256 of what follows is {digest}.\n"
    "# While nobody edits it, `cryobase init --upgrade` keeps it up to date. Stages of your own\n"
    "# go into the dvc.yaml of another folder. The docs that are named are those of Cryobase.\n"
)
STAMPED = re.compile(
    r"# Written by Cryobase (?P<version>\S+); the SHA-256 of what follows is "
    r"(?P<digest>[0-9a-f]{64})\.\n"
    r"(?:# [^\n]*\n){2}"
)


class State(enum.Enum):
    """What is at the place of `dvc.yaml`."""

    MISSING = "not there"
    CURRENT = "has the stages of this Cryobase"
    OLDER = "of another Cryobase, as that one wrote it"
    EDITED = "of Cryobase, edited since, or copied from a checkout"
    NEWER = "of a newer Cryobase"
    FOREIGN = "another pipeline"


def packaged() -> str:
    """The stages of this Cryobase: the `dvc.yaml` of its own repository."""
    return resource("stages.yaml")


def resource(name: str) -> str:
    """A file of this folder, each a link into the repository that the package is made of."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def stamped() -> str:
    """What `init` writes."""
    text = packaged()
    return STAMP.format(version=metadata.version(PROGRAM), digest=_digest(text)) + text


def state(path: Path) -> State:
    """What the file at `path` is."""
    text = changes.read(path)
    if text is None:
        return State.MISSING
    text = text.replace("\r\n", "\n")  # as Git may write it
    found = STAMPED.match(text)
    body = text[found.end() :] if found else text
    if body == packaged():
        return State.CURRENT
    if found and _numbers(found["version"]) > _numbers(metadata.version(PROGRAM)):
        return State.NEWER
    if found and _digest(body) == found["digest"]:
        return State.OLDER
    return State.EDITED if found or _runs_cryobase(path) else State.FOREIGN


def _runs_cryobase(path: Path) -> bool:
    """Whether a stage runs a command of ours."""
    try:
        stages = bounded_yaml.read(path)["stages"].values()
    except (bounded_yaml.UnusableYamlError, LookupError, TypeError, AttributeError):
        return False
    bodies = [body.get("do", body) for body in stages if isinstance(body, dict)]
    commands = [str(body.get("cmd", "")) for body in bodies if isinstance(body, dict)]
    return any(command.split()[:1] == [PROGRAM] for command in commands)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", changes.ODD_BYTES)).hexdigest()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d{1,9}", version)[:3])

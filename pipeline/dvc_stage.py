"""What DVC says to the command of a stage: its name, and what the last run left."""

import os
import re
from itertools import islice
from pathlib import Path
from typing import Any

from cryobase.pipeline import bounded_yaml
from cryobase.pipeline.params import ParamsError

PIPELINE = "dvc.yaml"
RELINK = (
    "run `dvc config --local cache.type hardlink,copy && dvc checkout --relink --allow-missing`"
)
CACHED = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}(\.dir)?$")


def name_from_dvc(command: str) -> str:
    """The set, pair or run whose stage runs this command; the working directory becomes its root.

    DVC says `extract@NAME`, or `../dvc.yaml:extract@NAME` to who called it elsewhere. The name is
    not checked here: whoever loads params does.

    Raises:
        ParamsError: DVC runs no such stage.
    """
    address = os.environ.get("DVC_STAGE", "")
    stage, _, name = address.rpartition(":")[2].partition("@")
    if stage not in (command, f"{command}_pair", f"{command}_foreign") or not name:
        raise ParamsError(
            f"{command} --dvc: for the stages of dvc.yaml alone, and DVC_STAGE is {address!r};"
            f" by hand run `cryobase {command}`"
        )
    here = Path.cwd()
    os.chdir(next((place for place in (here, *here.parents) if (place / PIPELINE).is_file()), here))
    return name


def was_run(root: Path, stage: str) -> bool:
    """Whether `dvc.lock` has a run of a stage, here or on the machine of a colleague."""
    return stage in locked(root)


def locked(root: Path) -> dict[str, Any]:
    """The stages of `dvc.lock`, which comes with a repository; none where it is none of DVC's."""
    try:
        stages = bounded_yaml.read(root / "dvc.lock")["stages"]
    except (FileNotFoundError, bounded_yaml.UnusableYamlError, KeyError, TypeError):
        return {}
    return stages if isinstance(stages, dict) else {}


def mend_of_links(message: str) -> str:
    """What to add to an error whose file is a symbolic link into a cache of DVC, else nothing.

    Links are refused, because the file behind one can be another at any time.
    """
    named = (Path(part) for part in re.split(r": |; | ", message) if part.startswith(os.sep))
    if not any(leads_to_cache(path) for path in named):
        return ""
    return f"; DVC has put symbolic links there; to have it put the files themselves, {RELINK}"


def leads_to_cache(path: Path) -> bool:
    """Whether a file, or one of the first of a directory, is such a link."""
    try:
        files = [*islice(path.iterdir(), 100)] if path.is_dir() else [path]
        return any(file.is_symlink() and CACHED.search(os.readlink(file)) for file in files)
    except (OSError, ValueError):
        return False

"""What a command that DVC runs as a stage learns from DVC: its stage's name, and the last run."""

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
    """The set, pair or run whose stage runs this command. Changes to the directory of dvc.yaml.

    DVC sets `DVC_STAGE` to `extract@NAME`, or to `../dvc.yaml:extract@NAME` if it was called from
    another directory. The name is not checked here, but when params are loaded.

    Raises:
        ParamsError: this command was not started by such a stage.
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
    """Whether `dvc.lock` records a run of a stage, on this machine or a colleague's."""
    return stage in locked(root)


def locked(root: Path) -> dict[str, Any]:
    """The stages of `dvc.lock`; empty if the file is missing or not in DVC's form."""
    try:
        stages = bounded_yaml.read(root / "dvc.lock")["stages"]
    except (FileNotFoundError, bounded_yaml.UnusableYamlError, KeyError, TypeError):
        return {}
    return stages if isinstance(stages, dict) else {}


def mend_of_links(message: str) -> str:
    """Text to add to an error if its file is a symbolic link into DVC's cache, else "".

    Cryobase refuses links, because the file behind a link can be replaced at any time.
    """
    named = (Path(part) for part in re.split(r": |; | ", message) if part.startswith(os.sep))
    if not any(leads_to_cache(path) for path in named):
        return ""
    return f"; DVC has put symbolic links there; to have it put the files themselves, {RELINK}"


def leads_to_cache(path: Path) -> bool:
    """Whether a file, or one of the first files in a directory, is such a link."""
    try:
        files = [*islice(path.iterdir(), 100)] if path.is_dir() else [path]
        return any(file.is_symlink() and CACHED.search(os.readlink(file)) for file in files)
    except (OSError, ValueError):
        return False

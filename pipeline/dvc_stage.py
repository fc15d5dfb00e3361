"""What DVC says to the command of a stage: its name, and what the last run left."""

import os
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.params import ParamsError

PIPELINE = "dvc.yaml"


def name_from_dvc(command: str) -> str:
    """The set, pair or run whose stage runs this command; the working directory becomes its root.

    DVC says `extract@NAME`, or `../dvc.yaml:extract@NAME` to who called it elsewhere. The name is
    not checked here: whoever loads params does.

    Raises:
        ParamsError: DVC runs no such stage.
    """
    address = os.environ.get("DVC_STAGE", "")
    stage, _, name = address.rpartition(":")[2].partition("@")
    if stage not in (command, f"{command}_pair") or not name:
        raise ParamsError(
            f"{command} --dvc: for the stages of dvc.yaml alone, and DVC_STAGE is {address!r};"
            f" by hand: cryobase {command} NAME"
        )
    here = Path.cwd()
    os.chdir(next((place for place in (here, *here.parents) if (place / PIPELINE).is_file()), here))
    return name


def was_run(root: Path, stage: str) -> bool:
    """Whether `dvc.lock` has a run of a stage, here or on the machine of a colleague."""
    try:
        lock = YAML(typ="safe", pure=True).load((root / "dvc.lock").read_bytes())
        return stage in lock["stages"]
    except (OSError, YAMLError, ValueError, KeyError, TypeError):
        return False

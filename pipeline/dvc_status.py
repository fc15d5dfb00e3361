"""Which stages `dvc status` calls changed, and which follow them: what `dvc repro` would run.

DVC is asked in a process of its own: importing it takes a third of a second, and it changes what
loggers and signals do.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryobase.pipeline.dvc_stage import PIPELINE
from cryobase.pipeline.layout import dvc_root
from cryobase.pipeline.params import Params
from cryobase.store.text import parse_json

ALWAYS = "always changed"
NEVER = "params.yaml: new"  # what DVC says of a stage that is not in dvc.lock
HOLDER = re.compile(r"^\s*\(PID (\d+)\): (.+)$", re.MULTILINE)
LOCKED = "Unable to acquire lock"


class NoAnswerError(Exception):
    """DVC does not say what is changed; the message is why."""


@dataclass(frozen=True)
class StageStatus:
    """One stage of dvc.yaml.

    Attributes:
        stage: its name.
        state: `done`, `stale` (`dvc repro` runs it), `follows` (it runs if what a stage before it
            makes comes out different) or `always`.
        why: what changed, or which stages come first.
    """

    stage: str
    state: str
    why: str


def in_repository(root: Path) -> bool:
    """Whether there is a pipeline here, below a directory that DVC knows."""
    return (root / PIPELINE).is_file() and dvc_root(root) is not None


def ask(root: Path) -> dict[str, list[str]]:
    """What changed, of each stage that DVC calls changed.

    Raises:
        NoAnswerError: another `dvc` is at work, say.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json", PIPELINE],
        cwd=root,
        env=os.environ | {"DVC_NO_ANALYTICS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    try:
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise NoAnswerError(_refusal(said) or f"exit code {done.returncode}")
        answer = parse_json(done.stdout)
        return {name.rpartition(":")[2]: list(_reasons(one)) for name, one in answer.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise NoAnswerError(f"not what was expected of it ({error})") from None


def _refusal(said: str) -> str:
    """Why DVC gives no answer. Its advice to remove a lock by hand is left out.

    It names those who hold files that it needs, and only while they run; of the lock of the whole
    repository it names nobody.
    """
    if holders := {int(pid): command for pid, command in HOLDER.findall(said)}:
        names = ", ".join(f"{command}, PID {pid}" for pid, command in holders.items())
        return f"a DVC command is running: {names}"
    if LOCKED in said:
        return "a DVC command is running and holds the lock"
    return next(reversed(said.splitlines()), "")


def _reasons(changes: list[Any]) -> Iterator[str]:
    for change in changes:
        if isinstance(change, str):
            yield change
            continue
        for kind, entries in change.items():
            note = " (output)" if kind == "changed outs" else ""
            for path, what in entries.items():
                if isinstance(what, Mapping):  # keys of a params file
                    yield from (f"{key}: {word}" for key, word in what.items())
                else:
                    yield f"{path}{note}: {what}"


def stages(
    params: Params, asked: Mapping[str, list[str]], known: Mapping[str, str]
) -> list[StageStatus]:
    """Every stage in the order in which they run.

    Args:
        params: whose names make the stages.
        asked: what DVC said.
        known: what it does not see before `watch` has run, by stage.
    """
    found: dict[str, StageStatus] = {}
    for name, needs in _needs(params).items():
        reasons = [one for one in asked.get(name, ()) if one != ALWAYS]
        if NEVER in reasons:
            reasons = ["never ran"]
        elif name in known:
            reasons.append(known[name])
        before = [need for need in needs if found[need].state in ("stale", "follows")]
        if reasons:
            one = StageStatus(name, "stale", "; ".join(reasons))
        elif before:
            one = StageStatus(name, "follows", f"after {', '.join(before)}")
        elif name in asked:
            one = StageStatus(name, "always", "")
        else:
            one = StageStatus(name, "done", "")
        found[name] = one
    return list(found.values())


def _needs(params: Params) -> dict[str, list[str]]:
    """The stages of dvc.yaml, and which ones each of them takes files from."""
    needs: dict[str, list[str]] = {"watch": [], "download": [], "split": ["download"]}
    for name in params.extract.sets:
        needs[f"extract@{name}"] = ["download"]
    for name, sets in params.inputs.items():
        kind = _kind(params, name)
        extracts = [f"extract@{one}" for one in sets if one in params.extract.sets]
        needs[f"train{kind}@{name}"] = ["split", *extracts]
        needs[f"evaluate{kind}@{name}"] = ["split", *extracts, f"train{kind}@{name}"]
    for run, config in params.finetune.runs.items():
        starts = [f"train@{config.set}"] if config.set in params.extract.sets else []
        needs[f"finetune@{run}"] = ["download", "split", *starts]
    needs["report"] = [name for name in needs if name.startswith(("evaluate", "finetune@"))]
    return needs


def _kind(params: Params, name: str) -> str:
    return next(
        (
            f"_{kind}"
            for kind, table in (("pair", params.train.pairs), ("foreign", params.train.foreign))
            if name in table
        ),
        "",
    )

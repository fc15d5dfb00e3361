"""`cryobase status` beside the real `dvc status`."""

import json
import os
import re

import pytest

from tests.e2e.conftest import Project
from tests.images import write_folder

pytestmark = pytest.mark.e2e


def states(project: Project) -> dict[str, tuple[str, str]]:
    document = project.run("cryobase", "--quiet", "status", "--json")
    found = json.loads(document)
    assert found["dvc"] == ""
    return {one["stage"]: (one["state"], one["why"]) for one in found["stages"]}


def test_the_stages_that_dvc_would_run_and_why(project):
    write_folder(project.root / "images", 4)
    assert project.repro("split") == {"download", "split"}
    found = states(project)
    assert found["watch"] == ("always", "")
    assert found["download"] == found["split"] == ("done", "")
    assert found["extract@small"] == ("stale", "never ran")
    changed = json.loads(project.run("dvc", "status", "--json"))
    assert {name for name, (state, _) in found.items() if state in ("stale", "always")} == {
        *changed
    }


def test_new_images_are_seen_though_dvc_sees_none_before_watch_runs(project):
    write_folder(project.root / "images", 1, first=4)
    assert "download" not in json.loads(project.run("dvc", "status", "--json"))
    found = states(project)
    assert found["download"] == ("stale", "source: 3 files more")
    assert found["split"] == ("follows", "after download")
    assert project.repro("split") == {"download", "split"}
    assert states(project)["download"] == ("done", "")


def test_a_changed_key_is_named(project):
    project.params(split={"train": 0.6, "validation": 0.2, "test": 0.2, "seed": 1})
    assert states(project)["split"] == ("stale", "split: modified")


def test_while_dvc_is_at_work_the_rest_is_told(project):
    lock = project.root / ".dvc" / "tmp" / "lock"
    holder = (
        "import sys, zc.lockfile; lock = zc.lockfile.LockFile(sys.argv[1]);"
        "import subprocess; sys.exit(subprocess.run(sys.argv[2:]).returncode)"
    )
    text = project.run("python", "-c", holder, str(lock), "cryobase", "status", "--json")
    found = json.loads(text[text.index("{") :])
    assert found["stages"] == []
    assert found["dvc"] == "a DVC command is running and holds the lock"
    assert found["sets"][0]["set"] == "small"


@pytest.mark.parametrize("mode", ["write", "read"])
def test_while_a_stage_runs_its_dvc_is_named_and_no_lock_is_to_be_removed(project, mode):
    holder = {"pid": os.getpid(), "cmd": "dvc repro --pull"}
    held = [holder] if mode == "read" else holder
    files = {str(project.root / "data" / name): held for name in ("source.json", "raw")}
    lock = project.root / ".dvc" / "tmp" / "rwlock"
    lock.write_text(json.dumps({mode: files}))
    try:
        text = project.run("cryobase", "status")
    finally:
        lock.unlink()
    if mode == "read":  # which hinders nobody who only looks
        assert "stages: not known" not in text
        return
    assert f"a DVC command is running: dvc repro --pull, PID {os.getpid()})" in text
    assert "remove" not in text


def test_a_colleague_without_images_hears_how_to_go_on(project, tmp_path):
    project.repro()
    assert "data/raw is not here" not in project.run("cryobase", "status")
    project.run("dvc", "remote", "add", "--default", "team", str(tmp_path / "remote"))
    project.run("dvc", "push", "data/splits", "features/small")
    project.commit()
    colleague = Project(tmp_path / "colleague")
    project.run("git", "clone", "-q", ".", str(colleague.root))
    colleague.be_somebody()
    assert "data/raw is not here" not in colleague.run("cryobase", "status")  # no set needs less
    colleague.run("dvc", "pull", "data/splits", "features/small")
    for number, command in enumerate(ways_on(colleague)):
        assert ways_on(colleague)[number] == command
        heads = {"linear": {"kind": "linear", "learning_rate": 0.01, "epochs": 2 + number}}
        colleague.params(train={"heads": heads})
        output = colleague.run("sh", "-c", command)
        ran = re.findall("Running stage '(.*)'", output)
        assert ran == ["watch", "train@small", "evaluate@small", "report"]
        assert not (colleague.root / "data/raw").exists()
    text = colleague.run("cryobase", "status")
    assert "heads: 1 of 1 done\n" in text
    assert text.endswith("nothing would be computed\n")


def ways_on(project: Project) -> list[str]:
    """The commands that `status` names where images are not here."""
    lines = project.run("cryobase", "status").splitlines()
    (line,) = [line for line in lines if "data/raw is not here" in line]
    commands = re.findall("`(.*?)`", line)
    assert len(commands) == 2
    return commands

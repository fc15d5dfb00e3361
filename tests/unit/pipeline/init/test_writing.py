"""What `init` writes, and that it overwrites nothing."""

import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cryobase.pipeline.cli import app
from cryobase.pipeline.init import place
from cryobase.pipeline.init.changes import Change
from cryobase.pipeline.init.choice import Choice
from cryobase.pipeline.init.plan import next_step, plan
from cryobase.pipeline.params import STAGES, ParamsError, load
from cryobase.store.errors import ConflictError, StoreError
from tests.unit.pipeline.init.calls import ROOT, WRITTEN, contents, obey, run


def test_it_writes_what_a_pipeline_needs_and_nothing_else(git):
    output = run("--images", "photos")
    assert set(contents(git)) == WRITTEN | {".dvc/.gitignore"}
    assert {
        line.removeprefix("wrote ") for line in output.splitlines() if "wrote" in line
    } == WRITTEN
    assert output.splitlines()[-1] == f"next: {next_step(place.around(Path()))}"
    assert (git / "dvc.yaml").read_text().endswith((ROOT / "dvc.yaml").read_text())
    assert load(git / "params.yaml", *STAGES).download.path == "photos"
    for name in WRITTEN & {name for name in WRITTEN if name.startswith((".cry", "feat", "mod"))}:
        assert (git / name).read_bytes() == (ROOT / name).read_bytes()


def test_run_again_it_has_nothing_to_do(git):
    run("--images", "photos")
    before = contents(git)
    assert run("--images", "photos").endswith("nothing to do\n")
    assert run().endswith("nothing to do\n")
    assert contents(git) == before


def test_a_dry_run_writes_nothing_and_its_diff_is_what_is_written(git):
    subprocess.run(["dvc", "init", "-q"], check=True)
    (git / ".gitignore").write_text("*.pyc\n")
    before = contents(git)
    diff = run("--images", "photos", "--dry-run")
    assert contents(git) == before
    run("--images", "photos")
    written = contents(git)
    for name, data in written.items():
        if name in before:
            (git / name).write_bytes(before[name])
        elif data:
            (git / name).unlink()
    command = ["git", "apply", "--whitespace=nowarn"]
    lines = [line for line in diff.splitlines(keepends=True) if not line.startswith("photos:")]
    subprocess.run(command, input="".join(lines), text=True, check=True)
    assert contents(git) == written


def test_a_dry_run_in_a_bare_folder_makes_no_dvc_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "# dvc init --no-scm" in run("new", "--tfds", "tf_flowers", "--dry-run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(WRITTEN - {".dvc/config"}))
def test_a_file_that_is_there_keeps_what_it_holds(git, name):
    (git / name).parent.mkdir(parents=True, exist_ok=True)
    mine = b"mine" if name == ".dvcignore" else b"mine\xff"  # of which DVC would not make a start
    (git / name).write_bytes(mine)
    before = contents(git)
    try:
        run("--images", "photos")
    except ParamsError:
        assert contents(git) == before
        assert name in ("dvc.yaml", "params.yaml")
    else:
        assert contents(git)[name].startswith(mine)


def test_a_file_that_comes_in_between_is_not_overwritten(git, monkeypatch):
    made = plan(Path(), Choice(images=Path("photos")))
    changes = made.changes()
    (git / "params.yaml").write_text("mine\n")
    [late] = [change for change in changes if change.path.name == "params.yaml"]
    with pytest.raises(ConflictError, match="has just changed"):
        late.write()
    monkeypatch.setattr("cryobase.pipeline.init.changes.read", lambda _: None)  # it saw nothing yet
    with pytest.raises(ConflictError, match="has just changed"):
        late.write()
    assert (git / "params.yaml").read_text() == "mine\n"
    assert not list(git.glob(".tmp-*"))


def test_params_that_are_there_are_kept_or_put_aside(git):
    run("--images", "photos")
    (git / "params.yaml").write_text((git / "params.yaml").read_text() + "# mine\n")
    assert "params.yaml: kept as it is" in run()
    with pytest.raises(ParamsError, match="is not overwritten") as refusal:
        run("--tfds", "tf_flowers")
    obey(refusal.value)
    assert (git / "params.yaml.old").read_text().endswith("# mine\n")
    assert load(git / "params.yaml").download.name == "tf_flowers"
    with pytest.raises(ParamsError, match=r"`mv params.yaml params.yaml.old-2 && "):
        run("--images", "photos")


@pytest.mark.parametrize("written", range(len(WRITTEN)))
def test_what_was_broken_off_is_finished_by_the_same_command(git, monkeypatch, written):
    real, files = Change.write, []

    def write(change: Change) -> None:
        if len(files) == written:
            raise KeyboardInterrupt
        files.append(change.path)
        real(change)

    with monkeypatch.context() as patch:
        patch.setattr(Change, "write", write)
        result = CliRunner().invoke(app, ["init", "--images", "photos"])
        assert result.exit_code
    assert not (git / "dvc.yaml").exists()
    run("--images", "photos")
    assert contents(git).keys() >= WRITTEN
    assert (git / ".gitignore").read_text().count("/results/") == 1
    assert run("--images", "photos").endswith("nothing to do\n")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["dvc.yaml", "params.yaml", ".gitignore", ".dvcignore"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "large", "laughs"])
def test_a_hostile_repository_is_refused_at_once_and_left_as_it_is(git, name, kind):
    path = git / name
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/dev/zero")
    elif kind == "large":
        path.write_bytes(b"#" * (1 << 21))
    else:
        path.write_text("a: &a [x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n")
    before = contents(git)
    if kind == "laughs" and "ignore" in name:
        run("--images", "photos")  # lines like any others
        return
    with pytest.raises((ParamsError, StoreError)):
        run("--images", "photos")
    assert contents(git) == before

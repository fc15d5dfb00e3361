"""Whose folder it is: Git, DVC, another pipeline, the images themselves."""

import os
import subprocess
from pathlib import Path

import pytest

from cryobase.pipeline.init import dvc_settings, place
from cryobase.pipeline.init.plan import next_step
from cryobase.pipeline.params import STAGES, ParamsError, load
from tests.unit.pipeline.init.calls import FOREIGN, HOSTILE, WRITTEN, contents, obey, run


@pytest.mark.parametrize("name", ["dvc.yaml", "params.yaml"])
def test_another_pipeline_keeps_its_folder_and_the_command_that_is_named_takes_another(git, name):
    (git / name).write_text(FOREIGN)
    before = contents(git)
    with pytest.raises(ParamsError, match=f"{name}: of another pipeline") as refusal:
        run("--images", "photos")
    assert contents(git) == before
    assert "next: cd cryobase && " in obey(refusal.value)
    assert load(git / "cryobase" / "params.yaml").download.path == "../photos"
    assert contents(git)[name] == FOREIGN.encode()
    with pytest.raises(ParamsError, match="`cryobase init cryobase-2 --images photos`"):
        run("--images", "photos")


@pytest.mark.parametrize("name", place.OUTPUTS)
def test_a_folder_whose_outputs_are_somebodys_is_refused(git, name):
    """DVC would remove them before the first run."""
    (git / name).mkdir()
    (git / name / "thesis.txt").write_text("mine")
    with pytest.raises(ParamsError, match=f"{name}: there already") as refusal:
        run("--images", "photos")
    obey(refusal.value)
    assert (git / name / "thesis.txt").read_text() == "mine"
    assert (git / "cryobase" / "dvc.yaml").exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_folder_of_a_hostile_name_takes_a_pipeline(git, name):
    run("--images", "photos", "--", name)
    assert (git / name / "params.yaml").exists()
    assert load(git / name / "params.yaml", *STAGES).download.path == "../photos"


@pytest.mark.parametrize("arguments", [(), ("--images", "."), ("inner", "--images", ".")])
def test_the_pipeline_does_not_go_among_the_images(git, monkeypatch, arguments):
    monkeypatch.chdir(git / "photos")
    before = sorted((git / "photos").rglob("*"))
    with pytest.raises(ParamsError, match="among the images") as refusal:
        run(*arguments)
    assert sorted((git / "photos").rglob("*")) == before
    obey(refusal.value)
    assert load(git / "photos-pipeline" / "params.yaml").download.path == "../photos"


def test_images_in_a_folder_that_the_pipeline_writes_to_stay_alone_there(git):
    (git / "photos").rename(git / "data")
    with pytest.raises(ParamsError, match="data: there already") as refusal:
        run("--images", "data")
    obey(refusal.value)
    assert load(git / "cryobase" / "params.yaml").download.path == "../data"
    with pytest.raises(ParamsError, match="data/ too") as refusal:
        place.refuse_images(place.around(Path()), git / "data" / "raw")


@pytest.mark.parametrize(
    ("made", "folder", "arguments"),
    [
        ((".git",), ".", ("init",)),
        ((".git",), "a/b", ("init", "--subdir")),
        ((), "a", ("init", "--no-scm")),
        ((".git", ".dvc"), "a", ()),
        ((".dvc",), "a", ()),
        ((".git", "a/.dvc"), "a", ()),
        ((".dvc", "a/.git"), "a", ("init",)),
        ((".dvc", "a/.git"), "a/b", ("init", "--subdir")),
    ],
)
def test_dvc_is_made_as_its_users_would(tmp_path, made, folder, arguments):
    for name in made:
        (tmp_path / name).mkdir(parents=True)
    assert dvc_settings.arguments(place.around(tmp_path / folder)) == arguments


def test_a_dvc_repository_is_made_in_a_sub_folder_of_a_git_repository(git):
    run("team/vision", "--images", "photos")
    assert (git / "team" / "vision" / ".dvc" / "config").is_file()
    assert not (git / ".dvc").exists()
    assert not (git / ".gitignore").exists()
    result = subprocess.run(
        ["dvc", "root"], cwd=git / "team" / "vision", capture_output=True, check=True
    )
    assert result.stdout.strip() == b"."


def test_a_used_dvc_repository_keeps_its_settings_and_hears_of_ours(git):
    subprocess.run(["dvc", "init", "-q"], check=True)
    (git / "notes.csv.dvc").write_text("outs: []\n")
    config = (git / ".dvc" / "config").read_bytes()
    output = run("cryobase", "--images", "photos")
    assert (git / ".dvc" / "config").read_bytes() == config
    assert "`dvc config cache.type hardlink,copy`" in output
    assert "/.cryobase/" in (git / ".gitignore").read_text().splitlines()
    assert "/.cryobase/" in (git / ".dvcignore").read_text().splitlines()


def test_symbolic_links_of_dvc_are_named_before_they_are_made(git):
    subprocess.run(["dvc", "init", "-q"], check=True)
    subprocess.run(["dvc", "config", "cache.type", "symlink"], check=True)
    output = run("--images", "photos")
    assert "are refused as features" in output
    subprocess.run(
        output.split("are refused as features; run `")[1].split("`")[0].split(), check=True
    )
    (git / "dvc.yaml").unlink()
    assert "are refused as features" not in run("--images", "photos")


def test_a_file_is_no_place(git):
    with pytest.raises(ParamsError, match="not a folder"):
        run("photos/red/0000.png", "--images", "photos")


def test_a_new_dvc_repository_links_hard(git):
    run("--images", "photos")
    shown = subprocess.run(
        ["dvc", "config", "cache.type"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() in ("hardlink,copy", "['hardlink', 'copy']")


def ignored(root: Path, *names: str) -> set[str]:
    result = subprocess.run(
        ["git", "check-ignore", *names], cwd=root, capture_output=True, text=True, check=False
    )
    return set(result.stdout.split())


@pytest.mark.parametrize("theirs", ["", "models/\nfeatures\ndata\n", "/cryobase/results\n*.log"])
def test_git_takes_what_is_needed_and_leaves_what_is_made(git, theirs):
    (git / ".gitignore").write_text(theirs)
    run("cryobase", "--images", "photos")
    needed = [f"cryobase/{name}" for name in WRITTEN]
    made = [
        f"cryobase/{name}"
        for name in ("data/raw/x", "features/x/y", "models/x/y/z", "results/x", "tuned/x",
                     "report/x", ".cryobase/pool/x", "export/x", "ladder/x", "params.yaml.old")
    ]  # fmt: skip
    assert ignored(git, *needed, *made) == set(made)
    assert (git / ".gitignore").read_text() == theirs


def test_what_git_would_leave_out_is_named_with_the_command_that_adds_it(git):
    (git / ".gitignore").write_text("*.yaml\n")
    output = run("--images", "photos")
    for name in ("dvc.yaml", "params.yaml", ".cryobase-stages/names_are_no_paths.yaml"):
        assert f"`git add -f {name}`" in output
    assert "git add -f models" not in output


def test_lines_are_added_once_with_the_ends_that_a_file_has(git):
    (git / ".gitignore").write_bytes(b"*.pyc\r\n/results/\r\ncaf\xe9")
    run("--images", "photos")
    data = (git / ".gitignore").read_bytes()
    assert data.startswith(b"*.pyc\r\n/results/\r\ncaf\xe9\r\n\r\n# Cryobase\r\n")
    assert data.count(b"/results/") == 1
    assert b"\n" not in data.replace(b"\r\n", b"")


def test_the_next_step_runs_where_no_program_is_on_the_path(git, monkeypatch):
    run("a b/c", "--images", "photos")
    where = place.around(Path("a b/c"))
    assert next_step(where) == "cd 'a b/c' && dvc repro"
    path = os.pathsep.join(
        part for part in os.environ["PATH"].split(os.pathsep) if not (Path(part) / "dvc").exists()
    )
    monkeypatch.setenv("PATH", path)
    step = next_step(where)
    assert step != "cd 'a b/c' && dvc repro"
    result = subprocess.run(
        ["sh", "-c", f"{step} --dry watch"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "cryobase watch" in result.stdout

"""A `dvc.yaml` of another Cryobase: as it was written, edited, newer."""

import shlex
from importlib import metadata

import pytest
from typer.testing import CliRunner

from cryobase.pipeline.cli import app
from cryobase.pipeline.init import stages_file
from cryobase.pipeline.init.stages_file import State
from cryobase.pipeline.params import ParamsError
from tests.unit.pipeline.init.calls import ROOT, obey, run


def older(text: str, version: str = "0.1.0") -> str:
    """A `dvc.yaml` as another version would have written it."""
    digest = stages_file._digest(text)
    return stages_file.STAMP.format(version=version, digest=digest) + text


def older_stages() -> str:
    return (ROOT / "dvc.yaml").read_text().replace("data/extractor.json", "data/version.json")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_upgrade_replaces_what_nobody_has_edited(git, end):
    run("--images", "photos")
    (git / "dvc.yaml").write_bytes(older(older_stages()).replace("\n", end).encode())
    (git / ".dvcignore").write_text("# theirs\n")
    params = (git / "params.yaml").read_bytes()
    with pytest.raises(ParamsError, match="of another Cryobase") as refusal:
        run()
    assert "wrote dvc.yaml" in obey(refusal.value)
    assert (git / "dvc.yaml").read_text() == stages_file.stamped()
    assert "/.cryobase-stages/" in (git / ".dvcignore").read_text().splitlines()
    assert (git / "params.yaml").read_bytes() == params
    assert run("--upgrade").endswith("nothing to do\n")


@pytest.mark.parametrize("stamped", [True, False])
def test_an_upgrade_shows_what_is_new_beside_edits_and_leaves_them(git, stamped):
    run("--images", "photos")
    text = older(older_stages()) if stamped else older_stages()
    edited = text.replace("cryobase report", "cryobase report && ./publish")
    (git / "dvc.yaml").write_text(edited)
    with pytest.raises(ParamsError, match="has been edited, so it stays") as refusal:
        run()
    result = CliRunner().invoke(app, shlex.split(str(refusal.value).split("`")[1])[1:])
    assert isinstance(result.exception, ParamsError)
    lines = result.output.splitlines()
    assert "-    cmd: cryobase report && ./publish" in lines
    assert any(line.startswith("+") and "data/extractor.json" in line for line in lines)
    assert (git / "dvc.yaml").read_text() == edited
    assert "wrote dvc.yaml" in obey(result.exception)
    assert (git / "dvc.yaml.old").read_text() == edited
    assert stages_file.state(git / "dvc.yaml") is State.CURRENT


def test_the_stages_of_a_newer_version_are_not_taken_back(git):
    run("--images", "photos")
    version = f"{int(metadata.version('cryobase').split('.')[0]) + 1}.0.0"
    (git / "dvc.yaml").write_text(older(older_stages(), version))
    for arguments in ((), ("--upgrade",)):
        with pytest.raises(ParamsError, match="of a newer Cryobase; run `pip install -U"):
            run(*arguments)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "stages: []",
        "stages: {a: 1}",
        "stages: {a: {cmd: cryobases}}",
        "a: &x 1\nb: *x",
        "{",
    ],
)
def test_what_runs_no_command_of_ours_is_another_pipeline(tmp_path, text):
    (tmp_path / "dvc.yaml").write_text(text)
    assert stages_file.state(tmp_path / "dvc.yaml") is State.FOREIGN

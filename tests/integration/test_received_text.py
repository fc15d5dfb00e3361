"""Received heads, metrics and texts: refused in one line with the right code, or only shown."""

import re
import shutil
import signal
import sys

import pytest

from cryobase.pipeline import cli
from cryobase.stages import predict
from cryobase.stages.backbones.weights import locate_weights
from cryobase.stages.heads.graft import graft_onto
from tests.integration.received_text import COMPUTED, PREDICT, SENT, SHOWN, workspace
from tests.unit.test_texts import harmless


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A workspace in which nothing was touched."""
    made = locate_weights("mobilenetv2", "none", image_size=32)
    return workspace(tmp_path_factory.mktemp("sound") / "w", made.sha256)


@pytest.fixture
def place(sound, tmp_path, monkeypatch):
    shutil.copytree(sound, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path


def run(command, monkeypatch, capsys) -> tuple[int, str, str]:
    """The exit code of `cryobase COMMAND…`, and what it wrote on stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["cryobase", *command])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    signal.signal(signal.SIGTERM, before)
    written = capsys.readouterr()
    return ended.value.code or 0, written.out, written.err


@pytest.fixture(scope="module")
def model(sound):
    """The sound head on its base, built once."""
    from cryobase.stages.heads.head import Head

    return graft_onto(Head.load(sound / "models/small/linear"), "none")


@pytest.mark.parametrize("name", COMPUTED)
def test_numbers_that_give_no_answer_end_in_one_line(name, place, monkeypatch, capsys):
    command = SENT[name].write(place / "w")
    code, out, err = run(command, monkeypatch, capsys)
    lines = [line for line in err.splitlines() if line.startswith("cryobase: ")]
    assert (code, len(lines)) == (SENT[name].code, 1)
    assert "not finite" in out


@pytest.mark.parametrize("name", SHOWN)
def test_a_class_of_any_name_is_only_shown(name, place, model, monkeypatch, capsys):
    monkeypatch.setattr(predict, "graft_onto", lambda *_: model)
    command = SHOWN[name].write(place / "w")
    code, out, err = run(command, monkeypatch, capsys)
    assert code == 0, err
    lines = (out + err).split("\n")
    if "--csv" in command:
        assert not re.search(r"(^|,)[=+@-]", out, re.MULTILINE)
    else:
        assert all(map(harmless, lines))
    if command == PREDICT:
        assert len(lines) == 5


def test_the_sound_workspace_is_sound(place, model, monkeypatch, capsys):
    """So that what fails above fails by its attack."""
    monkeypatch.setattr(predict, "graft_onto", lambda *_: model)
    for command in (PREDICT, ("predict", "image.png"), ("heads", "ls"), ("report",)):
        code, out, err = run(command, monkeypatch, capsys)
        assert code == 0, err
        assert out

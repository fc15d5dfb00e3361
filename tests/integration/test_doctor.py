"""`cryobase doctor`: what is wrong has a fix and exit code 6, what is well has neither."""

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from cryobase.pipeline import doctor
from cryobase.pipeline.exits import EXIT_CODES, UNWELL
from tests.integration.remedies.situations import PARAMS, environment, set_param, write_params
from tests.integration.remedies.source import COMMAND
from tests.integration.store_checkout import cryobase, make

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path))
    monkeypatch.setenv("CRYOBASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    for name in ("CRYOBASE_POOL", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    write_params(PARAMS)
    return tmp_path


def examined(code: int = 0) -> list[dict[str, str]]:
    found, text = cryobase("doctor", "--json")
    assert found == code, text
    return json.loads(text)


def wrong() -> dict[str, str]:
    (one,) = [one for one in examined(UNWELL) if one["state"] == "wrong"]
    return one


def test_a_sound_checkout_is_fine(place):
    found = examined()
    assert {one["state"] for one in found} == {"fine", "note"}
    checks = {one["check"]: one["state"] for one in found}
    assert checks == {
        "packages": "fine", "cache": "fine", "pool": "fine", "dvc": "note", "weights": "fine",
        "source": "fine", "room": "fine",
    }  # fmt: skip
    assert cryobase("doctor")[0] == 0


def test_the_exit_code_is_no_other_s():
    assert UNWELL not in {0, 1, 2, *(code for _, code in EXIT_CODES)}


@pytest.mark.parametrize(("installed", "needs"), [("2.4", "keras<4,>=3.12.4"), (None, "keras<4")])
def test_a_package_out_of_range_is_named_with_pip_s_command(place, monkeypatch, installed, needs):
    real = metadata.version

    def version(name: str) -> str:
        if name != "keras":
            return real(name)
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(doctor.metadata, "version", version)
    one = wrong()
    assert one["check"] == "packages"
    assert needs.split("<")[0] in one["what"]
    (command,) = COMMAND.findall(one["fix"])
    assert "'keras<4,>=3.12.4'" in command
    done = subprocess.run(  # what it asks for is here, so that pip needs no network
        f"{command} --no-index --no-deps", shell=True, env=environment(), capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert "already satisfied" in done.stdout


def test_settings_that_are_ignored_can_be_taken_back(place):
    keras = Path("keras")
    keras.mkdir()
    (keras / "keras.json").write_text('{"floatx": "float16", "backend": "tensorflow"}')
    hostile = {"KERAS_BACKEND": "torch", "TF_ENABLE_ONEDNN_OPTS": "0"}

    def said(before: str = "") -> str:
        done = subprocess.run(
            f"{before}cryobase doctor", shell=True, env=environment() | hostile,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    first = said()
    assert "could change values: KERAS_BACKEND, TF_ENABLE_ONEDNN_OPTS" in first
    assert "floatx 'float16'" in first
    assert "backend 'tensorflow'" not in first
    (command,) = [line.split("`")[1] for line in first.splitlines() if "`unset " in line]
    assert "could change values" not in said(f"{command} && ")


def test_weights_that_are_missing_and_weights_to_fetch(place):
    set_param("extract.sets.small", {"backbone": "vgg16", "weights": "imagenet"})
    (one,) = [one for one in examined() if one["check"] == "weights"]
    assert (one["state"], one["what"]) == ("note", "small: vgg16, imagenet: fetched once")
    set_param("extract.sets.small.weights", "gone.h5")
    one = wrong()
    assert "no such weights file for vgg16" in one["what"]
    assert one["fix"].startswith("put one there")


def test_a_pool_that_may_not_be_written(place, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    one = wrong()
    assert one["check"] == "pool"
    assert f"belongs to user {os.getuid()}" in one["what"]


@pytest.mark.parametrize("kind", ["file", "damaged"])
def test_a_pool_that_cannot_be_used(place, monkeypatch, kind):
    if kind == "file":
        monkeypatch.setenv("CRYOBASE_POOL", str(place / "params.yaml"))
        assert wrong()["fix"] == "name one, or unset the variable"
        return
    (manifest,) = Path(".cryobase/pool").glob("*/manifest-*")
    manifest.unlink()
    manifest.write_text("{")
    broken = [one for one in examined(UNWELL) if one["state"] == "wrong"]
    assert broken[0]["fix"] == "run `cryobase store repair`"


def test_a_damaged_set_has_the_message_of_verify(place):
    (shard,) = Path("features/small").glob("shard-*")
    shard.unlink()
    assert shard.name in wrong()["what"]


def test_a_source_that_is_away_and_params_with_a_mistake(place):
    shutil.rmtree("images")
    assert "no such file or folder" in wrong()["what"]
    Path("params.yaml").write_text("nonsense: 1\n")
    assert "unknown key" in wrong()["what"]


def test_rows_that_have_no_room(place, monkeypatch):
    set_param("extract.sets.small.image_size", 64)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(9, 8, 1))
    assert "1 B free, 76.8 kB of rows to compute" in wrong()["what"]


def room() -> str:
    (one,) = [one for one in examined() if one["check"] == "room"]
    return one["what"].partition(" free")[2]


def test_rows_of_which_nobody_knows_how_much_room_they_take(place):
    small = PARAMS["extract"]["sets"]["small"]
    assert room() == ", 0 B of rows to compute"
    two = {"small": {**small, "image_size": 64}, "maps": {**small, "output": "map"}}
    set_param("extract.sets", two)
    assert room() == ", 76.8 kB of rows to compute; what the rows of maps take is not known yet"
    shutil.rmtree("data/raw")
    assert room() == "; what the rows of small, maps take is not known yet"
    set_param("extract.sets", {"small": small})
    assert room() == ", 0 B of rows to compute"  # it is published, so it needs no images
    shutil.rmtree("features/small")
    assert room() == "; what the rows of small take is not known yet"


def test_a_dvc_config_that_is_no_config(place):
    Path("dvc.yaml").write_text("stages: {}\n")
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[nonsense")
    assert ".dvc/config" in wrong()["what"]


def test_dvc_without_git_is_right_where_git_ignores_the_folder(place):
    shutil.rmtree(".git")
    dvc("init", "-q", "--no-scm")
    Path("dvc.yaml").write_text("stages: {}\n")
    subprocess.run(["git", "init", "-q"], check=True)
    exclude = Path(".git/info/exclude")
    exclude.parent.mkdir(exist_ok=True)
    assert "no_scm" in wrong()["what"]
    exclude.write_text("dvc.yaml\n")
    examined()


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, env=environment())


def test_looking_writes_nothing_and_loads_no_tensorflow(place):
    examined()

    def times() -> dict[Path, int]:
        """Of all but the memory of what was checked."""
        paths = (path for path in place.rglob("*") if "cache" not in path.parts)
        return {path: path.stat().st_mtime_ns for path in paths}

    before = times()
    code = (
        "import contextlib, sys\nfrom cryobase.pipeline.cli import main\n"
        "with contextlib.suppress(SystemExit): main()\nprint(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor"], capture_output=True, text=True, check=True
    )
    assert not {"tensorflow", "keras", "openvino"} & set(done.stderr.splitlines()[-1].split())
    assert times() == before

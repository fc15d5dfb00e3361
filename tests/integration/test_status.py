"""`cryobase status` says what is stale and why, changes nothing, and loads no TensorFlow."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cryobase.pipeline import dvc_status
from cryobase.pipeline.dvc_status import StageStatus
from cryobase.pipeline.params import load
from cryobase.stages import extract as extract_stage
from cryobase.stages.extraction.plan import remember_rate
from tests.images import write_folder
from tests.integration.remedies.situations import PARAMS, set_param, write_params
from tests.integration.store_checkout import (
    WIDTH,
    compute,
    cryobase,
    make_and_run,
    pool_of,
    work_in_copy,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    commands = ("watch", "download", "split", "extract", "train")
    return make_and_run(tmp_path_factory.mktemp("made"), PARAMS, *commands)


@pytest.fixture
def place(made, quick_path, monkeypatch):
    """A copy of it, where computing, downloading or making anything fails."""
    work_in_copy(made, quick_path, monkeypatch)
    cryobase("watch")  # a copy has other inodes
    return quick_path


def status() -> dict:
    code, text = cryobase("status", "--json")
    assert code == 0, text
    return json.loads(text)


def last_words() -> tuple[str, str]:
    """What is said of all heads, and of all that would be computed."""
    *_, heads, outlook = (
        line for line in cryobase("status")[1].splitlines() if not line.startswith("stages: ")
    )
    return heads, outlook


def test_where_all_is_done_nothing_would_be_computed(place):
    found = status()
    assert found["source"] == {"state": "done", "why": "", "files": 30, "more": 0}
    (one,) = found["sets"]
    assert (one["state"], one["why"], one["existing"], one["missing"]) == ("done", "", 30, 0)
    assert [head["state"] for head in found["heads"]] == ["done", "done"]
    assert found["total"] == {"rows": 0, "bytes": 0, "seconds": 0, "heads": 0}
    assert "nothing would be computed" in cryobase("status")[1]


def test_new_files_are_seen_before_and_after_they_were_downloaded(place):
    write_folder(place / "images", 2, first=10)
    before = status()
    assert before["source"]["why"] == "6 files more"
    assert before["sets"][0]["state"] == "done"
    heads, outlook = last_words()
    assert heads == "heads: 2 of 2 done; labels or splits may change when `download` runs"
    assert outlook.startswith("nothing would be computed for the images at hand; ")
    assert outlook.endswith("rows of 6 new files come on top")
    assert cryobase("watch")[0] == cryobase("download")[0] == 0
    after = status()
    (one,) = after["sets"]
    assert (one["state"], one["existing"], one["missing"]) == ("stale", 30, 6)
    assert one["bytes"] == 6 * WIDTH * 2
    assert one["seconds"] is None
    assert after["total"]["seconds"] is None
    pool = pool_of(place)
    remember_rate(pool.root, pool.spec.fingerprint, 100, 50.0)
    assert status()["sets"][0]["seconds"] == 3.0
    assert {head["why"] for head in after["heads"]} == {"features of small change"}
    assert after["total"]["heads"] == 2
    text = cryobase("status")[1]
    assert "would be computed: 6 rows, 96 B, 3.0 s and 2 heads" in text


def moved(place: Path) -> None:
    (place / "images/red/0001.png").rename(place / "images/green/0001-red.png")


def removed(place: Path) -> None:
    (place / "images/red/0001.png").unlink()


def not_looked_at(place: Path) -> None:
    (place / "data/source.json").unlink()


@pytest.mark.parametrize("change", [moved, removed, not_looked_at])
def test_what_only_download_can_tell_is_not_called_nothing(place, change):
    change(place)
    heads, outlook = last_words()
    assert heads.endswith("; labels or splits may change when `download` runs")
    assert outlook.endswith("; the rest is not known until `download` has run")
    set_param("extract.sets.small.image_size", 64)  # which leaves no head done
    heads, outlook = last_words()
    assert heads == "heads: 0 of 2 done"
    assert outlook.startswith("would be computed: 30 rows, ")
    assert outlook.endswith("; the rest is not known until `download` has run")


def test_a_split_that_is_to_run_may_change_heads_that_are_done(place, monkeypatch):
    monkeypatch.setattr(dvc_status, "in_repository", lambda _: True)
    monkeypatch.setattr(dvc_status, "ask", lambda _: {"split": ["split.seed: modified"]})
    heads, outlook = last_words()
    assert heads.endswith("; labels or splits may change when `split` runs")
    assert outlook.endswith("; the rest is not known until `split` has run")


def test_the_part_of_the_spec_that_changed_is_named(place):
    set_param("extract.sets.small.image_size", 64)
    (one,) = status()["sets"]
    assert (one["state"], one["why"]) == ("stale", "image_size: 32 → 64")
    assert one["missing"] == 30


def test_a_head_is_stale_by_its_params_its_features_or_its_splits(place):
    set_param("train.heads.strong.penalty", 4.5)
    weak, strong = status()["heads"]
    assert weak["state"] == "done"
    assert (strong["state"], strong["why"]) == ("stale", "penalty: 9.0 → 4.5")
    assert strong["to_train"]
    assert cryobase("train")[0] == 0
    set_param("train.heads.strong.penalty", 9.0)
    *_, strong = status()["heads"]
    assert strong["why"] == "penalty: 4.5 → 9.0; a finished one is kept"
    assert not strong["to_train"]
    set_param("split.seed", 5)
    shutil.rmtree("data/splits")
    assert cryobase("split")[0] == 0
    whys = [head["why"] for head in status()["heads"]]
    assert whys == ["splits", "penalty: 4.5 → 9.0; splits"]


def test_heads_that_are_new_or_that_params_dropped(place):
    set_param("train.heads", {"weak": {"kind": "ridge"}, "other": {"kind": "ridge", "penalty": 2}})
    found = {head["head"]: (head["state"], head["why"]) for head in status()["heads"]}
    assert found == {
        "weak": ("done", ""),
        "other": ("missing", "never trained"),
        "strong": ("stale", "params.yaml does not have it"),
    }


def test_a_damaged_head_or_set_is_stale_with_its_message(place):
    path = place / "models/small/weak/head.json"
    path.unlink()
    path.write_text("{")
    weak, _ = status()["heads"]
    assert weak["state"] == "stale"
    assert "not a usable head" in weak["why"]
    (shard,) = (place / "features/small").glob("shard-*")
    shard.unlink()
    (one,) = status()["sets"]
    assert one["state"] == "stale"
    assert shard.name in one["why"]


def test_pairs_wait_for_the_sets_that_they_are_made_of(place, monkeypatch):
    small = PARAMS["extract"]["sets"]["small"]
    sets = {"small": small, "other": {**small, "output": "max"}}
    pairs = {"both": ["small", "other"]}
    write_params(PARAMS | {"extract": {"sets": sets}, "train": PARAMS["train"] | {"pairs": pairs}})
    found = {one["set"]: (one["state"], one["why"]) for one in status()["heads"]}
    assert found == {
        "small": ("done", ""),
        "other": ("missing", "after extract of other"),
        "both": ("missing", "after extract of other"),
    }
    monkeypatch.setattr(extract_stage, "_computed", compute)
    assert cryobase("extract", "other")[0] == cryobase("train", "both")[0] == 0
    found = {one["set"]: one["why"] for one in status()["heads"]}
    assert found == {"small": "", "other": "never trained", "both": ""}


def test_who_pulled_features_alone_has_them_done_and_damaged_images_are_named(place):
    (path,) = place.glob("data/raw/dataset.json")
    text = path.read_bytes()
    path.unlink()
    path.write_bytes(text[:-9])
    (one,) = status()["sets"]
    assert one["state"] == "stale"
    assert "dataset.json" in one["why"]
    shutil.rmtree("data/raw")
    (one,) = status()["sets"]
    assert (one["state"], one["missing"]) == ("done", None)
    assert status()["total"]["rows"] == 0


@pytest.mark.parametrize("source", ["away", "not looked at"])
def test_images_that_are_away_leave_nothing_unknown_but_what_changed(place, monkeypatch, source):
    Path("dvc.lock").write_text("stages:\n  download:\n    cmd: cryobase download\n")
    assert not status()["images_away"]
    shutil.rmtree("data/raw")
    Path("data/source.json").unlink()
    if source == "away":
        shutil.rmtree("images")
    asked = {
        "download": ["data/source.json: deleted", "data/raw (output): not in cache"],
        "split": ["data/raw: deleted"],
    }
    monkeypatch.setattr(dvc_status, "in_repository", lambda _: True)
    monkeypatch.setattr(dvc_status, "ask", lambda _: asked)
    assert status()["images_away"]
    lines = cryobase("status")[1].splitlines()
    assert len([line for line in lines if line.startswith("images: data/raw is not here; ")]) == 1
    assert last_words() == ("heads: 2 of 2 done", "nothing would be computed")
    asked["split"].append("split.seed: modified")
    assert last_words()[1].endswith("; the rest is not known until `split` has run")
    shutil.rmtree("features/small")
    assert not status()["images_away"]


def test_a_damaged_pool_is_named(place):
    (manifest,) = place.glob(".cryobase/pool/*/manifest-*")
    manifest.unlink()
    manifest.write_text("{")
    (one,) = status()["sets"]
    assert "run `cryobase store repair`" in one["why"]
    assert one["missing"] is None


def test_an_empty_checkout_has_everything_missing(place):
    for name in ("data", "features", "models", ".cryobase"):
        shutil.rmtree(name)
    found = status()
    assert found["source"]["state"] == "stale"
    assert [one["state"] for one in found["sets"] + found["heads"]] == ["missing"] * 3
    assert found["total"]["rows"] is None
    assert cryobase("status")[1].endswith("is not known until `download` has run\n")


@pytest.mark.parametrize("weights", ["imagenet", "none", "gone.h5"])
def test_weights_that_are_not_here_are_neither_fetched_nor_made(place, monkeypatch, weights):
    monkeypatch.setenv("KERAS_HOME", str(place / "keras"))
    set_param("extract.sets.small", {"backbone": "vgg16", "weights": weights, "image_size": 32})
    (one,) = status()["sets"]
    assert one["weights"] == ("missing" if weights == "gone.h5" else "to fetch")
    assert not list(place.rglob("keras/*"))
    assert not list(place.rglob("cache/weights/*"))
    if weights == "gone.h5":
        assert "no such weights file" in one["why"]


def files_of(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(root)): (found.st_mtime_ns, found.st_size)
        for path in root.rglob("*")
        if "cache" not in path.parts and (found := path.stat()) and path.is_file()
    }


@pytest.mark.parametrize("damaged", [False, True])
def test_looking_changes_no_file(place, damaged):
    if damaged:  # `train` removes such a head, and `extract` such weights
        for path in place.glob(".cryobase/heads/*/weights.npz"):
            path.unlink()
            path.write_bytes(b"x")
        for path in place.glob("models/*/*/weights.npz"):
            path.unlink()
    before = files_of(place)
    cryobase("status")
    assert files_of(place) == before


@pytest.mark.parametrize(
    "arguments", [["status"], ["status", "--json"], ["store", "plan"], ["--help"]]
)
def test_no_tensorflow_is_loaded(place, arguments):
    code = (
        "import contextlib, sys\nfrom cryobase.pipeline.cli import main\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    heavy = {"tensorflow", "keras", "torch", "openvino", "matplotlib", "sklearn", "dask", "dvc"}
    assert not heavy & set(done.stderr.splitlines()[-1].split())
    assert "small" in done.stdout or arguments == ["--help"]


def test_what_dvc_calls_changed_and_what_follows(place):
    asked = {
        "watch": ["always changed"],
        "train@small": ["train.heads: modified", "models/small (output): deleted"],
        "report": ["params.yaml: new", "report (output): deleted"],
    }
    found = {one.stage: one for one in dvc_status.stages(load(Path("params.yaml")), asked, {})}
    assert [*found] == [
        "watch", "download", "split", "extract@small", "train@small", "evaluate@small", "report",
    ]  # fmt: skip
    assert found["watch"].state == "always"
    assert found["extract@small"] == StageStatus("extract@small", "done", "")
    assert found["train@small"].why == "train.heads: modified; models/small (output): deleted"
    assert found["evaluate@small"] == StageStatus("evaluate@small", "follows", "after train@small")
    assert found["report"] == StageStatus("report", "stale", "never ran")
    seen = dvc_status.stages(load(Path("params.yaml")), {}, {"download": "source: 1 file more"})
    assert [one.state for one in seen] == ["done", "stale", *["follows"] * 5]


def test_a_dvc_that_gives_no_answer_stops_nothing(place, monkeypatch):
    (place / ".dvc").mkdir()
    (place / ".dvc/config").write_text("[nonsense")
    (place / "dvc.yaml").write_text("stages: {}")
    found = status()
    assert found["dvc"]
    assert found["stages"] == []
    assert "stages: not known (" in cryobase("status")[1]
    assert os.environ.get("DVC_NO_ANALYTICS", "") in ("", "1")

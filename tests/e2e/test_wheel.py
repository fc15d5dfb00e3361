"""The wheel alone, in a repository of somebody else's that has modules of the same names."""

import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, SMALL, Installed, other_extractor
from tests.images import write_folder

pytestmark = pytest.mark.e2e

THEIRS = ("store.py", "stages/__init__.py", "pipeline/__init__.py", "tests/__init__.py")
STAGES = {"watch", "download", "split", "extract@small", "train@small", "evaluate@small", "report"}


@pytest.fixture(scope="module")
def foreign(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A repository whose own modules fail when they are imported."""
    made = Installed(tmp_path_factory.mktemp("theirs"), prefix)
    for name in THEIRS:
        (made.root / name).parent.mkdir(exist_ok=True)
        (made.root / name).write_text(f"raise RuntimeError('{name} is not of Cryobase')\n")
    made.git()
    write_folder(made.root / "images", 12)
    made.run("cryobase", "init", "--images", "images")
    made.params(**SMALL)
    return made


def test_both_archives_give_the_same_wheel_and_ship_no_tests(built):
    def files(wheel: Path) -> dict[str, int]:
        with zipfile.ZipFile(wheel) as archive:
            return {entry.filename: entry.CRC for entry in archive.infolist()}

    made = files(built.wheel)
    assert made == files(built.wheel_of_sdist)
    tops = {name.split("/")[0] for name in made}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"cryobase"}
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "store", "stages", "pipeline"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    expected = {
        f"cryobase/{name.removeprefix('pipeline/api/') if 'pipeline/api/' in name else name}"
        for name in filter(None, tracked.split("\0"))
        if (ROOT / name).exists()
    }
    assert {name for name in made if name.startswith("cryobase/")} == expected
    with tarfile.open(built.sdist) as archive:
        assert not [name for name in archive.getnames() if "/tests" in name]


def test_nothing_of_the_checkout_can_be_imported(foreign):
    code = (
        "import json, sys, cryobase, cryobase.store, cryobase.stages, cryobase.pipeline;"
        "modules = [cryobase, cryobase.store, cryobase.stages, cryobase.pipeline];"
        "print(json.dumps([[module.__file__ for module in modules], sys.path]))"
    )
    files, path = json.loads(foreign.python("-c", code))
    assert all(Path(file).is_relative_to(foreign.prefix) for file in files), files
    assert not [place for place in path if place and (Path(place) / "stages/watch.py").exists()]
    assert str(ROOT) not in path


def test_the_whole_pipeline_runs_beside_modules_of_the_same_names(foreign):
    output = foreign.dvc("repro")
    assert all(f"Running stage '{stage}'" in output for stage in STAGES), output
    heads = foreign.json("results/small/metrics.json")["heads"]
    assert set(heads) == set(SMALL["train"]["heads"])
    assert foreign.json("results/small/score.json")["best"] in heads
    assert (foreign.root / "report" / "index.html").exists()
    code = "import cryobase; print(len(cryobase.open('features/small')))"
    assert int(foreign.python("-c", code)) == len(list((foreign.root / "images").rglob("*.png")))


def test_an_upgrade_that_changes_features_makes_extract_stale(foreign):
    assert "Running stage 'extract@small'" not in foreign.dvc("repro", "extract@small")
    with other_extractor(foreign):
        assert "Running stage 'extract@small'" in foreign.dvc("repro", "extract@small")

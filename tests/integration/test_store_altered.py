"""Rows altered in every way that keeps a file's size: no command uses them without a word."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from cryobase.pipeline.cli import app
from cryobase.stages.extract import SetConfig
from cryobase.stages.heads.side_by_side import SideBySide
from cryobase.stages.tuning import cached_trunk
from cryobase.store import FeatureSet, IntegrityError, StoreError
from tests.integration.store_checkout import SET, compute, cryobase, features_of, make
from tests.integration.store_forgery import ALTERATIONS, altered

HEADS = {"linear": {"kind": "linear", "learning_rate": 0.01, "epochs": 1}}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout with a pair of sets and heads that are trained and evaluated."""
    root, before = make(tmp_path_factory.mktemp("checkout")), Path.cwd()
    os.chdir(root)
    params = YAML().load(root / "params.yaml")
    params["extract"]["sets"]["other"] = dict(SET)
    params["split"] = {"train": 0.6, "validation": 0.2, "test": 0.2, "seed": 0}
    params["train"] = {"heads": HEADS, "pairs": {"both": ["small", "other"]}}
    YAML().dump(params, root / "params.yaml")
    for command in (("extract", "other"), ("split",), ("train",), ("evaluate",)):
        assert cryobase(*command)[0] == 0, command
    yield root
    os.chdir(before)


@pytest.fixture(autouse=True)
def place(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    monkeypatch.delenv("CRYOBASE_POOL", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr("cryobase.stages.extract._computed", compute)
    return checkout


COMMANDS = [
    ("train",),
    ("train", "small"),
    ("train", "both"),
    ("evaluate", "small"),
    ("evaluate", "both"),
    ("extract",),
    ("extract", "other"),
    ("store", "export", "small", "--npz", "small.npz"),
    ("store", "export", "small", "--csv", "small.csv"),
    ("store", "export", "small", "--projector", "projector"),
    ("store", "diff", "small", "other"),
    ("store", "diff", "other", "small"),
    ("store", "why", "small"),
    ("store", "plan"),
    ("store", "verify"),
    ("store", "verify", "--full"),
    ("store", "show", "small"),
    ("store", "import", "features/small", "again"),
    ("heads", "plan", "small"),
    ("heads", "evidence", "small"),
]
READERS: dict[str, Callable[[Path], object]] = {
    "arrays": lambda path: FeatureSet.open(path).arrays(),
    "batches": lambda path: list(FeatureSet.open(path).batches(None, 8, shuffle=True)),
    "dask": lambda path: FeatureSet.open(path).to_dask().compute(),
    "side by side": lambda path: SideBySide.open([path, path.with_name("other")]),
    "trunk rows": lambda path: cached_trunk.store_trunk(
        SetConfig(**SET), raw=Path("data/raw"), pool=Path(".cryobase/pool"), output=path
    ),
}


def outputs(root):
    """Everything that commands write, but for locks."""
    places = [root / name for name in ("models", "results", "features", "small.npz", "small.csv")]
    files = [path for place in places for path in (place, *place.rglob("*")) if path.is_file()]
    return {path: path.read_bytes() for path in files}


@pytest.mark.timeout(300)
@pytest.mark.fault(25)
@pytest.mark.parametrize("how", ALTERATIONS)
def test_no_command_uses_altered_rows(place, how):
    (path,) = (place / "features/small").glob("shard-*")
    with altered(path, how):
        before = outputs(place)
        for command in COMMANDS:
            code, said = cryobase(*command)
            assert code == 4, (command, said)
            assert "its SHA-256 is not the manifest's" in said, command
            assert "\n" not in said
        assert outputs(place) == before
        for read in READERS.values():
            with pytest.raises(IntegrityError, match="its SHA-256"):
                read(place / "features/small")
    assert cryobase("store", "verify", "--full")[0] == 0
    assert cryobase("train")[0] == 0


@pytest.mark.fault(25)
@pytest.mark.parametrize("which", ["examples-*", "canary-*"])
def test_no_command_uses_an_altered_file_beside_the_rows(place, which):
    for path in (place / "features/small").glob(which):
        with altered(path, "a bit"):
            assert cryobase("store", "verify", "--full")[0] == 4
            if which == "examples-*":
                for command in (("train",), ("evaluate",), ("store", "export", "small")):
                    code, said = cryobase(
                        *command, *(["--npz", "x"] if "export" in command else [])
                    )
                    assert (code, "its SHA-256" in said) == (4, True), command


def test_a_worker_that_opens_a_set_again_checks_it_for_itself(place):
    import pickle

    sent = pickle.dumps(FeatureSet.open(place / "features/small"))
    (path,) = (place / "features/small").glob("shard-*")
    with altered(path, "a bit"), pytest.raises(IntegrityError, match="its SHA-256"):
        pickle.loads(sent)
    assert len(pickle.loads(sent)) == 30


@pytest.mark.fault(25)
@pytest.mark.parametrize("how", ALTERATIONS)
def test_rows_of_a_pool_that_others_own_are_not_taken_over(place, how, monkeypatch, tmp_path):
    """They are passed over, with a word, and computed anew."""
    shutil.copytree(".cryobase/pool", tmp_path / "lender")
    monkeypatch.setattr("cryobase.pipeline.layout._is_writable", lambda _: False)
    monkeypatch.setenv("CRYOBASE_POOL", str(tmp_path / "lender"))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))  # an empty pool of one's own
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "own.weights.h5", "data"):
        (tmp_path / name).symlink_to(place / name)
    (path,) = (tmp_path / "lender").glob("*/shard-*")
    with altered(path, how):
        result = CliRunner().invoke(app, ["extract", "small"])
    assert result.exit_code == 0
    word = f"{path.name}: its SHA-256 is not the manifest's; its rows are not used"
    assert (word in result.output) == (how != "views changed")  # then it has no rows that are asked
    found = FeatureSet.open(tmp_path / "features/small", full=True)
    assert (found.arrays()[0] == features_of(found.examples.digests).astype("f2")).all()


def test_what_is_altered_after_it_was_opened_is_noticed_when_it_is_opened_again(place):
    opened = FeatureSet.open(place / "features/small")
    (path,) = (place / "features/small").glob("shard-*")
    with altered(path, "a bit"):
        opened.arrays()
        with pytest.raises(StoreError, match="its SHA-256"):
            FeatureSet.open(place / "features/small")

"""Features of another program on the command line: from a file to heads, evidence and report."""

import json
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from cryobase.stages.data.raw import RawImages
from cryobase.store import FeatureSet
from tests.integration.store_checkout import cryobase, features_of, make
from tests.unit.stages.heads.sets import blobs

ORIGIN = "dinov2-small@3f2a91c"
RATES = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1]
DECAYS = [0.0, 0.0001, 0.001, 0.01, 0.1, 1.0, 10.0]
HEADS = {
    "linear": {"kind": "linear", "learning_rate": RATES, "weight_decay": DECAYS, "epochs": 2},
    "ridge": {"kind": "ridge", "penalty": [0.1, 1.0, 10.0]},
}  # 52 of them


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("CRYOBASE_POOL", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(*arguments: str) -> str:
    code, said = cryobase(*arguments)
    assert code == 0, said
    return said


def test_an_array_of_another_program_trains_52_heads_and_is_reported(place):
    rows, labels = blobs(2000, 384, 5, spread=6)
    names = np.array(["ant", "bee", "cow", "dog", "elk"])
    ids = np.array([f"{number:05}.jpg" for number in range(len(rows))])
    np.savez("vectors.npz", features=rows, ids=ids, labels=names[labels])
    said = run("store", "import", "vectors.npz", "dino", "--foreign", ORIGIN, "--splits")
    assert f"train: {{foreign: {{dino: {ORIGIN}}}}}" in said
    document = {
        "download": {"source": "sample"},
        "split": {},
        "train": {"foreign": {"dino": ORIGIN}, "heads": HEADS},
        "evaluate": {},
        "report": {},
    }
    YAML().dump(document, place / "params.yaml")
    for command in ("train", "evaluate", "report"):
        run(command)
    heads = json.loads(run("heads", "ls", "--json"))
    assert len(heads) == 52
    assert all(head["set"] == "dino" for head in heads)
    assert heads[0]["accuracy"] > 0.9
    assert "dino" in (place / "report" / "index.html").read_text()
    run("heads", "evidence", "dino")
    run("heads", "plan", "dino")

    code, said = cryobase("predict", str(place / "vectors.npz"))
    assert code == 3
    assert "no evaluated head; those of dino have no base here" in said
    model = f"models/dino/{heads[0]['head']}"
    code, said = cryobase("predict", str(place / "vectors.npz"), "--model", model)
    assert code == 3
    assert f"foreign: {ORIGIN} were computed elsewhere" in said
    code, said = cryobase("heads", "export", "dino")
    assert code == 3, said

    document["train"]["foreign"]["dino"] = "dinov2-small@0000000"
    YAML().dump(document, place / "params.yaml")
    code, said = cryobase("train")
    assert code == 2
    assert "train.foreign.dino: dinov2-small@0000000, but the set is of" in said


def test_vectors_of_images_that_are_here_stand_beside_their_own_features(place):
    make(place)
    images = RawImages.open(place / "data/raw").examples
    rows = features_of(images.digests)[:, ::-1]
    ids = np.array([bytes(name).decode() for name in images.ids])
    np.savez("vectors.npz", embedding=rows[3:], ids=ids[3:])
    options = ("--foreign", ORIGIN, "--images", "--column", "embedding")
    run("store", "import", "vectors.npz", "clip", *options)
    found = FeatureSet.open(place / "features/clip")
    assert found.examples.quarantined.tolist() == [True] * 3 + [False] * 27
    assert found.examples.labels.tolist() == images.labels.tolist()
    document = YAML(typ="safe").load(place / "params.yaml")
    heads = {"linear": {"kind": "linear", "epochs": 1}}
    document["train"] = {
        "foreign": {"clip": ORIGIN},
        "pairs": {"both": ["small", "clip"]},
        "heads": heads,
    }
    YAML().dump(document, place / "params.yaml")
    run("split")
    run("train", "both")
    run("evaluate", "both")
    assert json.loads((place / "results/both/metrics.json").read_text())["best"] == "linear"


def test_a_set_goes_out_with_its_splits_and_comes_back(place):
    make(place)
    run("split")
    for suffix in ("npz", "safetensors", "parquet"):
        run("store", "export", "small", f"--{suffix}", f"out/small.{suffix}")
        run("store", "import", f"out/small.{suffix}", f"from-{suffix}")
        assert "0" in run("store", "diff", "small", f"from-{suffix}")
        one, other = (
            FeatureSet.open(place / "features" / name) for name in ("small", f"from-{suffix}")
        )
        assert one.digest == other.digest
    run("store", "export", "small", "--croissant", "published")
    assert json.loads((place / "published/croissant.json").read_text())["name"] == "small"
    before = (place / "data/splits/splits.npz").read_bytes()
    (place / "data/splits/splits.npz").unlink()
    run("store", "import", "out/small.parquet", "again", "--splits")
    assert (place / "data/splits/splits.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["features/small", "x", "--foreign", ORIGIN], 2, "is for files"),
        (["vectors.npz", "../x", "--foreign", ORIGIN], 2, "not a usable name"),
        (["vectors.npz", "none", "--foreign", ORIGIN], 2, "not a usable name"),
        (["vectors.npz", "x", "--images"], 2, "goes with --foreign"),
        (["vectors.npz", "x", "--foreign", "dino"], 4, "MODEL@DIGEST"),
        (["vectors.npz", "x", "--foreign", ORIGIN, "--images"], 3, "not among the 30 examples"),
        (["vectors.npz", "small", "--foreign", ORIGIN], 4, "choose another name"),
        (["vectors.npz", "x"], 3, "--foreign MODEL@DIGEST"),
        (["missing.npz", "x"], 3, "missing.npz"),
    ],
)
def test_what_cannot_be_imported_is_said_in_a_line(place, arguments, code, message):
    make(place)
    np.savez("vectors.npz", features=np.ones((2, 3)), ids=np.array(["a", "b"]), labels=[0, 1])
    found, said = cryobase("store", "import", *arguments)
    assert (found, message in said) == (code, True), said
    assert "\n" not in said.strip()
    assert sorted(path.name for path in (place / "features").iterdir()) == ["small"]

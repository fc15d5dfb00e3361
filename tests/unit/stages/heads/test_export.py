"""From image files to exported models: the whole way, with real bases and seeded weights."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from stages import download, evaluate, extract, split, train
from stages.backbones.table import BACKBONES
from stages.data.splits import Splits
from stages.errors import ConfigError
from stages.heads import export as module
from stages.heads.config import HeadConfig
from stages.heads.export import export
from stages.heads.graftcheck import GraftError
from stages.heads.head import Head
from store import FeatureSet
from tests.scale import RUN_ALL

FAMILIES = {  # preprocessing -> a base with it
    row.preprocessing: name for name, row in reversed(BACKBONES.items()) if row.extra != "keras-hub"
}
TRIED = list(FAMILIES) if RUN_ALL else ["lite"]

FRESH = """
import sys
import numpy as np
from pathlib import Path
import keras
from stages.data.pixels import PixelSpec, load
from stages.data.raw import RawImages
from stages.heads.head import Head
root = Path(sys.argv[1])
images = RawImages.open(root / "raw")
model = keras.models.load_model(root / "export" / "model.keras", safe_mode=True)
spec = PixelSpec.of(Head.load(root / "models" / "linear").spec)
ids = np.load(root / "ids.npy")
pixels = [load(images.read(int(k)), spec) for k in images.examples.positions(ids)]
np.save(root / "found.npy", model.predict(np.stack(pixels), verbose=0))
"""


def photographs(root):
    """Two classes of 30 PNG files, dark and bright, of other sizes than the base takes."""
    random = np.random.default_rng(0)
    for label, level in (("dark", 40), ("light", 150)):
        (root / label).mkdir(parents=True)
        for k in range(30):
            side = 70 + k
            pixels = random.integers(level, level + 80, (side, 60, 3), dtype=np.uint8)
            cv2.imwrite(str(root / label / f"{k:02}.png"), pixels)


def project(root, backbone):
    size = max(48, BACKBONES[backbone].smallest)
    photographs(root / "images")
    download.run(
        download.DownloadConfig(source="folder", path=str(root / "images")), output=root / "raw"
    )
    split.run(split.SplitConfig(), raw=root / "raw", output=root / "splits")
    config = extract.SetConfig(backbone=backbone, weights="none", image_size=size)
    extract.run(
        extract.ExtractConfig(engine="tensorflow", sets={"set": config}),
        "set",
        raw=root / "raw",
        pool=root / "pool",
        output=root / "features",
    )
    arguments = {"features": root / "features", "splits": root / "splits"}
    train.run(
        train.TrainConfig(heads={"linear": HeadConfig(epochs=8, learning_rate=0.01)}),
        "set",
        cache=root / "cache",
        output=root / "models",
        **arguments,
    )
    return evaluate.run(
        evaluate.EvaluateConfig(),
        "set",
        models=root / "models",
        output=root / "results",
        **arguments,
    )


def exported(root, document, formats=("keras", "openvino"), ids=None):
    return export(
        "set/linear",
        head=root / "models" / "linear",
        weights="none",
        features=root / "features",
        raw=root / "raw",
        ids=Splits.open(root / "splits").ids("test") if ids is None else ids,
        scores=document["heads"]["linear"],
        formats=formats,
        output=root / "export",
    )


@pytest.fixture(scope="module", params=TRIED)
def made(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    return root, project(root, FAMILIES[request.param])


def test_an_exported_model_in_a_fresh_process_gives_the_stored_predictions(made):
    root, document = made
    written = exported(root, document)
    assert {path.name for path in written} == {
        "model.keras",
        "model.xml",
        "README.md",
        "classes.json",
    }
    stored = FeatureSet.open(root / "features")
    np.save(root / "ids.npy", stored.ids)
    subprocess.run([sys.executable, "-c", FRESH, str(root)], check=True)
    found = np.load(root / "found.npy")
    head = Head.load(root / "models" / "linear")
    expected = head.probabilities(stored.arrays()[0])
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    assert found == pytest.approx(expected, abs=0.01)
    card = (root / "export" / "README.md").read_text()
    assert stored.digest in card
    assert f"{document['heads']['linear']['test']['accuracy']:.4f}" in card
    assert json.loads((root / "export" / "classes.json").read_text()) == ["dark", "light"]


def test_nothing_is_written_before_the_graft_check_has_passed(made, monkeypatch):
    root, document = made

    def differs(*_):
        raise GraftError("graft check: differs")

    monkeypatch.setattr(module, "check_graft", differs)
    output = root / "refused"
    with pytest.raises(GraftError):
        export(
            "set/linear",
            head=root / "models" / "linear",
            weights="none",
            features=root / "features",
            raw=root / "raw",
            ids=Splits.open(root / "splits").ids("test"),
            scores=document["heads"]["linear"],
            formats=("keras",),
            output=output,
        )
    assert not output.exists()


def test_a_file_that_does_not_do_what_the_model_does_is_not_put_there(made, monkeypatch):
    root, document = made
    write, run, name = module.FORMATS["keras"]
    monkeypatch.setitem(module.FORMATS, "keras", (write, lambda *a: run(*a) + 0.1, "other.keras"))
    with pytest.raises(GraftError, match=r"other.keras errs by 0\.1"):
        exported(root, document, formats=("keras",))
    assert not (root / "export" / "other.keras").exists()
    assert name == "model.keras"


def test_an_unknown_format_is_refused_first(made):
    root, document = made
    with pytest.raises(ConfigError, match="no format 'pmml'; known: keras, openvino"):
        exported(root, document, formats=("pmml",))

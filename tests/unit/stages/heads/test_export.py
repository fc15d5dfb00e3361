"""From image files to exported models: the whole way, with seeded weights."""

import importlib.util
import json
import subprocess
import sys
from contextlib import nullcontext

import cv2
import numpy as np
import pytest

from cryobase.stages import download, evaluate, extract, split, train
from cryobase.stages.backbones.table import BACKBONES
from cryobase.stages.data.pixels import PixelSpec, load
from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import Splits
from cryobase.stages.errors import ConfigError
from cryobase.stages.heads import export as module
from cryobase.stages.heads.config import HeadConfig
from cryobase.stages.heads.export import export
from cryobase.stages.heads.graft import TOLERANCE, GraftError
from cryobase.stages.heads.head import Head, to_probabilities
from cryobase.stages.heads.side_by_side import SideBySide
from tests.bases import thinned
from tests.closeness import assert_close
from tests.scale import RUN_ALL

FAMILIES = {  # preprocessing -> a base with it
    row.preprocessing: (name,) for name, row in BACKBONES.items() if row.extra != "keras-hub"
}
PAIR = ("efficientnet_lite0", "mobilenetv2")
TRIED = {**FAMILIES, "pair": PAIR}
if not RUN_ALL:
    TRIED = {name: TRIED[name] for name in ("lite", "symmetric", "pair")}

FRESH = """
import sys
import numpy as np
from pathlib import Path
import keras
import warnings
warnings.filterwarnings("error", "The structure of `inputs`")
from cryobase.stages.data.pixels import PixelSpec, load
from cryobase.stages.data.raw import RawImages
from cryobase.stages.heads.head import Head
root = Path(sys.argv[1])
images = RawImages.open(root / "raw")
model = keras.models.load_model(root / "export" / "model.keras", safe_mode=True)
spec = PixelSpec.of(Head.load(root / "models" / "linear").specs[0])
ids = np.load(root / "ids.npy")
pixels = np.stack([load(images.read(int(k)), spec) for k in images.examples.positions(ids)])
logits = keras.Model(model.inputs, model.get_layer("logits").output)
np.savez(
    root / "found.npz",
    logits=logits.predict(pixels, verbose=0),
    probabilities=model.predict(pixels, verbose=0),
)
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


def project(root, backbones):
    size = max(48, *(BACKBONES[backbone].smallest for backbone in backbones))
    photographs(root / "images")
    download.run(
        download.DownloadConfig(source="folder", path=str(root / "images")), output=root / "raw"
    )
    split.run(split.SplitConfig(), raw=root / "raw", output=root / "splits")
    for name in backbones:
        config = extract.SetConfig(backbone=name, weights="none", image_size=size)
        extract.run(
            extract.ExtractConfig(engine="tensorflow", sets={name: config}),
            name,
            raw=root / "raw",
            pool=root / "pool",
            output=root / "features" / name,
        )
    arguments = {"features": features_of(root), "splits": root / "splits"}
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


def features_of(root):
    """In the order of extraction, which is that of the pair."""
    names = [
        pair for pair in TRIED.values() if {*pair} == {p.name for p in root.glob("features/*")}
    ]
    return [root / "features" / name for name in names[0]]


def exported(root, document, formats, ids=None):
    return export(
        "set/linear",
        head=root / "models" / "linear",
        weights="none",
        features=features_of(root),
        raw=root / "raw",
        ids=Splits.open(root / "splits").ids("test") if ids is None else ids,
        scores=document["heads"]["linear"],
        formats=formats,
        output=root / "export",
    )


@pytest.fixture(scope="module", autouse=True)
def _thin(tmp_path_factory):
    """Without `make test-all` with an eighth of MobileNetV2's channels: graphs take memory."""
    with nullcontext() if RUN_ALL else thinned(tmp_path_factory.getbasetemp() / "thin"):
        yield


def formats_of(family):
    """All whose library is installed; tf2onnx cannot convert ConvNeXt."""
    installed = [
        name
        for name, row in module.FORMATS.items()
        if all(importlib.util.find_spec(library) for library in row.needs)
    ]
    return [name for name in installed if (family, name) != ("identity", "onnx")]


@pytest.fixture(scope="module")
def made(request, tmp_path_factory):
    """A project, its metrics, and what was exported of it."""
    family = request.param
    root = tmp_path_factory.mktemp(family)
    document = project(root, TRIED[family])
    return root, document, exported(root, document, formats_of(family))


on_one = pytest.mark.parametrize("made", ["lite"], indirect=True)


@pytest.mark.parametrize("made", TRIED, indirect=True)
def test_an_exported_model_in_a_fresh_process_gives_the_stored_predictions(made):
    root, document, written = made
    named = {module.FORMATS[name].name for name in formats_of(root.name.rstrip("0123456789"))}
    assert {path.name for path in written} == {*named, "README.md", "classes.json"}
    assert "model.keras" in named
    stored = SideBySide.open(features_of(root))
    np.save(root / "ids.npy", stored.examples.ids)
    subprocess.run([sys.executable, "-c", FRESH, str(root)], check=True)
    found = np.load(root / "found.npz")
    head = Head.load(root / "models" / "linear")
    expected = head.logits(stored.arrays()[0])
    error = np.abs(found["logits"] - expected).max() / expected.std()
    print(f"{root.name}: logits within {error:.2g} of their deviation, {len(expected)} images")
    assert error < TOLERANCE
    assert np.array_equal(found["logits"].argmax(1), expected.argmax(1))
    # a probability of two moves by at most half of what the logits' difference does
    assert_close(
        found["probabilities"], to_probabilities(expected), within=TOLERANCE * expected.std()
    )
    card = (root / "export" / "README.md").read_text()
    assert stored.digest in card
    assert f"{document['heads']['linear']['test']['accuracy']:.4f}" in card
    assert json.loads((root / "export" / "classes.json").read_text()) == ["dark", "light"]


@on_one
def test_nothing_is_written_before_the_graft_check_has_passed(made, monkeypatch):
    root, document, _ = made

    def differs(*_):
        raise GraftError("graft check: differs")

    monkeypatch.setattr(module, "check_graft", differs)
    output = root / "refused"
    with pytest.raises(GraftError):
        export(
            "set/linear",
            head=root / "models" / "linear",
            weights="none",
            features=features_of(root),
            raw=root / "raw",
            ids=Splits.open(root / "splits").ids("test"),
            scores=document["heads"]["linear"],
            formats=("keras",),
            output=output,
        )
    assert not output.exists()


@on_one
def test_a_file_that_does_not_do_what_the_model_does_is_not_put_there(made, monkeypatch):
    root, document, _ = made
    right = module.FORMATS["keras"]
    wrong = right._replace(run=lambda *a: right.run(*a) + 0.1, name="other.keras")
    monkeypatch.setitem(module.FORMATS, "keras", wrong)
    with pytest.raises(GraftError, match=r"of other.keras differ from the model's by 0\.1"):
        exported(root, document, formats=("keras",))
    assert not (root / "export" / "other.keras").exists()


@on_one
def test_the_log_says_which_head_is_exported_and_what_was_compared(made, caplog):
    root, document, _ = made
    caplog.set_level("INFO")
    exported(root, document, ["keras"])
    exporting, agreed, written = (
        line for line in caplog.messages if line.startswith(("set/", "graft", str(root)))
    )
    assert exporting == "set/linear: exporting this head on its base, as keras"
    images = len(Splits.open(root / "splits").ids("test"))
    assert f"give the same class as the head on {images} of {images} images" in agreed
    assert "model.keras: read back, its probabilities on 8 random images " in written
    assert written.endswith("are the same") or "differ by at most" in written


@on_one
def test_an_unknown_format_is_refused_first(made):
    root, document, _ = made
    with pytest.raises(ConfigError, match="no format 'pmml'; known: keras, openvino, onnx"):
        exported(root, document, formats=("pmml",))


@on_one
def test_a_format_without_its_library_names_the_extra(made, monkeypatch):
    root, document, _ = made
    lacking = module.FORMATS["onnx"]._replace(needs=("no_such_library",))
    monkeypatch.setitem(module.FORMATS, "onnx", lacking)
    with pytest.raises(
        ConfigError, match=r"needs no_such_library; run `pip install 'cryobase\[onnx"
    ):
        exported(root, document, formats=("onnx",))


def test_a_base_that_cannot_become_onnx_is_refused_in_one_line(tmp_path):
    import keras

    pytest.importorskip("tf2onnx")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="gelu")])
    model(np.zeros((1, 4)))
    with pytest.raises(ConfigError, match=r"tf2onnx cannot convert Erfc.*openvino"):
        module.FORMATS["onnx"].write(model, tmp_path / "model.onnx")


@pytest.mark.parametrize("made", [name for name in TRIED if name != "identity"], indirect=True)
def test_an_onnx_file_gives_the_heads_logits_in_other_libraries(made):
    """By ONNX Runtime, which `export` itself uses, and by OpenVINO."""
    for library in module.FORMATS["onnx"].needs:
        pytest.importorskip(library)
    openvino = pytest.importorskip("openvino")
    root, _, _ = made
    stored = SideBySide.open(features_of(root))
    head = Head.load(root / "models" / "linear")
    images, spec = RawImages.open(root / "raw"), PixelSpec.of(head.specs[0])
    pixels = np.stack([load(images.read(k), spec) for k in range(len(images.examples))])
    core = openvino.Core()
    model = core.compile_model(
        core.read_model(root / "export" / "model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    logits = head.logits(stored.arrays()[0])
    expected = to_probabilities(logits)
    within = TOLERANCE * logits.std() + module.TOLERANCE  # of the graft, and of the file
    assert_close(np.asarray(model(pixels)[0]), expected, within=within)
    ours = module.FORMATS["onnx"].run(root / "export" / "model.onnx", pixels)
    assert_close(ours, expected, within=within)

"""`import cryobase`, the face of the package."""

import io
import logging
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

import cryobase
from cryobase.pipeline import params
from cryobase.pipeline.cli import app
from cryobase.stages import extract as stage
from cryobase.stages.heads.config import HeadConfig
from cryobase.stages.predict import Classifier, Prediction
from cryobase.stages.train import TrainConfig
from cryobase.store.errors import IntegrityError, StoreError, StoreNotFoundError
from tests.images import write_folder
from tests.integration.store_checkout import compute, make
from tests.integration.store_checkout import cryobase as cryobase_command
from tests.unit.store.samples import published


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_set_is_opened_by_text_by_path_and_below_the_home(home, monkeypatch):
    directory = published(home)
    monkeypatch.chdir(directory.parent)
    for path in (directory, str(directory), directory.name, f"~/{directory.relative_to(home)}"):
        with cryobase.open(path, full=True) as features:
            assert len(features) == 20


def test_what_is_not_there_is_an_error_that_names_the_path(home):
    with pytest.raises(StoreNotFoundError, match="features/missing"):
        cryobase.open("~/features/missing")
    with pytest.raises(FileNotFoundError):
        cryobase.open(home)


def test_a_damaged_set_is_not_opened(home):
    directory = published(home)
    [shard, *_] = sorted(directory.glob("shard-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(content)
    with pytest.raises(IntegrityError, match=shard.name):
        cryobase.open(directory, full=True)


def test_a_damaged_manifest_is_not_opened(home):
    directory = published(home)
    [manifest] = directory.glob("manifest-*.json")
    manifest.chmod(0o644)
    manifest.write_bytes(manifest.read_bytes()[:-10])
    with pytest.raises(StoreError):
        cryobase.open(directory)


def test_the_face_lists_what_it_offers():
    assert cryobase.__all__ == ["extract", "open", "predict", "train"]


def test_the_version_is_that_of_the_package():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"{cryobase.__version__}\n")
    assert cryobase.__version__ == version("cryobase")


def test_a_name_that_is_none_is_no_attribute():
    assert set(cryobase.__all__) <= set(dir(cryobase))
    with pytest.raises(AttributeError, match="no attribute 'finetune'"):
        cryobase.finetune  # noqa: B018


@pytest.fixture
def checkout(quick_path, monkeypatch) -> Path:
    """30 images and their set; nothing that computes features loads TensorFlow."""
    monkeypatch.chdir(quick_path)
    for name in ("CRYOBASE_POOL", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(stage, "_computed", compute)
    return make(quick_path)


HEADS = {
    "train": {"heads": {"linear": {"kind": "linear", "epochs": 3}, "ridge": {"kind": "ridge"}}}
}


def settings(**sections) -> dict:
    document = YAML(typ="safe").load(Path("params.yaml"))
    return {**document, **HEADS, **sections}


def test_extract_train_and_look_at_what_came_of_it(checkout):
    shutil.rmtree("features/small")
    shutil.rmtree("data")
    found = cryobase.extract()
    assert (found.name, found.images, found.computed, found.reused) == ("small", 30, 0, 30)
    assert str(found).split()[:3] == ["name", "directory", "images"]
    assert repr(found) == str(found)
    assert "<td>small</td>" in found._repr_html_()
    with found.open() as features:
        assert len(features) == 30

    trained = cryobase.train(settings=settings())
    assert set(trained.heads) == {"linear", "ridge"}
    assert trained.best == next(iter(trained.heads))
    assert {one.training for one in trained.heads.values()} == {"trained"}
    assert str(trained).splitlines()[0].split() == [
        "head", "part", "accuracy", "log_loss", "test", "training",
    ]  # fmt: skip
    assert cryobase_command("heads", "ls", "--json")[0] == 0
    again = cryobase.train("small", settings())
    assert {one.training for one in again.heads.values()} == {"reused"}
    assert again.heads[again.best].parts == trained.heads[trained.best].parts


def test_new_images_are_looked_for_when_asked(checkout):
    write_folder(checkout / "images", 2, first=10)
    assert cryobase.extract("small").images == 30
    found = cryobase.extract("small", look_again=True)
    assert (found.images, found.computed) == (36, 6)


def test_settings_are_params_by_path_as_sections_or_as_config_objects(checkout):
    given = settings()
    YAML().dump(given, Path("other.yaml"))
    objects = given | {"train": TrainConfig(heads={"linear": HeadConfig(epochs=3)})}
    for one in ("other.yaml", Path("other.yaml"), given, objects, params.load(Path("other.yaml"))):
        assert "linear" in cryobase.train("small", one).heads
    assert params.of(params.Params()) == params.Params()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"head": {}}}, r"params: train\.head: unknown key; valid here: foreign, heads"),
        ({"trian": {}}, "params: trian: unknown key"),
        ({"train": {"heads": {"a b": {"kind": "linear"}}}}, "a b: not a usable name"),
        ({"train": {"heads": {"x": {"kind": "linear", "epochs": 0}}}}, "epochs"),
        ({"train": object()}, "finite numbers"),
        ({"extract": {"sets": {}}}, r"has 0 names"),
    ],
)
def test_settings_that_are_wrong_are_said_as_those_of_a_file(checkout, sections, message):
    with pytest.raises(params.ParamsError, match=message):
        cryobase.train(settings=settings() | sections)
    assert not (checkout / "models").exists()


def test_one_of_several_sets_must_be_named(checkout):
    sets = settings()["extract"]["sets"]
    several = settings(extract={"sets": {**sets, "other": sets["small"]}})
    with pytest.raises(params.ParamsError, match="2 names; say which one: small, other"):
        cryobase.extract(settings=several)
    with pytest.raises(params.ParamsError, match="has no 'third'"):
        cryobase.extract("third", several)


def test_predict_answers_for_files_and_folders(checkout, monkeypatch):
    probabilities = np.array([0.1, 0.7, 0.2], np.float32)

    class Model:
        classes = ("<b>", "dog", "emu")

        def predict(self, files):
            for file in files:
                broken = file.name == "broken.png"
                yield Prediction(file, None if broken else probabilities, "no image" * broken)

    monkeypatch.setattr(Classifier, "open", lambda *_: Model())
    photos = write_folder(checkout / "photos", 1)
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = cryobase.predict("photos", model="models/small/linear", top=2)
    assert found.model == "models/small/linear"
    answers = {Path(row["file"]).name: row for row in found.rows}
    assert answers.pop("broken.png")["reason"] == "no image"
    for row in answers.values():
        assert [one["class"] for one in row["classes"]] == ["dog", "emu"]
    every = cryobase.predict([Path(next(iter(found.rows))["file"])], model="x", top=3)
    assert "<td><b></td>" not in every._repr_html_()
    assert "<td>&lt;b&gt;</td>" in every._repr_html_()
    assert len(every.table()) in (1, 3)


def test_the_stages_narrate_unless_the_program_has_said_where_to(checkout, capsys, monkeypatch):
    logger, root = logging.getLogger("cryobase"), logging.getLogger()
    of_a_library, watched = io.StringIO(), []
    bars = logging.getLogger("cryobase.stages.progress")  # which are drawn where this is enabled

    def computing(*arguments):
        watched.append(bars.isEnabledFor(logging.INFO))
        return compute(*arguments)

    monkeypatch.setattr(stage, "_computed", computing)
    monkeypatch.setattr(root, "handlers", [logging.StreamHandler(of_a_library)])
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    for _ in range(2):
        cryobase.extract()
        assert capsys.readouterr().err.count("published at") == 1
    assert (logger.handlers, logger.level, logger.propagate) == ([], logging.NOTSET, True)
    assert of_a_library.getvalue() == ""
    assert watched == [True, True]
    lines = io.StringIO()
    logger.addHandler(logging.StreamHandler(lines))
    logger.setLevel(logging.INFO)
    cryobase.extract()
    assert "published at" in lines.getvalue()
    assert capsys.readouterr().err == ""

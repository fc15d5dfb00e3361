"""Every source, on data made on the spot, runs from download to evaluate."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryobase.stages import download, evaluate, extract, split, train
from cryobase.stages.data.raw import RawImages
from cryobase.stages.download import DownloadConfig
from cryobase.stages.heads.config import HeadConfig
from cryobase.store import FeatureSet
from tests.digits import one_digit_in
from tests.images import CLASSES, write_folder
from tests.unit.stages.sources.test_fetch import good, server  # noqa: F401 - a fixture
from tests.unit.stages.sources.test_unpack import tar_of

SHARES = split.SplitConfig(train=0.6, validation=0.2, test=0.2)


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    """One pool for all sources: equal images are computed once, wherever they come from."""
    return tmp_path_factory.mktemp("pool")


def run_all(config: DownloadConfig, root: Path, pool: Path) -> dict:
    """All stages up to evaluate, with few pixels; what `metrics.json` says."""
    raw, splits, features = root / "data" / "raw", root / "data" / "splits", root / "features"
    download.run(config, output=raw)
    split.run(SHARES, raw=raw, output=splits)
    small = extract.SetConfig(backbone="efficientnet_lite0", weights="none", image_size=32)
    sets = extract.ExtractConfig(engine="tensorflow", sets={"small": small})
    extract.run(sets, "small", raw=raw, pool=pool, output=features)
    heads = train.TrainConfig(heads={"ridge": HeadConfig(kind="ridge")})
    models = root / "models"
    train.run(heads, "small", features=features, splits=splits, cache=root / "heads", output=models)
    return evaluate.run(
        evaluate.EvaluateConfig(),
        "small",
        features=features,
        splits=splits,
        models=models,
        output=root / "results",
    )


def right(metrics: dict) -> float:
    """The share of right answers on validation and test images; by chance it is a third."""
    scores = metrics["heads"]["ridge"]
    return (scores["validation"]["accuracy"] + scores["test"]["accuracy"]) / 2


def write_source(kind: str, root: Path) -> DownloadConfig:
    """The same 60 pictures of three classes behind any source but `sample`."""
    images = root / "images"
    write_folder(images, 20)
    config = DownloadConfig(source="folder", path=str(images))
    if kind == "in_place":
        return replace(config, in_place=True)
    if kind == "flat":
        for path in sorted(images.glob("*/*")):
            path.rename(images / f"{path.parent.name}.{path.name}")
        return replace(config, pattern="^([a-z]+)\\.")
    if kind == "archive":
        members = sorted(images.glob("*/*"))
        data = tar_of([(str(path.relative_to(root)), path.read_bytes()) for path in members])
        (root / "images.tgz").write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        return DownloadConfig(source="archive", path=str(root / "images.tgz"), sha256=sha256)
    return config


@pytest.mark.parametrize("kind", ["folder", "in_place", "flat", "archive"])
def test_folders_and_archives_run_to_the_end(tmp_path, pool, kind):
    metrics = run_all(write_source(kind, tmp_path), tmp_path, pool)
    assert right(metrics) > 0.5
    rows = FeatureSet.open(tmp_path / "features", full=True)
    assert rows.classes == tuple(sorted(CLASSES))
    assert len(rows) == 60


def test_an_archive_from_a_faulty_server_runs_to_the_end(tmp_path, pool, server):  # noqa: F811
    config = write_source("archive", tmp_path)
    data = Path(config.path).read_bytes()
    server.behaviours = [
        lambda handler: handler.head(503, 0),
        lambda handler: handler.head(302, 0, Location="/moved.tgz"),
        lambda handler: good(handler, data, until=len(data) // 2, etag='"1"'),
        lambda handler: good(handler, data, etag='"2"'),
    ]
    config = replace(config, path="requirements.lock", url=server.url)
    assert right(run_all(config, tmp_path, pool)) > 0.5


@pytest.mark.filterwarnings("ignore:::etils.*", "ignore::DeprecationWarning")
def test_a_built_tfds_dataset_runs_to_the_end(tmp_path, pool):
    from tests.unit.stages.sources.flowers_dataset import MadePictures

    builder = MadePictures(data_dir=tmp_path / "tfds")
    builder.download_and_prepare()
    config = DownloadConfig(source="tfds", name="made_pictures", data_dir=str(tmp_path / "tfds"))
    assert right(run_all(config, tmp_path, pool)) > 0.5
    raw = RawImages.open(tmp_path / "data" / "raw")
    assert len(raw) == 60
    assert set(raw.parts.tolist()) == {b"train", b"test"}


def test_the_sample_runs_to_the_end(tmp_path, pool):
    with one_digit_in(25):
        metrics = run_all(DownloadConfig(), tmp_path, pool)
    assert "accuracy" in metrics["heads"]["ridge"]["test"]  # too few digits to learn from
    rows = FeatureSet.open(tmp_path / "features")
    assert rows.classes == tuple("0123456789")
    assert np.bincount(rows.labels()).tolist() == [20] * 10


def test_rows_do_not_depend_on_names_labels_or_the_source(tmp_path, pool):
    """Renamed, relabelled and packed otherwise, the same images need no new row."""
    run_all(write_source("folder", tmp_path / "a"), tmp_path / "a", pool)
    config = write_source("flat", tmp_path / "b")
    for path in sorted(Path(config.path).iterdir(), reverse=True):
        path.rename(path.with_name(path.name.replace("red.", "crimson.").replace("blue.", "red.")))
    raw = tmp_path / "b" / "data" / "raw"
    download.run(config, output=raw)
    small = extract.SetConfig(backbone="efficientnet_lite0", weights="none", image_size=32)
    sets = extract.ExtractConfig(engine="tensorflow", sets={"small": small})
    summary = extract.run(sets, "small", raw=raw, pool=pool, output=tmp_path / "b" / "features")
    assert (summary.computed, summary.reused) == (0, 60)
    rows = FeatureSet.open(tmp_path / "b" / "features")
    assert rows.classes == ("crimson", "green", "red")

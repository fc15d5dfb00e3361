"""A folder as people have it: mixed formats, broken files, odd names; nothing stops or shifts."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cryobase.stages import download, evaluate, extract, report, split, train
from cryobase.stages.backbones.build import build
from cryobase.stages.backbones.weights import locate_weights
from cryobase.stages.data.pixels import PixelSpec, load
from cryobase.stages.heads.config import HeadConfig
from cryobase.store import FeatureSet
from tests.closeness import BETWEEN_ENGINES, assert_close, rounding
from tests.images import CLASSES, picture

SIZE = 48
BROKEN = {
    "red/truncated.jpg": "truncated",
    "green/words.jpg": "text",
    "blue/empty.png": "empty",
}
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("messy")
    for label, name in enumerate(CLASSES):
        (root / name).mkdir()
        for number in range(15):
            kind = FORMATS[number % len(FORMATS)]
            image = Image.fromarray(picture(label, number, 40 + 7 * number))
            path = (
                root / name / f"{'größe 写真' if number % 2 else 'photo'} {number}.{kind.lower()}"
            )
            image.save(path, kind)
    whole = io.BytesIO()
    Image.fromarray(picture(0, 99, 200)).save(whole, "JPEG")
    (root / "red" / "truncated.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (root / "green" / "words.jpg").write_text("these are words")
    (root / "blue" / "empty.png").write_bytes(b"")
    (root / "LICENSE.txt").write_text("not an image either")
    return root


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory) -> Path:
    """A project's directory after all stages."""
    root = tmp_path_factory.mktemp("project")
    download.run(
        download.DownloadConfig(source="folder", path=str(folder)), output=root / "data/raw"
    )
    shares = split.SplitConfig(train=0.6, validation=0.2, test=0.2)
    split.run(shares, raw=root / "data/raw", output=root / "data/splits")
    small = extract.SetConfig(backbone="efficientnet_lite0", weights="none", image_size=SIZE)
    config = extract.ExtractConfig(engine="tensorflow", sets={"small": small})
    extract.run(
        config,
        "small",
        raw=root / "data/raw",
        pool=root / "pool",
        output=root / "features/small",
    )
    where = {"features": root / "features/small", "splits": root / "data/splits"}
    heads = train.TrainConfig(heads={"linear": HeadConfig(epochs=3)})
    train.run(heads, "small", **where, cache=root / "heads", output=root / "models/small")
    evaluate.run(
        evaluate.EvaluateConfig(),
        "small",
        **where,
        models=root / "models/small",
        output=root / "results/small",
    )
    return root


@pytest.mark.fault(1, 7, 20)
def test_broken_files_are_listed_with_their_reasons(done):
    listed = (done / "data/raw/quarantined.csv").read_text(encoding="utf-8")
    for name, reason in BROKEN.items():
        (line,) = [line for line in listed.splitlines() if line.startswith(name)]
        assert reason in line


def test_the_run_ends_with_a_scored_head(done):
    assert (done / "results/small/metrics.json").exists()
    assert len(FeatureSet.open(done / "features/small")) == len(CLASSES) * 15


@pytest.mark.fault(50)
def test_files_that_are_linked_into_a_cache_are_never_written_through(done, folder, tmp_path):
    """As DVC links outputs; every stage runs again over them, each to other content."""
    images, root, cache = tmp_path / "images", tmp_path / "project", tmp_path / "cache"
    shutil.copytree(folder, images)
    (images / "red" / "photo 0.jpeg").write_bytes(b"these are words too")
    shutil.copytree(done, root)
    results = {"sets": {"small": root / "results/small"}, "runs": {}, "output": root / "report"}
    report.run(report.ReportConfig(title="before"), **results)
    shutil.copytree(root, cache, copy_function=os.link)
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    raw, splits = root / "data/raw", root / "data/splits"
    config = download.DownloadConfig(source="folder", path=str(images))
    download.run(config, output=raw)
    split.run(split.SplitConfig(train=0.5, validation=0.3, test=0.2), raw=raw, output=splits)
    where = {"features": root / "features/small", "splits": splits}
    heads = train.TrainConfig(heads={"linear": HeadConfig(epochs=2)})
    train.run(heads, "small", **where, cache=root / "heads", output=root / "models/small")
    options = {"models": root / "models/small", "output": root / "results/small"}
    evaluate.run(evaluate.EvaluateConfig(), "small", **where, **options)
    report.run(report.ReportConfig(title="after"), **results)
    assert {path: path.read_bytes() for path in before} == before
    now = {path: root / path.relative_to(cache) for path in before}
    changed = {
        path.name
        for path, content in before.items()
        if not now[path].is_file() or now[path].read_bytes() != content
    }
    assert changed > {
        "quarantined.csv", "dataset.json", "splits.npz", "counts.csv", "head.json", "history.csv",
        "metrics.json", "predictions.csv", "index.html",
    }  # fmt: skip


def test_no_row_is_misaligned(done, folder):
    """Ids lead back to files, files to pixels, pixels to the stored features of that id."""
    features = FeatureSet.open(done / "features/small", full=True)
    weights = locate_weights("efficientnet_lite0", "none").path
    base = build(
        "efficientnet_lite0",
        weights,
        image_size=SIZE,
        preprocessing=features.spec.preprocessing,
        outputs=["avg"],
    )
    stored, labels = features.arrays(features.ids)
    files = [folder / identifier.decode() for identifier in features.ids]
    pixels = np.stack([load(path.read_bytes(), PixelSpec(image_size=SIZE)) for path in files])
    computed = np.asarray(base.predict(pixels, verbose=0)).reshape(stored.shape)
    spread = computed.std()
    half = rounding(1, "float16") * np.abs(computed).max() / spread  # as they are stored
    assert_close(stored, computed, within=BETWEEN_ENGINES + half, scale=spread)
    assert [CLASSES[label] for label in labels] == [path.parent.name for path in files]
    swapped = np.roll(computed, 1, axis=0)
    assert np.abs(stored - swapped).max() > 0.1 * spread  # the comparison can tell rows apart

"""The stage `extract`: what is computed, what is reused, and that no row is ever misplaced."""

import dataclasses
import hashlib
import logging
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from cryobase.stages import download, extract
from cryobase.stages.backbones.probes import CANARIES
from cryobase.stages.backbones.weights import WeightsFile
from cryobase.stages.data.augment import Augmentation, augment
from cryobase.stages.data.pixels import PixelSpec, load
from cryobase.stages.errors import DataError, DriftError
from cryobase.stages.extract import ExtractConfig, SetConfig
from cryobase.stages.extraction import engines, passes
from cryobase.stages.extraction.plan import Images, Pass, Target
from cryobase.store import FeatureSet, Pool
from tests.closeness import assert_close, rounding
from tests.images import picture, write_folder

SIZE = 32
POLICY = Augmentation(rotation=20, horizontal_flip=True)


class Means:
    """An engine that pools pixels, so that a row shows which image it is of."""

    name, streams = "tensorflow", 1
    started, seen, scale = 0, 0, 1.0

    def __init__(self, trunk, outputs, batch_size):
        Means.started += 1
        self.outputs, self.batch_size = outputs, batch_size
        self.shapes = [feature(np.zeros((1, SIZE, SIZE, 3)), name).shape[1:] for name in outputs]

    def __call__(self, batch):
        assert len(batch) <= self.batch_size
        Means.seen += len(batch)
        return [feature(batch, name) * np.float32(self.scale) for name in self.outputs]


def feature(batch, output):
    """`avg` is a coarse grid of the image, other outputs other sizes of it."""
    cells = {"avg": 4, "max": 2}.get(output, 8)
    grid = batch.reshape(len(batch), cells, SIZE // cells, cells, SIZE // cells, 3)
    return grid.mean(axis=(2, 4)).reshape(len(batch), -1).astype(np.float32) / 255


@pytest.fixture(autouse=True)
def stub(monkeypatch, tmp_path):
    monkeypatch.setattr(Means, "started", 0)
    monkeypatch.setattr(Means, "seen", 0)
    monkeypatch.setattr(Means, "scale", 1.0)
    monkeypatch.setitem(engines.ENGINES, "tensorflow", Means)
    monkeypatch.setenv("CRYOBASE_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "weights.h5"
    weights.write_bytes(b"weights")
    monkeypatch.setattr(
        extract,
        "locate_weights",
        lambda *_, **__: WeightsFile(weights, hashlib.sha256(weights.read_bytes()).hexdigest()),
    )


@pytest.fixture
def work(tmp_path):
    write_folder(tmp_path / "images", 6)
    return tmp_path


def fetch(work, **kwargs):
    config = download.DownloadConfig(source="folder", path=str(work / "images"), **kwargs)
    download.run(config, output=work / "raw")


def sets(**changes):
    plain = SetConfig(backbone="efficientnet_lite0", image_size=SIZE)
    return {name: dataclasses.replace(plain, **change) for name, change in changes.items()}


def run(work, name, config_sets, **kwargs):
    config = ExtractConfig(engine="tensorflow", batch_size=4, sets=config_sets, **kwargs)
    output = work / "features" / name
    return extract.run(config, name, raw=work / "raw", pool=work / "pool", output=output)


def expected_row(work, example_id, output="avg"):
    data = (work / "images" / example_id.decode()).read_bytes()
    pixels = load(data, PixelSpec(image_size=SIZE))
    return data, feature(pixels[None], output)[0]


def check(work, name, output="avg"):
    """Join ids, digests and features back to the pixels in the folder."""
    found = FeatureSet.open(work / "features" / name, full=True)
    good = ~found.examples.quarantined
    features, _ = found.arrays(found.examples.ids[good])
    for example_id, digest, row in zip(
        found.examples.ids[good], found.examples.digests[good], features, strict=True
    ):
        data, wanted = expected_row(work, example_id, output)
        assert hashlib.sha256(data).digest() == digest.tobytes()
        assert_close(row, wanted, within=rounding(1, "float16"))  # as they are stored
    return found


def test_rows_belong_to_their_images(work):
    fetch(work)
    summary = run(work, "a", sets(a={}))
    assert (summary.images, summary.computed, summary.reused) == (18, 18, 0)
    assert len(check(work, "a")) == 18


def test_nothing_new_starts_no_engine(work):
    fetch(work)
    run(work, "a", sets(a={}))
    summary = run(work, "a", sets(a={}))
    assert (summary.computed, summary.reused, Means.started) == (0, 18, 1)


def test_only_new_images_are_computed(work):
    fetch(work)
    run(work, "a", sets(a={}))
    seen = Means.seen
    write_folder(work / "images", 2, first=6)
    fetch(work)
    summary = run(work, "a", sets(a={}))
    assert (summary.computed, summary.reused) == (6, 18)
    assert Means.seen - seen == 6 + CANARIES
    check(work, "a")


def test_equal_images_are_computed_once_and_renamed_ones_never_again(work):
    shutil.copy(work / "images" / "red" / "0000.png", work / "images" / "red" / "twin.png")
    fetch(work)
    assert run(work, "a", sets(a={})).computed == 18
    (work / "images" / "red" / "0001.png").rename(work / "images" / "blue" / "moved.png")
    fetch(work)
    assert run(work, "a", sets(a={})).computed == 0
    assert len(check(work, "a").examples) == 19


def test_siblings_share_a_pass_and_publish_only_their_own(work):
    fetch(work)
    config = sets(a={}, b={"output": "max"}, c={"dtype": "float32"}, d={"image_size": 64})
    summary = run(work, "a", config)
    assert (summary.computed, summary.siblings, Means.started) == (18, 36, 1)
    assert Means.seen == 18 + CANARIES
    assert [path.name for path in (work / "features").iterdir()] == ["a"]
    assert run(work, "b", config).computed == 0
    assert run(work, "c", config).computed == 0
    check(work, "b", "max")


class Sees(Means):
    """An engine whose rows show the pixels and the trunk that they were computed by."""

    def __init__(self, trunk, outputs, batch_size):
        super().__init__(trunk, outputs, batch_size)
        parts = (trunk.backbone, trunk.weights.sha256, trunk.preprocessing, str(trunk.image_size))
        self.trunk = np.frombuffer(hashlib.sha256("".join(parts).encode()).digest(), "u1") / 255

    def __call__(self, batch):
        rows = batch[:, ::4, ::4][:, :8, :8].reshape(len(batch), -1)
        trunk = np.tile(self.trunk, (len(batch), 1))
        return [np.hstack([rows, trunk]).astype("f4") for _ in self.outputs]


@pytest.mark.parametrize(
    "change",
    [
        {"aspect": "crop"},
        {"aspect": "pad"},
        {"resize": "nearest"},
        {"decode": "fast"},
        {"preprocessing": "unit"},
        {"image_size": 64},
        {"weights": "other.h5"},
        {"backbone": "mobilenetv2"},
        {"output": "max", "aspect": "crop"},
    ],
    ids=str,
)
def test_a_sibling_that_sees_other_pixels_gets_none_of_the_rows(work, monkeypatch, change):
    """Extracted side by side, in either order, both have the rows that each has alone."""
    monkeypatch.setitem(engines.ENGINES, "tensorflow", Sees)
    sha256 = {"imagenet": "0" * 64, "other.h5": "1" * 64}
    monkeypatch.setattr(
        extract, "locate_weights", lambda _, name, **__: WeightsFile(work / name, sha256[name])
    )
    shutil.rmtree(work / "images")
    photograph = cv2.resize(picture(1, 0), (240, 160))
    (work / "images" / "red").mkdir(parents=True)
    cv2.imwrite(str(work / "images" / "red" / "0.jpg"), photograph)
    fetch(work)
    both = sets(plain={"dtype": "float32"}, other={"dtype": "float32"} | change)

    def rows(name, config_sets):
        run(work, name, config_sets)
        return FeatureSet.open(work / "features" / name, full=True).arrays()[0]

    alone = {}
    for name, one in both.items():
        alone[name] = rows(name, {name: one})
        shutil.rmtree(work / "pool")
        shutil.rmtree(work / "features")
    assert not np.array_equal(alone["plain"], alone["other"])
    for order in (["plain", "other"], ["other", "plain"]):
        for name in order:
            assert np.array_equal(rows(name, both), alone[name])
        shutil.rmtree(work / "pool")
        shutil.rmtree(work / "features")


def test_one_pass_for_sets_that_cannot_share_it_is_refused(work):
    fetch(work)
    specs = [extract.spec_of(one) for one in sets(a={}, b={"aspect": "crop"}).values()]
    targets = tuple(Target(Pool(work / "pool", spec), 0) for spec in specs)
    with pytest.raises(ValueError, match="one pass for sets that differ in aspect"):
        passes.compute(targets, Images(work / "raw"), None, engine="tensorflow", batch_size=4)
    policies = [replace(specs[0], augmentation=text) for text in ("{}", '{"zoom": 0.1}')]
    targets = tuple(Target(Pool(work / "pool", spec), 1) for spec in policies)
    Pass(targets, np.zeros(1, "i8"), np.zeros(1, "u2"))
    with pytest.raises(ValueError, match="differ in augmentation"):
        Pass(targets, np.zeros(1, "i8"), np.ones(1, "u2"))


def test_one_more_output_computes_only_that_one(work):
    fetch(work)
    run(work, "a", sets(a={}))
    asked = []
    original = Means.__init__

    def spy(self, trunk, outputs, batch_size):
        asked.append(list(outputs))
        original(self, trunk, outputs, batch_size)

    Means.__init__ = spy
    try:
        summary = run(work, "b", sets(a={}, b={"output": "layer:flatten"}))
    finally:
        Means.__init__ = original
    assert asked == [["layer:flatten"]]
    assert (summary.computed, summary.siblings) == (18, 0)


def test_views_are_those_of_augment_and_more_views_compute_only_the_new_ones(work):
    fetch(work)
    views = {"augmentation": POLICY, "dtype": "float32"}
    assert run(work, "v", sets(v={"views": 1, **views})).computed == 36
    summary = run(work, "v", sets(v={"views": 3, **views}))
    assert (summary.computed, summary.reused) == (36, 36)
    found = FeatureSet.open(work / "features" / "v", full=True)
    assert found.views == 3
    for view in range(4):
        features, _ = found.arrays(view=view)
        for example_id, digest, row in zip(
            found.examples.ids, found.examples.digests, features, strict=True
        ):
            data, _ = expected_row(work, example_id)
            pixels = load(data, PixelSpec(image_size=SIZE))
            wanted = feature(augment(pixels, POLICY, digest.tobytes(), view)[None], "avg")[0]
            assert_close(row, wanted, within=rounding(64))  # means of 8 x 8 pixels


def test_plain_rows_are_shared_by_policies_but_views_are_not(work):
    fetch(work)
    other = Augmentation(zoom=0.3)
    config = sets(a={"views": 1, "augmentation": POLICY}, b={"views": 1, "augmentation": other})
    summary = run(work, "a", config)
    assert (summary.computed, summary.siblings) == (36, 36)
    assert Means.seen - Means.started * CANARIES == 18 + 18 + 18
    run(work, "b", config)
    one, two = (FeatureSet.open(work / "features" / name) for name in "ab")
    assert np.array_equal(one.arrays()[0], two.arrays()[0])
    assert np.abs(one.arrays(view=1)[0] - two.arrays(view=1)[0]).max() > 0.01


@pytest.mark.fault(1, 7)
def test_an_image_that_fails_after_all_is_quarantined_and_shifts_nothing(work, monkeypatch, caplog):
    fetch(work)
    bad = (work / "images" / "green" / "0003.png").read_bytes()
    original = passes.load

    def fails(data, spec):
        if data == bad:
            raise extract_error("broken in a new decoder")
        return original(data, spec)

    monkeypatch.setattr(passes, "load", fails)
    caplog.set_level(logging.WARNING)
    summary = run(work, "a", sets(a={}))
    assert (summary.computed, summary.quarantined) == (17, 1)
    assert "green/0003.png: in quarantine: broken in a new decoder" in caplog.text
    assert len(check(work, "a").examples) == 18


def extract_error(reason):
    from cryobase.stages.data.pixels import UndecodableImageError

    return UndecodableImageError(reason)


@pytest.mark.fault(2)
def test_an_image_that_changed_since_download_stops_the_run_by_name(work):
    fetch(work, in_place=True)
    path = work / "images" / "green" / "0003.png"
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"green/0003\.png has changed; run `cryobase download`"):
        run(work, "a", sets(a={}))
    assert not (work / "features" / "a").exists()


def test_a_pulled_set_is_adopted_by_an_empty_pool(work):
    fetch(work)
    run(work, "a", sets(a={}))
    shutil.rmtree(work / "pool")
    write_folder(work / "images", 1, first=6)
    fetch(work)
    summary = run(work, "a", sets(a={}))
    assert (summary.adopted, summary.reused, summary.computed) == (18, 18, 3)
    check(work, "a")


def test_drift_of_the_canary_rows_stops_the_run(work, monkeypatch):
    fetch(work)
    run(work, "a", sets(a={}))
    write_folder(work / "images", 1, first=6)
    fetch(work)
    monkeypatch.setattr(Means, "scale", 1.05)
    with pytest.raises(DriftError, match=r"with tensorflow: the canary images' features differ by"):
        run(work, "a", sets(a={}))


@pytest.mark.fault(63)
@pytest.mark.parametrize("limit", ["max_bytes", "free"])
def test_rows_without_room_are_refused_before_decoding(work, monkeypatch, limit):
    fetch(work)
    monkeypatch.setattr(passes, "load", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(
        "cryobase.stages.extraction.cluster.connect", lambda *_: pytest.fail("started")
    )
    two = sets(a={"views": 1, "augmentation": POLICY}, b={"output": "max", "dtype": "float32"})
    needed = 18 * 1280 * (2 * 2 + 4)
    kwargs = {"max_bytes": needed - 1} if limit == "max_bytes" else {}
    if limit == "free":
        usage = shutil.disk_usage(work)._replace(free=needed - 1)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    for workers in (0, 1):
        with pytest.raises(passes.TooLargeError, match=f"need {needed:,} bytes, {needed - 1:,} "):
            run(work, "a", two, workers=workers, **kwargs)


@pytest.mark.fault(16)
def test_a_dataset_without_a_good_image_is_refused(work, monkeypatch):
    for path in (work / "images").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"18 files is an image; the first is blue/0000\.png"):
        fetch(work)
    monkeypatch.setattr(download, "_refuse_nothing", lambda *_: None)
    fetch(work)
    with pytest.raises(DataError, match="no image that can be decoded"):
        run(work, "a", sets(a={}))


@pytest.mark.fault(24)
@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 64},
        {"resize": "nearest"},
        {"aspect": "crop"},
        {"decode": "fast"},
        {"preprocessing": "unit"},
        {"output": "max"},
        {"dtype": "float32"},
        {"views": 1, "augmentation": POLICY},
        {"backbone": "vgg16"},
    ],
)
def test_every_choice_that_changes_values_changes_the_fingerprint(change):
    plain, changed = map(extract.spec_of, sets(plain={}, changed=change).values())
    assert plain.fingerprint != changed.fingerprint
    found = {name: theirs for name, (_, theirs) in plain.differences(changed).items()}
    wanted = {"augmentation": POLICY.to_json()} if "views" in change else change
    assert wanted.items() <= found.items()


@pytest.mark.fault(24)
def test_other_weights_and_another_extractor_change_the_fingerprint(monkeypatch, tmp_path):
    config = sets(a={})["a"]
    plain = extract.spec_of(config)
    (tmp_path / "weights.h5").write_bytes(b"other weights")
    assert set(plain.differences(extract.spec_of(config))) == {"weights_sha256"}
    monkeypatch.setattr(extract, "EXTRACTOR_VERSION", 2)
    changed = {"weights_sha256", "extractor_version"}
    assert set(plain.differences(extract.spec_of(config))) == changed


def test_spelling_out_the_defaults_changes_no_fingerprint():
    plain = SetConfig(backbone="vgg16")
    spelt = SetConfig(backbone="vgg16", image_size=224, preprocessing="caffe", augmentation=POLICY)
    assert extract.spec_of(plain).fingerprint == extract.spec_of(spelt).fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "vgg17"}, "backbone: one of efficientnet_lite0, vgg16"),
        ({"image_size": 20}, "image_size: efficientnet_lite0 takes 32 or more"),
        ({"views": -1}, "views: 0 to"),
        ({"views": 1}, "augmentation: needed"),
        ({"output": ":avg"}, "output: avg, max, flatten"),
        ({"output": ""}, "output: avg, max, flatten"),
    ],
)
def test_values_out_of_range_name_their_key(change, message):
    with pytest.raises(ValueError, match=message):
        sets(a=change)


@pytest.mark.parametrize("change", [{"workers": -1}, {"batch_size": 0}, {"max_bytes": 0}])
def test_section_values_out_of_range_name_their_key(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))}: "):
        ExtractConfig(**change)

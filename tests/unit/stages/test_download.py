"""From a source to data/raw: incremental, deterministic, and no bad image stops it."""

import csv
import hashlib
import logging
import os
import shutil
import sys
import tarfile
import tracemalloc
import typing

import numpy as np
import pytest

from cryobase.stages import download
from cryobase.stages.data import index, packs
from cryobase.stages.data.pixels import decode
from cryobase.stages.data.png import encode_png
from cryobase.stages.data.raw import RawImages
from cryobase.stages.download import DownloadConfig, run
from cryobase.stages.errors import DataError
from cryobase.stages.sources import ingest
from cryobase.stages.sources.source import SourceExample
from cryobase.stages.sources.table import SOURCES
from tests.unit.stages.data.test_decoding import encoded, photo
from tests.unit.stages.sources.test_unpack import full


@pytest.fixture
def images(tmp_path):
    """Two classes of four photographs each."""
    for number in range(8):
        add(tmp_path / "images", f"{'ab'[number % 2]}/{number}.png", number)
    return tmp_path / "images"


def add(root, name, seed, image_format="PNG"):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(photo(12, 9, seed=seed), image_format))
    return path


def fetch(images, output, **options):
    return run(DownloadConfig(source="folder", path=str(images), **options), output=output)


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "data" / "raw"


def ids(raw):
    return [identifier.decode() for identifier in RawImages.open(raw).examples.ids]


def pack_files(raw):
    return {path.name: path.stat().st_ino for path in raw.glob("*.tar")}


def test_sample_is_the_digits_of_the_wheel(raw):
    summary = run(DownloadConfig(), output=raw)
    assert summary == download.DownloadSummary(5000, 10, 5000, 0)
    images = RawImages.open(raw)
    assert images.examples.classes == tuple("0123456789")
    assert np.bincount(images.examples.labels).tolist() == [500] * 10
    assert images.examples.ids[[0, -1]].tolist() == [b"0/00000", b"9/04999"]
    digit = decode(images.read(0))
    assert digit.shape == (28, 28, 3)
    assert index.read(raw).packs[0].sha256.startswith(SAMPLE_SHA256), "the same on every machine"


SAMPLE_SHA256 = "df478d7b83349cd7"


def test_every_image_comes_back_by_its_position(images, raw, caplog):
    caplog.set_level(logging.INFO)
    fetch(images, raw)
    stored = RawImages.open(raw)
    assert ids(raw) == sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    for position, name in enumerate(ids(raw)):
        data = (images / name).read_bytes()
        assert stored.read(position) == data
        assert stored.examples.digests[position].tobytes() == hashlib.sha256(data).digest()
        assert stored.examples.classes[stored.examples.labels[position]] == name[0]
    assert "found 8 images of 2 classes" in caplog.text
    assert (stored.index.height.tolist(), stored.index.width.tolist()) == ([12] * 8, [9] * 8)


def test_packs_are_plain_tars_named_by_content(images, raw, tmp_path):
    fetch(images, raw)
    (pack,) = raw.glob("*.tar")
    assert pack.name == f"pack-{hashlib.sha256(pack.read_bytes()).hexdigest()[:16]}.tar"
    with tarfile.open(pack) as opened:
        for member in opened:
            data = opened.extractfile(member).read()
            assert member.name == f"{hashlib.sha256(data).hexdigest()}.png"
            assert (member.mtime, member.uid, member.uname) == (0, 0, "")
    fetch(images, tmp_path / "again")
    assert pack_files(tmp_path / "again").keys() == {pack.name}
    assert (tmp_path / "again" / index.RECORD).read_bytes() == (raw / index.RECORD).read_bytes()


def test_a_second_run_decodes_nothing_and_keeps_every_pack(images, raw, monkeypatch):
    fetch(images, raw)
    before = {path.name: path.read_bytes() for path in raw.iterdir()}, pack_files(raw)
    monkeypatch.setattr(ingest.decoding, "examine", lambda data: pytest.fail("decoded again"))
    assert fetch(images, raw).new == 0
    assert ({path.name: path.read_bytes() for path in raw.iterdir()}, pack_files(raw)) == before


def test_new_images_add_a_pack_and_removed_ones_leave_the_index(images, raw):
    fetch(images, raw)
    before = pack_files(raw)
    add(images, "a/100.png", 100)
    (images / "b" / "1.png").unlink()
    assert fetch(images, raw) == download.DownloadSummary(8, 2, 1, 0)
    assert before.items() < pack_files(raw).items()
    assert "a/100.png" in ids(raw)
    assert "b/1.png" not in ids(raw)
    test_positions(images, raw)


def test_positions(images, raw):
    fetch(images, raw)
    stored = RawImages.open(raw)
    for position, name in enumerate(ids(raw)):
        assert stored.read(position) == (images / name).read_bytes()


def test_packs_that_are_mostly_dead_are_written_anew(images, raw):
    fetch(images, raw)
    before = pack_files(raw)
    for number in range(6):
        (images / "ab"[number % 2] / f"{number}.png").unlink()
    assert fetch(images, raw).new == 0
    (after,) = pack_files(raw)
    assert after not in before
    assert (raw / after).stat().st_size < 8 * 1024
    test_positions(images, raw)


def test_packs_roll_over(images, raw, monkeypatch):
    monkeypatch.setattr(
        packs.PackWriter.__init__, "__kwdefaults__", {"first": 0, "pack_bytes": 2000}
    )
    fetch(images, raw)
    assert len(pack_files(raw)) > 3
    test_positions(images, raw)


@pytest.mark.fault(15)
def test_duplicates_are_stored_once_and_renaming_decodes_nothing(images, raw, monkeypatch):
    shutil.copy(images / "a" / "0.png", images / "a" / "copy.png")
    assert fetch(images, raw).images == 9
    assert len(index.read(raw).digest) == 8
    before = pack_files(raw)
    (images / "a" / "0.png").rename(images / "b" / "renamed.png")
    monkeypatch.setattr(ingest.decoding, "examine", lambda data: pytest.fail("decoded again"))
    fetch(images, raw)
    assert pack_files(raw) == before
    test_positions(images, raw)


@pytest.mark.fault(1, 7)
def test_bad_images_are_quarantined_with_a_reason(images, raw, caplog, monkeypatch):
    good = (images / "a" / "0.png").read_bytes()
    (images / "a" / "cut.jpg").write_bytes(encoded(photo(), "JPEG")[:900])
    (images / "a" / "words.jpg").write_bytes(b"these are words, no image at all")
    (images / "b" / "nothing.png").write_bytes(b"")
    (images / "b" / "müll.png").write_bytes(good)
    os.mkfifo(images / "b" / "pipe.png")
    (images / "b" / "dangling.png").symlink_to("nowhere.png")
    assert fetch(images, raw) == download.DownloadSummary(14, 2, 13, 5)
    stored = RawImages.open(raw)
    reasons = dict(zip(ids(raw), stored.reasons, strict=True))
    assert {name for name, reason in reasons.items() if reason} == {
        "a/cut.jpg", "a/words.jpg", "b/nothing.png", "b/pipe.png", "b/dangling.png",
    }  # fmt: skip
    assert "Premature end" in reasons["a/cut.jpg"]
    assert reasons["b/dangling.png"] == "cannot be read: a link that leads nowhere"
    assert reasons["b/pipe.png"] == "cannot be read: no regular file"
    assert reasons["b/nothing.png"] == "empty file"
    assert stored.examples.quarantined.tolist() == [bool(reason) for reason in stored.reasons]
    assert "a/words.jpg: text, not an image" in caplog.text
    with pytest.raises(DataError, match="quarantined"):
        stored.read(ids(raw).index("a/words.jpg"))
    with (raw / "quarantined.csv").open() as file:
        assert {row["id"] for row in csv.DictReader(file)} == {n for n, r in reasons.items() if r}
    monkeypatch.setattr(ingest.decoding, "examine", lambda data: pytest.fail("decoded again"))
    assert fetch(images, raw) == download.DownloadSummary(14, 2, 0, 5)


@pytest.mark.fault(17)
def test_labels_are_numbers_of_sorted_classes_in_whatever_order_these_come(tmp_path, raw):
    for number, label in enumerate(["dog", "bee", "cat", "dog"], 1):
        add(tmp_path / "images", f"{number}.{label}.png", number)
    for label in ([], ["ant"]):
        for name in label:
            add(tmp_path / "images", f"9.{name}.png", 9)
        fetch(tmp_path / "images", raw, pattern=r"\.(.*)\.")
        found = RawImages.open(raw).examples
        assert found.classes == (*label, "bee", "cat", "dog")
        assert [found.classes[number] for number in found.labels] == [
            name.split(".")[1] for name in ids(raw)
        ]


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no class sub-folders with images"),
        (["1.png", "2.png"], r"no class sub-folders with images, only 1\.png, 2\.png;"),
        (["a/"], "no images; put some there"),
        (["a/.DS_Store", "a/.hidden.png"], r"no images \(left out: .*hidden.*\); put some there"),
    ],
)
def test_a_folder_without_classes_or_images_is_refused(tmp_path, raw, names, message):
    root = tmp_path / "images"
    root.mkdir()
    for name in names:
        (root / name).mkdir() if name.endswith("/") else add(root, name, 0)
    with pytest.raises(DataError, match=message):
        fetch(root, raw)
    assert not (raw / index.RECORD).exists()
    with pytest.raises(DataError, match="no such folder"):
        fetch(tmp_path / "missing", raw)


@pytest.mark.fault(20)
@pytest.mark.skipif(sys.platform == "darwin", reason="APFS takes UTF-8 alone")
def test_file_names_of_any_bytes_are_kept_reversibly(images, raw):
    data = encoded(photo(5, 5), "PNG")
    for name in (b"gr\xfcn.png", "ü ✓.png".encode(), b"back\\slash\\xe9.png"):
        with open(os.fsencode(images / "a") + b"/" + name, "wb") as file:
            file.write(data + name)
    fetch(images, raw, in_place=True)
    stored = RawImages.open(raw)
    assert r"a/gr\xfcn.png" in ids(raw)
    for position in range(len(stored)):
        assert stored.read(position)


@pytest.mark.fault(19)
def test_an_id_of_more_than_512_bytes_is_refused_by_name(images, raw):
    add(images, "a/" + "/".join(["d" * 200] * 3) + "/x.png", 50)
    with pytest.raises(DataError, match=r"dddd.*at most 512"):
        fetch(images, raw)


def test_in_place_copies_nothing_and_notices_changes(images, raw):
    fetch(images, raw, in_place=True)
    assert pack_files(raw) == {}
    test_in_place_positions(images, raw)
    position = ids(raw).index("a/0.png")
    (images / "a" / "0.png").write_bytes(encoded(photo(12, 9, seed=77), "PNG"))
    with pytest.raises(DataError, match="has changed"):
        RawImages.open(raw).read(position)
    assert fetch(images, raw, in_place=True).new == 1
    assert fetch(images, raw).new == 8, "leaving in_place packs every image"
    assert fetch(images, raw, in_place=True).new == 0
    assert pack_files(raw) == {}


def test_in_place_positions(images, raw):
    fetch(images, raw, in_place=True)
    stored = RawImages.open(raw)
    for position, name in enumerate(ids(raw)):
        assert stored.read(position) == (images / name).read_bytes()


def test_parts_above_the_classes_are_kept(tmp_path, raw, caplog):
    for number, part in enumerate(["Train", "val", "test"]):
        for label in "ab":
            add(tmp_path / "images", f"{part}/{label}/{number}.png", number)
    add(tmp_path / "images", "sketches/x.png", 9)
    fetch(tmp_path / "images", raw)
    assert "left out: sketches" in caplog.text
    stored = RawImages.open(raw)
    assert stored.examples.classes == ("a", "b")
    assert dict(zip(ids(raw), stored.parts.tolist(), strict=True)) == {
        "Train/a/0.png": b"train", "Train/b/0.png": b"train", "test/a/2.png": b"test",
        "test/b/2.png": b"test", "val/a/1.png": b"validation", "val/b/1.png": b"validation",
    }  # fmt: skip


@pytest.mark.parametrize("pattern", [r"^(cat|dog)\.", r"(?P<label>[a-z]+)\.[0-9]+", "^(?:cat|dog)"])
def test_labels_in_file_names(tmp_path, raw, pattern, caplog):
    for number in range(4):
        add(tmp_path / "images", f"{('cat', 'dog')[number % 2]}.{number}.png", number)
    add(tmp_path / "images", "3.png", 9)
    fetch(tmp_path / "images", raw, pattern=pattern)
    stored = RawImages.open(raw)
    assert ids(raw) == ["cat.0.png", "cat.2.png", "dog.1.png", "dog.3.png"]
    assert [stored.examples.classes[label] for label in stored.examples.labels] == (
        ["cat", "cat", "dog", "dog"]
    )
    assert "left out: no label: 1 (3.png)" in caplog.text


def test_very_deep_folders_and_unreadable_ones_are_errors_in_one_line(images, raw, monkeypatch):
    deep = images / "a"
    for _ in range(70):
        deep /= "d"
    deep.mkdir(parents=True)
    with pytest.raises(DataError, match="more than 64 folders deep"):
        fetch(images, raw)
    shutil.rmtree(images / "a" / "d")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"b: cannot be listed"):
        fetch(images, raw)


def test_the_table_of_sources_is_what_params_take():
    assert set(SOURCES) == set(typing.get_args(typing.get_type_hints(DownloadConfig)["source"]))


def test_nested_folders_belong_to_their_class(images, raw):
    add(images, "a/deep/er/x.png", 40)
    fetch(images, raw)
    assert "a/deep/er/x.png" in ids(raw)


@pytest.mark.parametrize("content", ["missing", "empty", "flat", "words"])
def test_nothing_to_find_is_an_error_in_one_line(tmp_path, raw, content):
    root = tmp_path / "images"
    if content != "missing":
        root.mkdir()
    if content == "flat":
        add(root, "cat.0.png", 0)
    if content == "words":
        (root / "a").mkdir()
        (root / "a" / "words.jpg").write_text("words, words, words, words")
    with pytest.raises(DataError) as caught:
        fetch(root, raw)
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "key"),
    [({"source": "web"}, "source"), ({"pattern": "("}, "pattern"), ({"in_place": True}, "in_place"),
     ({"sha256": "abc"}, "sha256"), ({"source": "tfds"}, "name"),
     ({"splits": {"dev": "x"}}, "splits")],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(options, key):
    with pytest.raises(ValueError, match=f"^{key}:"):
        DownloadConfig(**options)


def read_the_last(raw):
    stored = RawImages.open(raw)
    return stored.read(len(stored) - 1)


@pytest.mark.parametrize("damage", ["pack gone", "pack short", "index flipped", "record broken"])
def test_damage_is_named_and_the_next_run_mends_it(images, raw, damage):
    fetch(images, raw)
    (pack,) = raw.glob("*.tar")
    (columns,) = raw.glob("index-*.npz")
    if damage == "pack gone":
        pack.unlink()
    elif damage == "pack short":
        data = pack.read_bytes()[:700]
        pack.unlink()
        pack.write_bytes(data)
    elif damage == "index flipped":
        data = bytearray(columns.read_bytes())
        data[len(data) // 2] ^= 1
        columns.unlink()
        columns.write_bytes(data)
    else:
        (raw / index.RECORD).write_text('{"schema": 1, "packs": [')
    with pytest.raises(DataError, match=raw.name):
        read_the_last(raw)
    fetch(images, raw)
    test_positions(images, raw)


@pytest.mark.fault(2)
def test_a_flipped_bit_in_a_pack_is_named(images, raw):
    fetch(images, raw)
    (pack,) = raw.glob("*.tar")
    data = bytearray(pack.read_bytes())
    data[600] ^= 1
    pack.unlink()
    pack.write_bytes(data)
    with pytest.raises(DataError, match=r"run `rm .*pack-.*tar && cryobase download`"):
        RawImages.open(raw).read(0)
    pack.unlink()
    test_positions(images, raw)


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_killed_run_leaves_the_old_index(images, raw, monkeypatch):
    fetch(images, raw)
    before = ids(raw)
    add(images, "a/100.png", 100)
    with monkeypatch.context() as patch:
        patch.setattr(index, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(images, raw)
    assert ids(raw) == before
    (raw / ".tmp-leftover").write_bytes(b"")
    assert fetch(images, raw).images == 9
    assert not (raw / ".tmp-leftover").exists()
    assert len(list(raw.glob("index-*.npz"))) == 1


def test_thousands_of_images_go_through_a_bounded_queue(monkeypatch):
    from cryobase.store.parallel import ordered_map

    running, peak = set(), []

    def items():
        for number in range(500):
            running.add(number)
            peak.append(len(running))
            yield number

    for position, result in enumerate(ordered_map(lambda n: n * n, items(), workers=2)):
        assert result == position**2
        running.discard(position)
    assert max(peak) <= 10


def test_a_full_disk_ends_in_one_line_and_keeps_the_old_index(images, raw, monkeypatch):
    fetch(images, raw)
    before = ids(raw)
    add(images, "a/100.png", 100)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(DataError, match="make room"):
            fetch(images, raw)
    assert ids(raw) == before
    assert not list(raw.glob(".tmp-*"))
    assert fetch(images, raw).new == 1


class Noise:
    """A source of images of about 190 kB, made as they are asked for."""

    classes = ("a", "b")

    def __init__(self, count):
        self.count = count

    def examples(self):
        for number in range(self.count):
            pixels = np.random.default_rng(number).integers(0, 256, (250, 250, 3), dtype=np.uint8)
            label = "ab"[number % 2]
            yield SourceExample(f"{label}/{number}.png", label, None, encode_png(pixels))


def test_memory_does_not_grow_with_the_dataset(tmp_path, monkeypatch):
    sizes = {"first": 0, "pack_bytes": 2 << 20}
    monkeypatch.setattr(packs.PackWriter.__init__, "__kwdefaults__", sizes)
    peaks = []
    for count in (40, 160):
        tracemalloc.start()
        (tmp_path / str(count)).mkdir()
        ingest.Ingest(tmp_path / str(count), workers=2).run(Noise(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 16 << 20

"""Labels that contradict each other and classes that look like a mistake are said."""

import csv
import unicodedata

import pytest

from cryobase.stages.data.raw import RawImages
from cryobase.stages.download import DownloadConfig, run
from tests.unit.stages.sources.test_unpack import tar_of
from tests.unit.stages.test_download_left_out import archive, jpeg

CAFE = "café"
NFC, NFD = (unicodedata.normalize(form, CAFE) for form in ("NFC", "NFD"))


def members(names):
    return [(name, jpeg(number)) for number, name in enumerate(names)]


def fetch(root, names, **options):
    """Make a folder of different images and download it; its index."""
    for name, data in members(names):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    config = DownloadConfig(source="folder", path=str(root / "images"), **options)
    run(config, output=root / "raw")
    return RawImages.open(root / "raw").index


def conflicts(root):
    with (root / "raw" / "conflicts.csv").open(encoding="utf-8", newline="") as file:
        return [(row["id"], row["label"]) for row in csv.DictReader(file)]


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_equal_bytes_under_two_labels_are_named_with_both_ids(tmp_path, caplog):
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "b").mkdir()
    for name, seed in [("a/1.jpg", 9), ("b/2.jpg", 9), ("b/3.jpg", 9), ("a/4.jpg", 8),
                       ("a/5.jpg", 8)]:  # fmt: skip
        (tmp_path / "images" / name).write_bytes(jpeg(seed + 100))
    for name in ("a/empty.jpg", "b/empty.jpg"):  # no image, so no label is wrong
        (tmp_path / "images" / name).write_bytes(b"")
    found = fetch(tmp_path, ["c/1.jpg"])
    assert conflicts(tmp_path) == [("a/1.jpg", "a"), ("b/2.jpg", "b"), ("b/3.jpg", "b")]
    assert "equal bytes under different labels: 1 times" in caplog.text
    assert "  a/1.jpg (a) and b/2.jpg (b), …" in warnings(caplog)
    assert len(found.ids) == 8, "all examples stay"


def test_many_conflicts_are_counted_and_a_clean_folder_has_none(tmp_path, caplog):
    fetch(tmp_path, ["a/x.jpg", "b/y.jpg"])
    assert conflicts(tmp_path) == []
    assert "different labels" not in caplog.text
    for number in range(15):
        for label in "ab":
            (tmp_path / "images" / label / f"{number}.jpg").write_bytes(jpeg(100 + number))
    fetch(tmp_path, [])
    assert len(conflicts(tmp_path)) == 30
    assert "under different labels: 15 times" in caplog.text
    assert "  and 5 more" in warnings(caplog)


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ("Cat", "cat", "'Cat' and 'cat' differ only in case"),
        (NFC, NFD, r"'cafe\u0301' and 'caf\xe9' differ only in Unicode form"),
        ("cat", "cat ", "'cat' and 'cat ' differ only in blanks"),
        ("golden retriever", "golden_retriever", "differ only in blanks"),
        ("cat", "cat\u200b", r"'cat' and 'cat\u200b' differ only in blanks"),
        (NFC, NFD.upper() + " ", "differ only in case, blanks or Unicode form"),
    ],
)
def test_class_names_that_look_the_same_are_named_and_not_merged(
    tmp_path, caplog, one, other, difference
):
    found = fetch(tmp_path, [f"{one}/1.png", f"{other}/2.png", "dog/3.png"])
    if len(found.classes) < 3:
        pytest.skip("this file system takes the names for the same")
    (line,) = warnings(caplog)
    assert difference in line
    assert "not merged" in line


def test_labels_of_a_pattern_are_compared_too(tmp_path, caplog):
    fetch(tmp_path, ["Cat.1.png", "cat.2.png", "dog.3.png"], pattern=r"^(\w+)\.")
    assert "'Cat' and 'cat' differ only in case" in caplog.text


@pytest.mark.parametrize("names", [("cat", "cats"), ("1-2", "12"), ("co-op", "coop"), ("é", "e")])
def test_names_that_differ_are_left_alone(tmp_path, caplog, names):
    fetch(tmp_path, [f"{name}/{number}.png" for number, name in enumerate(names)])
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["f/daisy/1.jpg", "f/rose/2.jpg"], "set download.path to {root}/f"),
        (["f/f/daisy/1.jpg", "f/f/rose/2.jpg"], "set download.path to {root}/f/f"),
        (["f/daisy/1.jpg", "f/rose/2.jpg", "docs/.read.jpg"], "in its folders 'daisy', 'rose'"),
        (["d/train/a/1.jpg", "d/test/a/2.jpg"], "set download.path to {root}/d"),
        (["train/images/a/1.jpg", "train/images/b/2.jpg", "test/images/a/3.jpg"], "move them up"),
        (["a/1.jpg", "a/2.jpg"], "all images are of one class, 'a': a classifier needs two"),
        (["train/a/1.jpg", "test/a/2.jpg"], "all images are of one class, 'a': a classifier"),
    ],
)
def test_one_class_is_said_and_where_the_classes_seem_to_be(tmp_path, caplog, names, said):
    fetch(tmp_path, names)
    assert said.format(root=tmp_path / "images") in caplog.text


def test_the_folder_that_is_named_for_a_wrapped_one_has_the_classes(tmp_path, caplog):
    fetch(tmp_path, ["f/f/daisy/1.jpg", "f/f/rose/2.jpg"])
    (line,) = warnings(caplog)
    path = line.partition("set download.path to ")[2]
    config = DownloadConfig(source="folder", path=path)
    run(config, output=tmp_path / "raw")
    assert RawImages.open(tmp_path / "raw").index.classes == ("daisy", "rose")
    assert len(warnings(caplog)) == 1, "nothing more to say"


def test_an_archive_whose_wrapping_folder_has_company_is_told_of_too(tmp_path, caplog):
    content = members(["f/daisy/1.jpg", "f/rose/2.jpg", "cover.jpg"])
    run(archive(tmp_path / "archive", tar_of(content)), output=tmp_path / "raw")
    assert "all images are of one class, 'f', in its folders 'daisy', 'rose'" in caplog.text
    assert "download.path to its f" in caplog.text


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_class_that_train_lacks_is_named(tmp_path, caplog, part):
    names = ["train/a/1.jpg", "train/b/2.jpg", "test/a/3.jpg", "val/b/4.jpg"]
    fetch(tmp_path, [*names, f"{part}/unknown/5.jpg"])
    (line,) = warnings(caplog)
    assert "no image of 'unknown' is in train" in line


@pytest.mark.parametrize(
    "names", [["train/a/1.jpg", "dev/a/2.jpg"], ["val/a/1.jpg", "test/a/2.jpg", "test/b/3.jpg"]]
)
def test_parts_that_were_taken_for_classes_are_named(tmp_path, caplog, names):
    fetch(tmp_path, names)
    assert "became a class: a split of your own is train/<class>" in caplog.text


def test_a_class_without_a_usable_image_is_named(tmp_path, caplog):
    (tmp_path / "images" / "empty").mkdir(parents=True)
    (tmp_path / "images" / "broken").mkdir()
    (tmp_path / "images" / "broken" / "1.jpg").write_bytes(b"words")
    (tmp_path / "images" / "broken" / "2.jpg").symlink_to("nowhere.jpg")
    fetch(tmp_path, ["a/1.jpg", "b/2.jpg"])
    assert "no usable image of 'broken', 'empty'" in caplog.text

"""What is no image is counted by reason and listed, whatever the source."""

import csv
import hashlib
import logging
import os
import shutil
from pathlib import Path

import pytest

from cryobase.stages.data.raw import RawImages
from cryobase.stages.download import DownloadConfig, run
from cryobase.stages.errors import DataError
from cryobase.stages.predict import image_files
from cryobase.stages.sources import left_out
from cryobase.stages.sources.table import SOURCES
from tests.unit.stages.data.test_decoding import encoded, photo
from tests.unit.stages.sources.test_unpack import tar_of, zip_of

JPEG = encoded(photo(8, 9), "JPEG")


def jpeg(seed):
    return encoded(photo(8, 9, seed=seed), "JPEG")


# Photographs of licence plates, notice boards, end credits, and of files with unlikely names.
IMAGES = [
    "a/license plate 1.jpg", "a/notice-board-2.JPG", "a/credits.png", "a/README.png",
    "a/copying.webp", "a/copyright notice", "a/LICENSE", "b/really a photo.txt", "b/table.csv",
    "b/deep/attribution.tif.jpeg", "b/no extension", "b/unknown.extension",
]  # fmt: skip
LEFT_OUT = {
    "a/.DS_Store": "system file",
    "a/._1.jpg": "system file",
    "a/.1.jpg": "hidden file",
    "a/.cache/": "hidden folder",
    "a/@eaDir/": "system folder",
    "a/Thumbs.db": "system file",
    "b/.thumbnails/": "system folder",
    "b/#recycle/": "system folder",
    "b/COPYING": "licence or read-me",
    "b/desktop.ini": "system file",
    "b/LICENCE.md": "licence or read-me",
    "b/notes.txt": "text",
    "b/1.jpg:Zone.Identifier": "system file",
    "b/boxes.xml": "table or record",
    "b/deep/Readme": "licence or read-me",
    "labels.csv": "table or record",
    "lost+found/": "system folder",
    "__MACOSX/": "system folder",
    "top.jpg": "outside class folders",
}


def content():
    """(name, bytes) of all that the folder holds."""
    found = [(name, jpeg(number)) for number, name in enumerate(IMAGES)]
    for name in LEFT_OUT:
        text = b"words, words, words, and no image at all"
        if name.endswith("/"):
            found += [(name + "x/2.jpg", JPEG), (name + "1.jpg", JPEG)]
        else:
            found.append((name, JPEG if name.endswith(".jpg") else text))
    return found


@pytest.fixture
def folder(tmp_path):
    for name, data in content():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "images"


def archive(path, data):
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    return DownloadConfig(source="archive", path=str(path), sha256=sha256)


def table(raw, name="left_out.csv"):
    with (raw / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def listed(raw):
    """The table; a cell that a spreadsheet would take for a formula begins with a quote."""
    return {row["path"].removeprefix("'"): row["reason"] for row in table(raw)}


def ids(raw):
    return {identifier.decode() for identifier in RawImages.open(raw).examples.ids}


@pytest.mark.parametrize("kind", ["folder", "in_place", "tar", "zip", "wrapped", "wrapped zip"])
def test_an_image_is_an_image_and_all_else_is_counted_and_listed(tmp_path, folder, caplog, kind):
    caplog.set_level(logging.INFO)
    raw = tmp_path / "raw"
    members = [(f"top/folder/{name}" if "wrapped" in kind else name, d) for name, d in content()]
    if kind in ("folder", "in_place"):
        config = DownloadConfig(source="folder", path=str(folder), in_place=kind == "in_place")
    else:
        build = zip_of if "zip" in kind else tar_of
        config = archive(tmp_path / "archive", build(members))
    run(config, output=raw)
    assert ids(raw) == set(IMAGES)
    assert not any(RawImages.open(raw).reasons)
    assert listed(raw) == LEFT_OUT
    (line,) = [line for line in caplog.messages if line.startswith("left out:")]
    for reason in set(LEFT_OUT.values()):
        assert f"{reason}: {list(LEFT_OUT.values()).count(reason)} (" in line
    assert "outside class folders: 1 (top.jpg)" in line


def test_a_pattern_leaves_the_same_out_and_what_it_does_not_match(tmp_path, folder, caplog):
    config = DownloadConfig(source="folder", path=str(folder), pattern="(license|credits|top)")
    run(config, output=tmp_path / "raw")
    assert ids(tmp_path / "raw") == {"a/license plate 1.jpg", "a/credits.png", "top.jpg"}
    unmatched = set(IMAGES) - ids(tmp_path / "raw")
    expected = LEFT_OUT | dict.fromkeys(unmatched, "no label")
    del expected["top.jpg"]
    assert listed(tmp_path / "raw") == expected
    assert f"no label: {len(unmatched)} (" in caplog.text


def test_what_stands_beside_train_and_test_is_counted_file_by_file(tmp_path, caplog):
    for number, name in enumerate(
        ["train/a/1.jpg", "test/a/2.jpg", "train/loose.jpg", "extra/a/3.jpg", "extra/4.jpg",
         "cover.jpg", "more/.5.jpg"]
    ):  # fmt: skip
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    run(DownloadConfig(source="folder", path=str(tmp_path / "images")), output=tmp_path / "raw")
    assert ids(tmp_path / "raw") == {"train/a/1.jpg", "test/a/2.jpg"}
    assert listed(tmp_path / "raw") == {
        "cover.jpg": "beside train and test", "extra/a/3.jpg": "beside train and test",
        "extra/4.jpg": "beside train and test", "more/.5.jpg": "hidden file",
        "train/loose.jpg": "outside class folders",
    }  # fmt: skip
    assert "beside train and test: 3 (cover.jpg, …)" in caplog.text
    assert "left out: extra, more" in caplog.text


def test_links_to_folders_are_not_followed_and_listed(tmp_path, folder, caplog):
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "c").symlink_to("/etc")
    run(DownloadConfig(source="folder", path=str(folder)), output=tmp_path / "raw")
    assert "link to a folder: 2 (" in caplog.text
    links = {"a/loop/": "link to a folder", "c/": "link to a folder"}
    assert listed(tmp_path / "raw") == LEFT_OUT | links


def test_a_broken_link_is_listed_or_in_quarantine(tmp_path, folder):
    broken = {
        "c": "nowhere",
        "loop": "loop",
        "d": folder / "a" / "gone.jpg" / "below a file",
        "e": "n" * 300,
    }
    for name, target in broken.items():
        (folder / name).symlink_to(target)
    (folder / "a" / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "a" / "loop.jpg").symlink_to("loop.jpg")
    summary = run(DownloadConfig(source="folder", path=str(folder)), output=tmp_path / "raw")
    assert listed(tmp_path / "raw") == LEFT_OUT | dict.fromkeys(broken, "broken link")
    assert summary.quarantined == 2


def test_a_folder_that_cannot_be_listed_stops_the_run_only_where_it_is_needed(
    tmp_path, monkeypatch
):
    for number, name in enumerate(["train/a/1.jpg", "test/a/2.jpg", "more/3.jpg", "@eaDir/4.jpg"]):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    scandir, closed = os.scandir, "more"

    def refuse(path):
        if Path(path).name in (closed, "@eaDir"):
            raise PermissionError(13, "denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    config = DownloadConfig(source="folder", path=str(tmp_path / "images"))
    run(config, output=tmp_path / "raw")
    assert listed(tmp_path / "raw") == {
        "more/": "beside train and test",
        "@eaDir/": "system folder",
    }
    closed = "test"
    with pytest.raises(DataError, match="test: cannot be listed"):
        run(config, output=tmp_path / "raw")


def test_the_table_is_bounded_and_says_so(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(left_out, "LISTED", 3)
    run(DownloadConfig(source="folder", path=str(folder)), output=tmp_path / "raw")
    *rows, last = table(tmp_path / "raw")
    assert len(rows) == 3
    assert last == {"path": "", "reason": f"{len(LEFT_OUT) - 3} more, counted in the log"}


def test_a_folder_of_nothing_but_images_has_an_empty_table_and_no_line(tmp_path, folder, caplog):
    caplog.set_level(logging.INFO)
    for name in LEFT_OUT:
        path = folder / name
        shutil.rmtree(path) if name.endswith("/") else path.unlink()
    run(DownloadConfig(source="folder", path=str(folder)), output=tmp_path / "raw")
    assert table(tmp_path / "raw") == []
    assert "left out" not in caplog.text


def test_predict_looks_at_the_same_files_as_download(folder):
    found = {path.relative_to(folder).as_posix() for path in image_files([folder])}
    assert found == {*IMAGES, "top.jpg"}
    assert list(image_files([folder / "b" / "notes.txt"])) == [folder / "b" / "notes.txt"]


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_says_what_it_left_out(source, tmp_path):
    config = DownloadConfig(
        source=source, path="somewhere", name="some" if source == "tfds" else None
    )
    assert SOURCES[source](config.own, tmp_path).left_out.counts.total() == 0

"""`watch` notices every change of a source that DVC would, and what stops DVC does not stop it."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from cryobase.stages import watch
from cryobase.stages.download import DownloadConfig
from cryobase.stages.errors import DataError


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    for name in ("a/1.png", "a/2.png", "b/deep/3.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 100)
    return folder


def look(path: Path, **config) -> watch.Watched:
    source = path.parent / "source.json"
    asked = DownloadConfig(**{"source": "folder", "path": str(path), **config})
    beside = {name: path.parent / f"{name}.json" for name in ("source", "listed", "extractor")}
    found = watch.run(asked, names={"inputs": []}, **beside)
    assert json.loads(source.read_text()) == dataclasses.asdict(found)
    return found


def test_nothing_new_is_nothing_new(images):
    assert look(images) == look(images)
    assert (look(images).files, look(images).bytes) == (3, 300)


def replaced(path: Path) -> None:
    """Another file of equal name, size and time, as `cp -p` makes."""
    times = path.stat()
    (path.parent / "new").write_bytes(b"y" * 100)
    os.utime(path.parent / "new", ns=(times.st_atime_ns, times.st_mtime_ns))
    (path.parent / "new").replace(path)


def overwritten(path: Path) -> None:
    times = path.stat()
    path.write_bytes(b"y" * 100)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "b/4.png").write_bytes(b"z"),
        lambda root: (root / "a/1.png").unlink(),
        lambda root: (root / "a/1.png").rename(root / "a/0.png"),
        lambda root: (root / "a").rename(root / "c"),
        lambda root: (root / "a/1.png").rename(root / "b/1.png"),
        lambda root: replaced(root / "a/1.png"),
        lambda root: overwritten(root / "a/1.png"),
        lambda root: (root / "a/gone.png").symlink_to("/nonexistent"),
        lambda root: (root / os.fsdecode(b"a/caf\xe9.png")).write_bytes(b"z"),
    ],
    ids=["new", "gone", "name", "class", "moved", "replaced", "overwritten", "broken", "no UTF-8"],
)
def test_every_change_is_noticed(images, change):
    before = look(images)
    change(images)
    after = look(images)
    assert after.state != before.state
    assert look(images) == after


def test_a_file_behind_a_link_is_watched_and_a_linked_folder_is_not(images, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_bytes(b"1")
    (images / "a/link.png").symlink_to(tmp_path / "other/file")
    (images / "a/loop").symlink_to(images)
    before = look(images)
    (tmp_path / "other/new").write_bytes(b"1")
    assert look(images) == before
    (tmp_path / "other/file").write_bytes(b"22")
    assert look(images) != before


def test_an_archive_is_watched_as_a_file(tmp_path):
    path = tmp_path / "images.tar"
    path.write_bytes(b"1")
    before = look(path, source="archive", sha256="0" * 64)
    path.write_bytes(b"2")
    assert look(path, source="archive", sha256="0" * 64) != before


def test_what_has_no_files_here_is_known_by_what_params_say(tmp_path):
    def of(**config):
        return look(tmp_path / "none", **config)

    server = {"source": "archive", "url": "https://example.org/a.tar"}
    assert of(source="sample") == of(source="sample")
    assert of(**server, sha256="0" * 64) != of(**server, sha256="1" * 64)
    assert of(source="tfds", name="a") != of(source="tfds", name="b")


@pytest.mark.parametrize("relative", [True, False])
def test_no_source_is_an_error_that_names_the_mend(tmp_path, monkeypatch, relative):
    monkeypatch.chdir(tmp_path)
    path = Path("images") if relative else tmp_path / "images"
    config = DownloadConfig(source="folder", path=str(path))
    beside = {name: tmp_path / f"{name}.json" for name in ("source", "listed", "extractor")}
    ask = {"names": {}, **beside}
    with pytest.raises(watch.NoSourceError, match=r"set download\.path") as caught:
        watch.run(config, **ask)
    assert ("copy of the checkout" in str(caught.value)) == relative
    (tmp_path / "images.dvc").touch()
    with pytest.raises(watch.NoSourceError, match="run `dvc pull"):
        watch.run(config, **ask)
    assert not (tmp_path / "source.json").exists()
    # Without the images an upgrade must show all the same: features may be adopted from elsewhere.
    assert json.loads((tmp_path / "extractor.json").read_text()) == {"extractor_version": 1}


def test_another_version_of_features_is_another_file(images, monkeypatch):
    written = images.parent / "extractor.json"
    look(images)
    before = written.read_text()
    look(images)
    assert written.read_text() == before
    monkeypatch.setattr(watch, "EXTRACTOR_VERSION", 2)
    look(images)
    assert json.loads(written.read_text()) == {"extractor_version": 2}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_named(images):
    (images / "b/deep").chmod(0)
    try:
        with pytest.raises(DataError, match="b/deep: cannot be read"):
            look(images)
    finally:
        (images / "b/deep").chmod(0o700)

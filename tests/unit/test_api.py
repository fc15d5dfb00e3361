"""`cryobase.open`, the face of the package."""

from pathlib import Path

import pytest

import cryobase
from cryobase.store.errors import IntegrityError, StoreError, StoreNotFoundError
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
    assert cryobase.__all__ == ["open"]

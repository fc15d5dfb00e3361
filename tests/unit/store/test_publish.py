import errno
import os
import stat

import pytest

from cryobase.store import ConflictError, IntegrityError, StorageError, StoreNotFoundError
from cryobase.store.publish import (
    copy,
    make_directory,
    publish_bytes,
    remove,
    replacing,
    share,
    write,
)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_publishes_whole_and_leaves_nothing_else(tmp_path):
    path = publish_bytes(tmp_path / "a" / "b", "name", b"content")
    assert path.read_bytes() == b"content"
    assert names(path.parent) == ["name"]


@pytest.mark.fault(42, 53)
def test_an_identical_file_is_success_and_another_one_is_kept(tmp_path):
    path = publish_bytes(tmp_path, "name", b"content")
    inode = path.stat().st_ino
    publish_bytes(tmp_path, "name", b"content")
    with pytest.raises(ConflictError, match="other content"):
        publish_bytes(tmp_path, "name", b"other")
    assert (path.read_bytes(), path.stat().st_ino) == (b"content", inode)
    assert names(tmp_path) == ["name"]


@pytest.mark.fault(32)
def test_a_link_at_the_final_name_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"content")
    (tmp_path / "name").symlink_to(victim)
    with pytest.raises((ConflictError, IntegrityError)):
        publish_bytes(tmp_path, "name", b"content")
    assert victim.read_bytes() == b"content"


def test_files_are_readable_by_those_who_read_the_directory_and_writable_by_none(tmp_path):
    for mode, expected in ((0o755, 0o444), (0o750, 0o440), (0o2770, 0o440), (0o700, 0o400)):
        tmp_path.chmod(mode)
        path = publish_bytes(tmp_path, f"{mode}", b"x")
        assert stat.S_IMODE(path.stat().st_mode) == expected


def test_directories_below_a_shared_one_are_shared(tmp_path):
    tmp_path.chmod(0o2770)
    make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o2070 == 0o2070
    tmp_path.chmod(0o1777)
    make_directory(tmp_path / "c")
    assert not (tmp_path / "c").stat().st_mode & stat.S_IWGRP


def test_share_links_and_replaces_a_copy(tmp_path):
    source = publish_bytes(tmp_path / "pool", "name", b"content")
    target = tmp_path / "set" / "name"
    target.parent.mkdir()
    share(source, target)
    assert target.samefile(source)
    target.unlink()
    target.write_bytes(b"content")
    share(source, target)
    assert target.samefile(source)
    assert source.stat().st_nlink == 2
    assert names(target.parent) == ["name"]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EACCES])
def test_share_copies_where_no_link_is_possible(tmp_path, monkeypatch, code):
    source = publish_bytes(tmp_path / "pool", "name", b"content")
    target = tmp_path / "set" / "name"
    target.parent.mkdir()

    def link(*_args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("cryobase.store.publish.os.link", link)
    share(source, target)
    assert target.read_bytes() == b"content"
    assert not target.samefile(source)
    inode = target.stat().st_ino
    share(source, target)
    assert target.stat().st_ino == inode
    assert names(target.parent) == ["name"]


def test_share_of_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(StoreNotFoundError, match="absent"):
        share(tmp_path / "absent", tmp_path / "target")


@pytest.mark.fault(32)
def test_copy_takes_regular_files_of_the_right_size_alone(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"content")
    copy(source, tmp_path / "target", 7)
    assert (tmp_path / "target").read_bytes() == b"content"
    with pytest.raises(IntegrityError, match="6 bytes"):
        copy(source, tmp_path / "other", 6)
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(IntegrityError, match="symbolic link"):
        copy(tmp_path / "link", tmp_path / "other", 7)


@pytest.mark.fault(49)
@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_an_error_and_stays_as_it_is(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(StorageError, match=r"/name: permission denied$"):
        publish_bytes(tmp_path, "name", b"content")
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o555
    tmp_path.chmod(0o755)


def test_remove_of_a_missing_file_is_success(tmp_path):
    remove(tmp_path / "absent")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "rates.json"
    path.write_bytes(b"old")
    with pytest.raises(UnicodeEncodeError), replacing(path) as temporary:
        temporary.write_text("half \udcff", encoding="utf-8")  # makes the file, and fails
    assert path.read_bytes() == b"old"
    with replacing(path) as temporary:
        write(temporary, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["rates.json"]

"""Hostile and damaged archives: refused as a whole, nothing written, never a traceback."""

import gzip
import io
import os
import shutil
import stat
import struct
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from stages.data import tar, unpack
from stages.data.left_out import Tally
from stages.data.unpack import HostileArchiveError
from stages.data.unpack import unpack as unpack_archive
from stages.errors import DataError
from tests.scale import rounds

PICTURE = bytes(range(256)) * 5


def tar_of(members, mode="w:gz", kind=tarfile.GNU_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=kind) as archive:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(members, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


BUILDERS = {
    "tar": lambda members: tar_of(members, "w"),
    "tar.gz": tar_of,
    "pax": lambda members: tar_of(members, "w:gz", tarfile.PAX_FORMAT),
    "zip": zip_of,
}


@pytest.fixture(params=BUILDERS)
def build(request):
    return BUILDERS[request.param]


def tree(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def attempt(tmp_path, data):
    """Unpack beside a witness; the files unpacked, or the error, and nothing else anywhere."""
    archive = tmp_path / "archive"
    archive.write_bytes(data)
    target = tmp_path / "inner" / "target"
    target.mkdir(parents=True, exist_ok=True)
    error = None
    try:
        unpack_archive(archive, target, Tally())
    except DataError as caught:
        error = caught
        assert "\n" not in str(error)
    outside = {name: data for name, data in tree(tmp_path).items() if "target/" not in name}
    assert outside == {"archive": data}
    return tree(target), error


def test_regular_files_are_unpacked(tmp_path, build):
    members = [("top/a/1.jpg", PICTURE), ("./top/b/é ü.png", b""), ("top/" + "x" * 180, b"1")]
    files, error = attempt(tmp_path, build(members))
    assert error is None
    assert files == {"top/a/1.jpg": PICTURE, "top/b/é ü.png": b"", "top/" + "x" * 180: b"1"}


def test_licences_and_hidden_files_stay_in_the_archive(tmp_path, build):
    members = [("a/LICENSE.txt", b"x"), ("a/.DS_Store", b"x"), ("__MACOSX/a/._1.jpg", b"x"),
               ("a/1.jpg", b"1")]  # fmt: skip
    assert attempt(tmp_path, build(members))[0] == {"a/1.jpg": b"1"}


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    "name",
    ["../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg", "C:/evil.jpg", "a\\..\\evil.jpg",
     "a/\x07evil.jpg", "..", "a/" * 40 + "deep.jpg", "x" * 300],
)  # fmt: skip
def test_names_that_lead_out_refuse_the_whole_archive(tmp_path, build, name):
    files, error = attempt(tmp_path, build([("a/good.jpg", PICTURE), (name, PICTURE)]))
    assert files == {}
    assert isinstance(error, HostileArchiveError)


@pytest.mark.fault(10, 11)
@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE],
)
def test_links_and_devices_refuse_the_whole_tar(tmp_path, kind):
    link = tarfile.TarInfo("a/link")
    link.type, link.linkname = kind, "../../../outside"
    files, error = attempt(tmp_path, tar_of([("a/good.jpg", PICTURE), (link, b"")]))
    assert files == {}
    assert "link or device" in str(error)


@pytest.mark.fault(10)
@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK]
)
def test_links_and_devices_refuse_the_whole_zip(tmp_path, kind):
    link = zipfile.ZipInfo("a/link")
    link.external_attr = (kind | 0o777) << 16
    files, error = attempt(tmp_path, zip_of([("a/good.jpg", PICTURE), (link, b"/etc")]))
    assert files == {}
    assert isinstance(error, HostileArchiveError)


@pytest.mark.fault(11)
def test_the_long_path_bypass_of_tarfile_is_refused(tmp_path):
    """CVE-2025-4517: links whose expanded target is longer than PATH_MAX, then a write through."""
    members, path = [], ""
    for step in "abcdefghijklmnop":
        folder = tarfile.TarInfo(path + "d" * 247)
        folder.type = tarfile.DIRTYPE
        link = tarfile.TarInfo(path + step)
        link.type, link.linkname = tarfile.SYMTYPE, "d" * 247
        members += [(folder, b""), (link, b"")]
        path += "d" * 247 + "/"
    members.append(("escape/../../evil", PICTURE))
    files, error = attempt(tmp_path, tar_of(members))
    assert files == {}
    assert error is not None


@pytest.mark.fault(12)
def test_bombs_are_refused_before_they_go_off(tmp_path, build, monkeypatch):
    monkeypatch.setattr(unpack, "SLACK", 1 << 20)
    zeros = bytes(8 << 20)
    if build is not BUILDERS["tar"]:
        files, error = attempt(tmp_path, build([("a/bomb.bmp", zeros)]))
        assert files == {}
        assert "unpacks to more than" in str(error)
    monkeypatch.setattr(unpack, "MAX_MEMBERS", 10)
    files, error = attempt(tmp_path, build([(f"a/{n}.jpg", b"1") for n in range(11)]))
    assert files == {}
    assert "more than 10 files" in str(error)
    monkeypatch.setattr(unpack, "MAX_UNPACKED", 1000)
    files, error = attempt(tmp_path, build([("a/1.jpg", PICTURE)]))
    assert files == {}
    assert "unpacks to more than 1,000 bytes" in str(error)
    monkeypatch.undo()
    little = shutil.disk_usage(tmp_path)._replace(free=len(PICTURE) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: little)
    files, error = attempt(tmp_path, build([("a/1.jpg", PICTURE)]))
    assert files == {}
    assert "1,279 bytes free, 1,280 to unpack; make room" in str(error)


@pytest.mark.fault(12)
def test_a_zip_bomb_of_65_kilobytes_is_refused_as_configured(tmp_path):
    data = zip_of([("a/bomb.bmp", bytes(64 << 20))])
    assert len(data) < 70_000
    files, error = attempt(tmp_path, data)
    assert files == {}
    assert isinstance(error, HostileArchiveError)


@pytest.mark.fault(12)
def test_overlapping_members_and_lying_sizes_are_refused(tmp_path):
    data = bytearray(zip_of([("a/1.jpg", PICTURE * 9), ("a/2.jpg", PICTURE * 9)]))
    entry = data.index(b"PK\x01\x02")
    struct.pack_into("<I", data, entry + 20, 1 << 20)  # compressed size
    files, error = attempt(tmp_path, bytes(data))
    assert files == {}
    assert isinstance(error, HostileArchiveError)
    data = bytearray(zip_of([("a/1.jpg", PICTURE * 9)]))
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 10)  # uncompressed size
    assert attempt(tmp_path, bytes(data))[1] is not None


@pytest.mark.fault(12)
@pytest.mark.parametrize(("signature", "offset", "width"), [(b"PK\5\6", 12, 4), (b"PK\6\6", 40, 8)])
def test_a_zip_with_a_huge_directory_is_refused_unread(
    tmp_path, monkeypatch, signature, offset, width
):
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("read"))
    end = bytearray(56)
    end[:4], end[offset : offset + width] = signature, ((256 << 20) + 1).to_bytes(width, "little")
    error = attempt(tmp_path, b"PK\3\4" + bytes(600) + end)[1]
    assert "a central directory of 268,435,457 bytes" in str(error)


@pytest.mark.fault(12)
def test_a_tar_with_endless_headers_or_padding_is_refused(tmp_path, monkeypatch):
    huge = tarfile.TarInfo("a")
    for kind, size in ((tarfile.XHDTYPE, 1 << 40), (tarfile.GNUTYPE_LONGNAME, 1 << 17)):
        huge.type, huge.size = kind, size
        data = huge.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 17) + tar_of([("a/1.jpg", b"1")], "w")
        assert f"a header of {size:,} bytes" in str(attempt(tmp_path, data)[1])
    huge.size = 512
    names = (huge.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 9
    data = names + tar_of([("a/1.jpg", b"1")], "w")
    assert "too many extended headers" in str(attempt(tmp_path, data)[1])
    monkeypatch.setattr(tar, "MAX_PADDING", 1 << 16)
    padded = gzip.compress(gzip.decompress(tar_of([("a/1.jpg", b"1")])) + bytes(1 << 17))
    assert "after the end" in str(attempt(tmp_path, padded)[1])
    monkeypatch.setattr(tar, "MAX_HEADERS", 5)
    folders = [tarfile.TarInfo(f"{number}") for number in range(9)]
    for folder in folders:
        folder.type = tarfile.DIRTYPE
    assert attempt(tmp_path, tar_of([(folder, b"") for folder in folders]))[1] is not None


@pytest.mark.fault(13)
@pytest.mark.parametrize(
    "pair",
    [("a/1.jpg", "a/1.jpg"), ("a/1.jpg", "a/1.JPG"), ("a/\u00e9.jpg", "a/e\u0301.jpg"),
     ("Cat/1.jpg", "cat/2.jpg"), ("a", "a/1.jpg"), ("a/1.jpg", "a")],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_colliding_names_refuse_the_whole_archive(tmp_path, build, pair):
    files, error = attempt(tmp_path, build([(name, PICTURE) for name in pair]))
    assert files == {}
    assert "collides" in str(error)


@pytest.mark.fault(14)
def test_a_cut_archive_is_refused_and_nothing_of_it_is_written(tmp_path, build):
    noise = np.random.default_rng(0).bytes(50_000)
    data = build([("a/1.jpg", noise), ("a/2.jpg", noise)])
    cuts = [len(data) * tenths // 10 for tenths in range(10)]
    if build is not BUILDERS["tar"]:  # whose last bytes are padding
        cuts.append(len(data) - 1)
    for cut in cuts:
        files, error = attempt(tmp_path, data[:cut])
        assert files == {}
        assert error is not None


@pytest.mark.parametrize(
    "data", [b"", b"text", b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c", bytes(1024)]
)
def test_other_files_are_refused(tmp_path, data):
    assert "not a .tar, .tar.gz or .zip" in str(attempt(tmp_path, data)[1])


def test_a_full_disk_is_no_damaged_archive(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "_write", full)
    assert "make room" in str(attempt(tmp_path, tar_of([("a/1.jpg", b"1")]))[1])


def full(*_):
    raise OSError(28, "No space left on device")


def test_an_encrypted_zip_is_refused(tmp_path):
    data = bytearray(zip_of([("a/1.jpg", PICTURE)]))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    assert "encrypted" in str(attempt(tmp_path, bytes(data))[1])


@pytest.mark.skipif(sys.platform == "darwin", reason="APFS takes UTF-8 alone")
def test_names_that_are_no_utf8_come_through(tmp_path):
    name = os.fsdecode(b"a/gr\xfcn.jpg")
    files, error = attempt(tmp_path, tar_of([(name, b"1")], "w"))
    assert error is None
    assert files == {name: b"1"}


@pytest.mark.fault(9, 12, 14)
def test_mutated_archives_are_unpacked_or_refused_with_one_line(tmp_path):
    random = np.random.default_rng(4)
    members = [("top/a/1.jpg", PICTURE), ("top/b/" + "n" * 120, random.bytes(900))]
    seeds = [builder(members) for builder in BUILDERS.values()]
    refused = 0
    for number in range(rounds(300)):
        data = bytearray(seeds[number % len(seeds)])
        for _ in range(random.integers(1, 6)):
            data[random.integers(0, len(data))] = random.integers(0, 256)
        if number % 6 == 0:
            del data[random.integers(0, len(data)) :]
        place = tmp_path / str(number)
        place.mkdir()
        refused += attempt(place, bytes(data))[1] is not None
    assert refused > 10

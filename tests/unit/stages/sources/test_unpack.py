"""Hostile and damaged archives: refused as a whole, nothing written, never a traceback."""

import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import sys
import tarfile
import zipfile
import zlib

import numpy as np
import pytest

from cryobase.stages.errors import DataError
from cryobase.stages.sources import formats, tar, unpack, zip
from cryobase.stages.sources.left_out import Tally
from cryobase.stages.sources.unpack import HostileArchiveError
from cryobase.stages.sources.unpack import unpack as unpack_archive
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


def zip_of(members, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
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
    tmp_path.mkdir(exist_ok=True)
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
    assert "members overlap" in str(error)
    data = bytearray(zip_of([("a/1.jpg", PICTURE * 9)]))
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 10)  # uncompressed size
    assert attempt(tmp_path, bytes(data))[1] is not None


@pytest.mark.fault(12)
@pytest.mark.parametrize("wide", [False, True])
def test_a_zip_with_a_huge_directory_is_refused_unread(tmp_path, wide):
    huge = (256 << 20) + 1
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 0xFFFFFFFF if wide else huge, 0, 0)
    if wide:
        record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, huge, 0)
        end = record + struct.pack("<4sLQL", b"PK\6\7", 0, 604, 1) + end
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
    ("data", "what"),
    [
        (b"", "begins with nothing"), (b"text", "begins with 74 65"), (bytes(1024), "begins with"),
        (b"Rar!\x1a\x07", "a RAR archive"), (b"7z\xbc\xaf\x27\x1c", "with `7z x "),
        (lzma.compress(tar_of([("a/1.jpg", b"1")], "w")), "with `tar -xJf "),
        (tar_of([("a/1.jpg", b"1")], "w:bz2"), "with `tar -xjf "),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd"), (b"LZIP\x01", "compressed by lzip"),
        (b"PK\x07\x08PK\x03\x04", "a part of a split zip"), (b"MZ\x90", "a Windows program"),
        (b"<!DOCTYPE html>", "an HTML page"),
        (gzip.compress(b"label,pixel\n" * 99, mtime=0), "gzip, and in it what is not a .tar"),
        (gzip.compress(gzip.compress(PICTURE * 9, mtime=0), mtime=0), "begins with 1f 8b"),
        (gzip.compress(b"7z\xbc\xaf\x27\x1c" + PICTURE, mtime=0), "with `7z x "),
    ],
)  # fmt: skip
def test_other_files_are_named_and_not_called_damaged(tmp_path, data, what):
    error = str(attempt(tmp_path, data)[1])
    assert what in error
    assert "not a .tar, .tar.gz or .zip file" in error
    assert "damaged" not in error


@pytest.mark.parametrize(
    ("method", "name"), [(9, "Deflate64"), (6, "Implode"), (93, "Zstandard"), (98, "PPMd"),
                         (95, "XZ"), (77, "method 77")],
)  # fmt: skip
def test_a_zip_of_another_compression_is_named_and_not_called_damaged(tmp_path, method, name):
    files, error = attempt(tmp_path, changed(zip_of([("a/1.jpg", PICTURE)]), method=method))
    assert files == {}
    assert f"member 'a/1.jpg' is compressed by {name}" in str(error)
    assert "7z x" in str(error)
    assert "damaged" not in str(error)


def changed(data, flags=None, method=None, made=None):
    """A zip of one member with other numbers in both of its headers."""
    data = bytearray(data)
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.index(signature)
        if flags is not None:
            struct.pack_into("<H", data, place + at, flags)
        if method is not None:
            struct.pack_into("<H", data, place + at + 2, method)
        if made is not None and signature == b"PK\x01\x02":
            data[place + 5] = made
    return bytes(data)


@pytest.mark.parametrize("disk", [4, 6])
def test_a_part_of_a_split_zip_is_named(tmp_path, disk):
    data = bytearray(zip_of([("a/1.jpg", PICTURE)]))
    data[data.rindex(b"PK\5\6") + disk] = 1
    assert "a part of a split zip; run `zip -s 0 " in str(attempt(tmp_path, bytes(data))[1])
    data = bytearray(zip_of([("a/1.jpg", PICTURE)]))
    end = data.rindex(b"PK\5\6")
    data[end:end] = struct.pack("<4sLQL", b"PK\6\7", 1, 0, 3)
    assert "a part of a split zip; run `zip -s 0 " in str(attempt(tmp_path, bytes(data))[1])


@pytest.mark.parametrize("flags", [1, 0x41, 1 << 13, 1 << 5])
def test_encrypted_and_patching_members_are_named(tmp_path, flags):
    error = str(attempt(tmp_path, changed(zip_of([("a/1.jpg", PICTURE)]), flags=flags))[1])
    assert "encrypted" in error if flags != 1 << 5 else "is a patch" in error
    assert "damaged" not in error


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_the_methods_of_zips_that_are_read(tmp_path, method):
    members = [("a/1.jpg", PICTURE), ("a/2.jpg", b""), ("a/3.jpg", PICTURE * 999)]
    data = zip_of(members, compression=method)
    assert attempt(tmp_path / "good", data)[0] == dict(members)
    _, error = attempt(tmp_path / "x", data[:60] + bytes([data[60] ^ 1]) + data[61:])
    assert error is not None
    if method == zipfile.ZIP_LZMA:
        wide = bytearray(data)
        at = wide.index(b"a/1.jpg") + 7 + 4 + 1  # after the name, a version, a length, lc/lp/pb
        struct.pack_into("<L", wide, at, 4_000_000_000)
        assert "needs 4,000,000,000 bytes of memory" in str(attempt(tmp_path / "y", bytes(wide))[1])


UMLAUT = "a/k\u00e4tzchen.jpg"


@pytest.mark.parametrize(
    ("raw", "flags", "system", "crc", "name"),
    [
        ("a/k\u00e4tzchen.jpg".encode(), 0x800, 0, None, UMLAUT),
        (UMLAUT.encode("cp437"), 0, 0, None, UMLAUT),
        (UMLAUT.encode(), 0, 3, None, UMLAUT),  # Unix, macOS: UTF-8 without a word
        (UMLAUT.encode(), 0, 0, None, UMLAUT.encode().decode("cp437")),
        (UMLAUT.encode("latin-1"), 0, 3, None, UMLAUT.encode("latin-1").decode("cp437")),
        (b"a/k_tzchen.jpg", 0, 0, 0, UMLAUT),
        (b"a/k_tzchen.jpg", 0, 0, 1, "a/k_tzchen.jpg"),  # renamed since, by what knows no field
    ],
)
def test_names_in_zips_are_read_as_what_wrote_them_meant(tmp_path, raw, flags, system, crc, name):
    info = zipfile.ZipInfo("x" * len(raw))
    if crc is not None:
        field = struct.pack("<BL", 1, zlib.crc32(raw) + crc) + UMLAUT.encode()
        info.extra = struct.pack("<HH", 0x7075, len(field)) + field
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, b"1")
    data = changed(buffer.getvalue().replace(b"x" * len(raw), raw), flags=flags, made=system)
    assert attempt(tmp_path, data) == ({name: b"1"}, None)


def test_a_unicode_path_leads_nowhere_either(tmp_path):
    info = zipfile.ZipInfo("a/good.jpg")
    field = struct.pack("<BL", 1, zlib.crc32(b"a/good.jpg")) + b"../evil.jpg"
    info.extra = struct.pack("<HH", 0x7075, len(field)) + field
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, b"1")
    files, error = attempt(tmp_path, buffer.getvalue())
    assert files == {}
    assert isinstance(error, HostileArchiveError)


def test_a_zip_of_more_than_65535_members_is_read(tmp_path):
    members = [(f"a/{number}.jpg", b"") for number in range(66_000)]
    path = tmp_path / "many.zip"
    path.write_bytes(zip_of(members))
    with path.open("rb") as file:
        assert sum(1 for _ in zip.ZipReader(file, path).entries()) == 66_000


@pytest.mark.parametrize(
    ("kind", "words"),
    [(b"S", "is a sparse file"), (b"M", "begins in another volume"), (b"X", "of Solaris"),
     (b"D", "an incremental backup")],
)  # fmt: skip
def test_a_tar_with_special_members_is_not_called_damaged(tmp_path, kind, words):
    special = tarfile.TarInfo("a/1.jpg")
    special.type = kind
    files, error = attempt(tmp_path, tar_of([("a/0.jpg", b"0"), (special, b"1")]))
    assert files == {}
    assert words in str(error)
    assert "damaged" not in str(error)


def test_a_label_is_passed_over_and_a_sparse_pax_member_is_named(tmp_path):
    label = tarfile.TarInfo("my volume")
    label.type = b"V"
    assert attempt(tmp_path, tar_of([(label, b""), ("a/1.jpg", b"1")])) == ({"a/1.jpg": b"1"}, None)
    sparse = tarfile.TarInfo("a/GNUSparseFile.0/1.jpg")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "a/1.jpg"}
    data = tar_of([(sparse, PICTURE)], kind=tarfile.PAX_FORMAT)
    assert "a sparse file" in str(attempt(tmp_path / "x", data)[1])


@pytest.mark.fault(12)
def test_an_archive_of_folders_is_refused_while_it_is_read(tmp_path, build, monkeypatch):
    monkeypatch.setattr(formats, "MAX_FOLDERS", 10)
    if build is BUILDERS["zip"]:
        members = [(f"{number}/", b"") for number in range(20)]
    else:
        members = [(tarfile.TarInfo(f"{number}"), b"") for number in range(20)]
        for folder, _ in members:
            folder.type = tarfile.DIRTYPE
    error = attempt(tmp_path, build([*members, ("a/1.jpg", b"1")]))[1]
    assert "10 folders more than files" in str(error)


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

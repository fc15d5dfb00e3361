"""Hostile archives, folders, indexes, splits and params by name: what writes them, what meets them.

Each writes its input below a directory and gives what a user would then run; see `attacks`.
"""

import gzip
import hashlib
import io
import json
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from cryobase.stages.data import index
from cryobase.stages.data.packs import Pack
from cryobase.stages.data.png import encode_png
from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import Splits
from tests.integration.attacks import Run, attack, special


def download(place: Path, **options: object) -> Run:
    """`cryobase download` with these settings."""

    def run():
        from cryobase.pipeline.params import load
        from cryobase.stages import download as stage

        (place / "params.yaml").write_text(json.dumps({"download": options}))
        stage.run(load(place / "params.yaml").download, output=place / "data" / "raw")

    return run


def picture(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
    return encode_png(pixels)


def images(root: Path, count: int = 6) -> Path:
    """Two classes of good images."""
    for number in range(count):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return root


# The index and the splits


def raw_index(**changes: object) -> index.Index:
    """An index of four examples of three images."""
    columns = {
        "ids": np.array([b"a/1", b"a/2", b"b/1", b"b/2"]),
        "labels": np.array([0, 0, 1, 1], "<i4"),
        "parts": np.zeros(4, "<i1"),
        "images": np.array([0, 1, 2, 2], "<i8"),
        "digest": np.arange(96, dtype="<u1").reshape(3, 32),
        "pack": np.zeros(3, "<i4"),
        "offset": np.array([512, 1536, 2560], "<i8"),
        "length": np.array([9, 9, 9], "<i8"),
        "height": np.ones(3, "<i4"),
        "width": np.ones(3, "<i4"),
        "reason": np.zeros(3, "<i4"),
        "classes": ("a", "b"),
        "packs": (Pack(f"pack-{'0' * 16}.tar", 4096, "0" * 64),),
    }
    return index.Index(**columns | changes)


def read_all(directory: Path) -> list[object]:
    """Everything that an index says, in its order."""
    found = RawImages.open(directory)
    columns = [getattr(found.index, name).tolist() for name in index.COLUMNS]
    return [*columns, found.index.classes, found.index.reasons, found.index.packs, len(found)]


def saved(**columns: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **columns)
    return buffer.getvalue()


def sealed(directory: Path, columns: bytes | None = None, **changes: object) -> Run:
    """An index whose record fits its columns, whatever these are."""
    index.write(directory, raw_index())
    path = next(directory.glob("index-*.npz"))
    record = json.loads((directory / index.RECORD).read_bytes())
    if columns is not None:
        path.unlink()
        record["index_sha256"] = hashlib.sha256(columns).hexdigest()
        record["index"] = f"index-{record['index_sha256'][:16]}.npz"
        (directory / record["index"]).write_bytes(columns)
    del record["record_sha256"]
    (directory / index.RECORD).write_text(json.dumps(record | changes))
    return lambda: read_all(directory)


def sparse_npz(path: Path, **columns: tuple[str, int]) -> None:
    """Columns of zeros that take no place on the disk, with the checksums of zeros left out."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, (dtype, rows) in columns.items():
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                header, {"descr": dtype, "fortran_order": False, "shape": (rows,)}
            )
            size = rows * np.dtype(dtype).itemsize
            info = zipfile.ZipInfo(f"{name}.npy")
            info.header_offset, info.CRC = archive.start_dir, 0
            info.file_size = info.compress_size = len(header.getvalue()) + size
            archive.fp.seek(archive.start_dir)
            archive.fp.write(info.FileHeader(zip64=False) + header.getvalue())
            archive.fp.seek(size, os.SEEK_CUR)
            archive.start_dir = archive.fp.tell()
            archive._didModify = True
            archive.filelist.append(info)


@attack(3)
def splits_of_3_gigabytes_without_a_disk(place):
    sparse_npz(place / "splits.npz", ids=("|S300", 10_000_000), part=("|i1", 10_000_000))
    return lambda: Splits.open(place)


@attack(3)
def splits_that_inflate(place):
    buffer = io.BytesIO()
    ids = np.zeros(40_000_000, "S8")
    np.savez_compressed(buffer, ids=ids, part=np.zeros(40_000_000, np.int8))
    (place / "splits.npz").write_bytes(buffer.getvalue())
    return lambda: Splits.open(place)


@attack(
    3,
    pickled=saved(ids=np.array([b"a"], object), part=np.zeros(1, np.int8)),
    not_sorted=saved(ids=np.array([b"b", b"a"]), part=np.zeros(2, np.int8)),
    not_unique=saved(ids=np.array([b"a", b"a"]), part=np.zeros(2, np.int8)),
    no_text=saved(ids=np.array([b"\xff"]), part=np.zeros(1, np.int8)),
    long_ids=saved(ids=np.array([b"a" * 600]), part=np.zeros(1, np.int8)),
    other_lengths=saved(ids=np.array([b"a"]), part=np.zeros(2, np.int8)),
    other_types=saved(ids=np.array(["a"]), part=np.zeros(1, np.int8)),
    no_such_part=saved(ids=np.array([b"a"]), part=np.full(1, 3, np.int8)),
    two_dimensions=saved(ids=np.array([[b"a"]]), part=np.zeros((1, 1), np.int8)),
    one_more_column=saved(ids=np.array([b"a"]), part=np.zeros(1, np.int8), x=np.zeros(9)),
    text=b"splits, splits, splits",
    nothing=b"",
)
def splits(place, data):
    (place / "splits.npz").write_bytes(data)
    return lambda: Splits.open(place)


@attack(3, fifo="fifo", folder="folder", link="link", device="device", socket="socket")
def splits_that_are_no_file(place, kind):
    (place / "there.npz").write_bytes(saved(ids=np.array([b"a"]), part=np.zeros(1, np.int8)))
    special(place / "splits.npz", kind, place / "there.npz")
    return lambda: Splits.open(place)


@attack(3)
def an_index_of_3_gigabytes_without_a_disk(place):
    path = place / "columns"
    kinds = {"ids": "|S200", "digest": "|u1"}
    rows = {name: (kinds.get(name, dtype), 10_000_000) for name, dtype in index.SPELLED.items()}
    sparse_npz(path, **rows)
    run = sealed(place)
    record = json.loads((place / index.RECORD).read_bytes())
    path.replace(place / record["index"])
    return run


@attack(3)
def a_record_of_5_gigabytes_without_a_disk(place):
    sealed(place)
    os.truncate(place / index.RECORD, 5 << 30)
    return lambda: read_all(place)


@attack(
    3,
    no_record=[],
    schema_2={"schema": 2},
    names_twice={"classes": ["a", "a"]},
    names_of_another_type={"classes": [1, 2]},
    names_missing={"classes": ["a"]},
    a_path_as_an_index={"index": "../index-0000000000000000.npz"},
    a_path_as_a_pack={"packs": [{"name": "../x.tar", "bytes": 1, "sha256": "0" * 64}]},
    a_pack_of_exabytes={
        "packs": [{"name": f"pack-{'0' * 16}.tar", "bytes": 1 << 62, "sha256": "0" * 64}]
    },
    no_packs={"packs": []},
    one_more_key={"more": 1},
    in_place_of_another_type={"in_place": ["/"]},
    no_first_reason={"reasons": ["broken"]},
)
def a_record(place, changes):
    if isinstance(changes, dict):
        return sealed(place, **changes)
    sealed(place)
    (place / index.RECORD).write_text(json.dumps(changes))
    return lambda: read_all(place)


@attack(
    3,
    deep=b"[" * 100_000 + b"]" * 100_000,
    keys_twice=b'{"schema": 1, "schema": 1}',
    endless_number=b'{"schema": ' + b"9" * 1_000_000 + b"}",
    not_a_number=b'{"schema": NaN}',
    many_values=b"[" + b"0," * 5_000_000 + b"0]",
)
def a_record_as_text(place, data):
    sealed(place)
    (place / index.RECORD).write_bytes(data)
    return lambda: read_all(place)


@attack(
    3,
    rows_beyond_the_ids={"labels": np.zeros(5, "<i4")},
    a_label_that_is_none={"labels": np.full(4, 2, "<i4")},
    an_image_that_is_none={"images": np.full(4, 3, "<i8")},
    a_pack_that_is_none={"pack": np.ones(3, "<i4")},
    an_offset_below_zero={"offset": np.full(3, -1, "<i8")},
    an_offset_of_exabytes={"offset": np.full(3, 1 << 62, "<i8")},
    a_length_below_zero={"length": np.full(3, -1, "<i8")},
    a_height_below_zero={"height": np.full(3, -1, "<i4")},
    ids_in_no_order={"ids": np.array([b"b", b"a", b"c", b"d"])},
    more_images_than_ids={
        name: np.zeros((5, 32) if name == "digest" else 5, dtype)
        for name, dtype in index.IMAGE_COLUMNS.items()
    },
)
def an_index(place, changes):
    index.write(place, raw_index(**changes))
    return lambda: read_all(place)


@attack(3, of_exabytes=1 << 61, of_gigabytes=3 << 30, of_one_byte_more=4097)
def an_image_longer_than_its_pack(place, length):
    index.write(place, raw_index(length=np.full(3, length, "<i8")))
    (place / f"pack-{'0' * 16}.tar").write_bytes(bytes(4096))
    return lambda: RawImages.open(place).read(0)


@attack(3, up=b"../../etc/passwd", root=b"/etc/passwd", escape=b"a\\xzz", here=b"a/./b")
def an_id_that_leads_out(place, identifier):
    index.write(place, raw_index(ids=np.array([identifier, b"z/1", b"z/2", b"z/3"]), in_place="/"))
    return lambda: RawImages.open(place).read(0)


@attack(3, fifo="fifo", folder="folder", device="device", socket="socket")
def an_image_in_place_that_is_no_file(place, kind):
    index.write(place / "raw", raw_index(in_place=str(place)))
    (place / "a").mkdir()
    special(place / "a" / "1", kind, place)
    return lambda: RawImages.open(place / "raw").read(0)


@attack(3)
def an_image_in_place_of_7_gigabytes_without_a_disk(place):
    index.write(place / "raw", raw_index(in_place=str(place), length=np.full(3, 7 << 30, "<i8")))
    (place / "a").mkdir()
    (place / "a" / "1").touch()
    os.truncate(place / "a" / "1", 7 << 30)
    return lambda: RawImages.open(place / "raw").read(0)


# Archives


def archive(kind: str, members: list[tuple[str, bytes]] | None = None) -> bytes:
    """A good one of three pictures, or of other members."""
    members = members or [(f"top/{'ab'[n % 2]}/{n}.png", picture(n)) for n in range(3)]
    buffer = io.BytesIO()
    if "zip" in kind:
        method = zipfile.ZIP_STORED if kind == "stored zip" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(buffer, "w", method) as packed:
            for name, data in members:
                packed.writestr(zipfile.ZipInfo(name), data, method)
        return buffer.getvalue()
    form = tarfile.PAX_FORMAT if kind == "pax" else tarfile.GNU_FORMAT
    with tarfile.open(fileobj=buffer, mode="w", format=form) as packed:
        for name, data in members:
            info = tarfile.TarInfo(name + "\u00e9" * (kind == "pax"))
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), 1, mtime=0) if kind == "tar.gz" else buffer.getvalue()


def unpacked(place: Path, data: bytes) -> Run:
    """`cryobase download` of an archive that is pinned."""
    path = place / "received"
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    return download(place, source="archive", path=str(path), sha256=sha256)


@attack(3, folders=tarfile.DIRTYPE, links=tarfile.SYMTYPE, fifos=tarfile.FIFOTYPE)
def a_tar_of_many(place, kind):
    member = tarfile.TarInfo("a")
    member.type = kind
    some, buffer = member.tobuf(tarfile.GNU_FORMAT) * 10_000, io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as packed:
        for _ in range(300):  # all at once would be 1.5 GB in the harness itself
            packed.write(some)
        packed.write(bytes(1024))
    return unpacked(place, buffer.getvalue())


@attack(3)
def a_zip_of_many_folders(place):
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, *[0] * 7, 2, *[0] * 6) + b"a/"
    count = 5_000_000  # 240 MB of directory in a file of a few megabytes of disk
    path = place / "received"
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        for _ in range(count // 100_000):
            file.write(entry * 100_000)
        size = count * len(entry)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, size, 4, 0))
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return download(place, source="archive", path=str(path), sha256=sha256)


@attack(3, zip="zip", tar_gz="tar.gz")
def an_archive_that_inflates(place, kind):
    return unpacked(place, archive(kind, [("a/1.bmp", bytes(64 << 20))]))


@attack(
    3,
    up=("../x.png", b"1"),
    root=("/x.png", b"1"),
    drive=("C:/x.png", b"1"),
    control=("a/\x1b]0;x\x07.png", b"1"),
    deep=("a/" * 40 + "x.png", b"1"),
    nothing=("./.", b"1"),
)
def an_archive_with_a_name(place, member):
    return unpacked(place, archive("tar", [("a/1.png", picture()), member]))


@attack(
    3,
    seven_zip=b"7z\xbc\xaf\x27\x1c",
    xz=b"\xfd7zXZ\0",
    half_a_gzip=gzip.compress(bytes(5000), mtime=0)[:20],
    gzip_of_text=gzip.compress(b"text" * 999, mtime=0),
    negative_size=tarfile.TarInfo("a").tobuf()[:124] + b"\xff" * 12 + bytes(888),
    nothing=b"",
)
def an_archive_that_is_none(place, data):
    return unpacked(place, data)


@attack(3, fifo="fifo", folder="folder", device="device", socket="socket")
def an_archive_that_is_no_file(place, kind):
    special(place / "received", kind, place)
    path = str(place / "received")
    return download(place, source="archive", path=path, sha256="0" * 64)


# Folders of images


def folder(place: Path) -> Path:
    return images(place / "images")


@attack(0, fifo="fifo", folder="folder", device="device", socket="socket")
def an_image_in_a_folder_that_is_no_file(place, kind):
    special(folder(place) / "a" / "9.png", kind, place)
    return download(place, source="folder", path=str(place / "images"))


@attack(0)
def an_image_of_7_gigabytes_without_a_disk(place):
    path = folder(place) / "a" / "9.jpg"
    path.touch()
    os.truncate(path, 7 << 30)
    return download(place, source="folder", path=str(place / "images"))


@attack(3)
def more_folders_than_a_data_set_has(place):
    from cryobase.stages.sources import folder

    folder.MAX_FOLDERS = 1000  # a hundred thousand take a second to list and ten to make
    for number in range(1002):
        (place / "images" / str(number)).mkdir(parents=number == 0)
    return download(place, source="folder", path=str(place / "images"))


@attack(3)
def folders_in_folders_in_folders(place):
    os.chdir(folder(place) / "a")
    for _ in range(500):
        os.mkdir("x")
        os.chdir("x")
    os.chdir(place)
    return download(place, source="folder", path=str(place / "images"))


# Settings


@attack(
    2,
    nested_repeats="^(a+)+$",
    alternatives="^(a|a)*$",
    backreference=r"^(a*)*\1$",
    no_end="(",
    possible_set="[[a]",
    recursion="(" * 500 + ")" * 500,
    repeats=f"a{{{'9' * 30}}}",
    long="a" * 100_000,
    empty="",
    nothing_found="^(dog)",
    optional="(dog)?",
)
def a_pattern(place, pattern):
    path = folder(place) / "a" / ("a" * 60 + "!.png")
    path.write_bytes(picture())
    return download(place, source="folder", path=str(place / "images"), pattern=pattern)


@attack(2, end="(", empty="", nested="(?:(?:a{1,9999}){1,9999}){1,9999}(", unknown=r"\y")
def a_pattern_of_groups(place, pattern):
    def run():
        from cryobase.pipeline.params import load

        (place / "params.yaml").write_text(json.dumps({"split": {"group_by": pattern}}))
        load(place / "params.yaml")

    return run


@attack(2)
def a_home_of_nobody(place):
    return download(place, source="folder", path="~no such user/images")

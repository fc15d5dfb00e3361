"""Hostile results, models, caches and files of a checkout, each met by what reads it."""

import hashlib
import io
import json
import struct
import tarfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from cryobase.pipeline.dvc_cache import last_version
from cryobase.pipeline.dvc_stage import was_run
from cryobase.pipeline.params import load
from cryobase.stages.data.raw import RawImages
from cryobase.stages.data.splits import Splits
from cryobase.stages.errors import DataError
from cryobase.stages.extraction import openvino_engine as engine
from cryobase.stages.heads import finished
from cryobase.stages.heads.config import expand
from cryobase.stages.heads.side_by_side import SideBySide
from cryobase.stages.tuning.resume import Checkpoints
from tests.integration.attacks import Run, add_row, attack, special
from tests.integration.received_data import archive, download, images, picture, unpacked
from tests.integration.received_sets import PARAMS, checkout
from tests.unit.stages.heads.test_head import make_head

REPORT = ("report",)
SCORES = {"accuracy": 0.5, "f1_macro": 0.5, "log_loss": 0.7}
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'


def results(place: Path, name: str = "small") -> Path:
    """Sound results of a set or run, and a params file that names it."""
    directory = place / "results" / name
    directory.mkdir(parents=True)
    document = {"best": "linear", "heads": {"linear": {"validation": SCORES}}}
    (directory / "metrics.json").write_text(json.dumps(document))
    (place / "params.yaml").write_text(PARAMS)
    return directory


# Reports


@attack(
    3, fifo="fifo", folder="folder", device="device", socket="socket", sparse="sparse",
    circle="circle", link="link",
)  # fmt: skip
def a_picture_of_results_that_is_no_file(place, kind):
    """What a link leads to would stand in a page that goes to others."""
    special(results(place) / "curves.svg", kind)
    return REPORT


@attack(3)
def a_picture_of_evidence_that_leads_out(place):
    special(results(place) / "evidence" / "x.svg", "link")
    return REPORT


@attack(3)
def forty_thousand_pictures(place):
    directory = results(place) / "evidence"
    directory.mkdir()
    for number in range(40_000):
        (directory / f"{number}.svg").touch()
    return REPORT


@attack(0, script=b'<svg onload="alert(1)"><script>alert(1)</script></svg>', none=b"\x1b[2J")
def a_picture_that_is_more(place, data):
    """The page shows it as an image, which runs nothing."""
    (results(place) / "curves.svg").write_bytes(data)
    return REPORT


@attack(
    3,
    list=[],
    phase_that_is_a_text={"phase_1": "x"},
    score_that_is_a_list={"tuned": {"test": {"accuracy": [1]}}},
)
def metrics_of_a_run(place, document):
    results(place)
    run = "finetune: {runs: {ft: {set: small, head: linear, epochs: 1}}}\n"
    (place / "params.yaml").write_text(PARAMS + run)
    path = place / "results" / "tuned" / "ft" / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document))
    return REPORT


@attack(0, epochs="<script>", truth=True, phases={f"phase_{k}": {} for k in range(10_000)})
def an_epoch_of_a_run(place, value):
    metrics_of_a_run(place, {"tuned": {"test": SCORES}, "kept_epoch": value})
    return REPORT


@attack(
    3, fifo="fifo", folder="folder", device="device", socket="socket", sparse="sparse",
    circle="circle",
)  # fmt: skip
def metrics_that_are_no_file(place, kind):
    special(results(place) / "metrics.json", kind)
    return ("heads", "ls")


# Tuned models


def tuned(place: Path, **changes: Any) -> Path:
    """A tuned model whose card says these things; what is compared with it is right."""
    directory = place / "tuned" / "ft"
    make_head(kind="linear").save(directory / "head")
    for name in ("start.keras", "model.keras"):
        (directory / name).write_bytes(archive("stored zip", [("config.json", b"{}")]))
    sha256 = hashlib.sha256((directory / "model.keras").read_bytes()).hexdigest()
    card = {
        "format": 2,
        "classes": ["a", "b", "c"],
        "below": {"kind": "book-digits", "image_size": 28},
        "pixels": {
            "image_size": 28, "resize": "bilinear", "aspect": "stretch", "decode": "exact",
        },
        "precision": "float32",
        "sha256": {"model.keras": sha256, "start.keras": sha256},
    }  # fmt: skip
    (directory / "model.json").write_text(json.dumps(card | changes))
    (place / "params.yaml").write_text(PARAMS)
    (place / "image.png").write_bytes(picture())
    return directory


PIXELS = {"resize": "bilinear", "aspect": "stretch", "decode": "exact"}
PREDICT = ("predict", "--model", "tuned/ft", "image.png")


@attack(
    3,
    format_1={"format": 1},
    format_in_a_list={"format": [2]},
    no_checksums={"sha256": {}},
    checksums_in_a_text={"sha256": "model.keras"},
    another_checksum={"sha256": {"model.keras": "0" * 64}},
    a_precision_of_its_own={"precision": "os.system"},
    a_precision_that_is_a_list={"precision": ["float32"]},
    images_of_a_billion_pixels={"pixels": {**PIXELS, "image_size": 10**9}},
    images_below_zero={"pixels": {**PIXELS, "image_size": -5}},
    images_of_a_truth_value={"pixels": {**PIXELS, "image_size": True}},
    one_more_key_of_pixels={"pixels": {**PIXELS, "image_size": 28, "x": 1}},
    pixels_in_a_text={"pixels": "28"},
    another_resize={"pixels": {**PIXELS, "image_size": 28, "resize": "../x"}},
)
def a_card_of_a_tuned_model(place, changes):
    tuned(place, **changes)
    return PREDICT


@attack(
    3, fifo="fifo", folder="folder", device="device", socket="socket", sparse="sparse",
)  # fmt: skip
def a_file_of_a_tuned_model_that_is_none(place, kind):
    directory = tuned(place)
    name = "model.keras" if kind in ("fifo", "socket", "device") else "model.json"
    special(directory / name, kind)
    return PREDICT


@attack(3, deep=b"[" * 10**5, keys=b'{"format":2,"format":2}', values=b"[" + b"0," * 10**6 + b"0]")
def a_card_of_another_text(place, data):
    (tuned(place) / "model.json").write_bytes(data)
    return PREDICT


@attack(3, up="../../../etc", root="/etc", nowhere="models/x/y")
def a_model_at(place, path):
    tuned(place)
    return ("predict", "--model", path, "image.png")


# Caches


def cached(place: Path) -> Path:
    """A cache of finished heads in which another head has the name of the one to be trained."""
    directory = checkout(place)
    rows, split = SideBySide.open(directory), Splits.open(place / "data" / "splits")
    params = expand(load(place / "params.yaml").train.heads)["linear"]
    found = place / ".cryobase" / "heads" / params.fingerprint(rows.digest, split.digest)
    make_head(kind="linear", classes=rows.classes, shape=rows.shapes[0], epochs=2).save(found)
    return found


@attack(
    0, another_head="", fifo="fifo", folder="folder", device="device", sparse="sparse",
    circle="circle",
)  # fmt: skip
def a_finished_head_that_is_another(place, kind):
    """Whatever lies there is no head of this set, so that one is trained."""
    directory = cached(place)
    if kind:
        special(directory / "head.json", kind)
    return looked_for(directory)


def looked_for(directory: Path) -> Run:
    """What `train` asks the cache, and how it must answer."""
    rows = SideBySide.open(directory.parents[2] / "features" / "small")

    def run() -> None:
        assert not finished.find(directory.parent, directory.name, rows)

    return run


@attack(
    0, fifo="fifo", device="device", sparse="sparse", folder="folder", socket="socket",
    circle="circle", text="text",
)  # fmt: skip
def an_epoch_of_a_killed_run(place, kind):
    """It is passed over, and the run begins anew."""
    directory = place / "run" / "phase-1"
    directory.mkdir(parents=True)
    path = directory / "epoch-00001.npz"
    path.write_bytes(b"PK" * 1000)
    if kind != "text":
        special(path, kind)

    def run() -> None:
        assert Checkpoints(directory).load() is None

    return run


@attack(
    0,
    deep=b"[" * 100_000,
    list=b"[]",
    rows_in_a_text=b'{"of": "run/phase-1", "rows": "abc", "kept": 0}',
    nan=b'{"of": "run/phase-1", "rows": [{"loss": NaN}], "kept": 0}',
    a_million=b'{"of": "run/phase-1", "rows": [' + b"{}," * 2_000_000 + b'{}], "kept": 0}',
    kept_below_zero=b'{"of": "run/phase-1", "rows": [{}], "kept": -1}',
    a_long_number=b'{"of": "run/phase-1", "rows": [{}], "kept": 1' + b"0" * 10**6 + b"}",
    keys=b'{"of": "run/phase-1", "rows": [], "rows": [{}], "kept": 0}',
    utf_16='{"of": "run/phase-1", "rows": [{}], "kept": 0}'.encode("utf-16"),
)
def a_card_of_an_epoch(place, card):
    directory = place / "run" / "phase-1"
    directory.mkdir(parents=True)
    np.savez(directory / "epoch-00000.npz", card=np.frombuffer(card, np.uint8))

    def run() -> None:
        assert Checkpoints(directory).load() is None

    return run


OPENVINO = SimpleNamespace(
    backbone="vgg16", weights=SimpleNamespace(sha256="0"), image_size=32, preprocessing="caffe"
)


@attack(
    0, fifo="fifo", device="device", sparse="sparse", folder="folder", socket="socket",
    circle="circle", link="link",
)  # fmt: skip
def a_kept_model_that_is_no_file(place, kind):
    """It is converted anew."""
    return kept(place, lambda directory: special(directory / "model.bin", kind))


@attack(
    0,
    nothing=b"",
    list=b"[]",
    deep=b"[" * 10**5,
    of_another=b'{"made_from": {}, "sha256": {}}',
    keys=b'{"sha256": {}, "sha256": {}}',
)
def a_card_of_a_kept_model(place, text):
    return kept(place, lambda directory: (directory / "kept.json").write_bytes(text))


def kept(place: Path, change: Any) -> Run:
    """What an engine asks of a kept model, and how that must end."""
    directory = engine.kept_directory(OPENVINO, ["avg"])
    directory.mkdir()
    for name in ("model.xml", "model.bin"):
        (directory / name).write_bytes(b"x")
    (directory / "kept.json").write_text(json.dumps(engine._card(directory, OPENVINO, ["avg"])))
    engine._check_kept(directory, OPENVINO, ["avg"])
    change(directory)

    def run() -> None:
        try:
            engine._check_kept(directory, OPENVINO, ["avg"])
        except engine.DAMAGE:
            return
        raise AssertionError("it was believed")

    return run


# dvc.lock and DVC's cache


def locked(place: Path, lock: bytes | None = None, listed: Any = None) -> Run:
    """A lock that names the last version of a set, its listing in DVC's cache, and who asks."""

    def add(data: bytes, suffix: str = "") -> str:
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest() + suffix
        path = place / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest

    row = [{"relpath": "a", "md5": add(b"a")}] if listed is None else listed
    data = row if isinstance(row, bytes) else json.dumps(row).encode()
    out = {"path": "../features/small", "md5": add(data, ".dir")}
    found = json.dumps({"schema": "2.0", "stages": {"extract@small": {"outs": [out]}}})
    (place / "dvc.lock").write_bytes(found.encode() if lock is None else lock)

    def run() -> None:
        with last_version(place, place / "features" / "small") as before:
            there = [path.name for path in before.iterdir()] if before.exists() else []
        assert there in ([], ["a"]), there
        assert was_run(place, "watch") is False

    return run


LAUGHS = "".join(f"a{k}: &a{k} [{','.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12))


@attack(
    0,
    sound=None,
    a_billion_laughs=b"a0: &a0 x\n" + LAUGHS.encode(),
    a_tag=b"!!python/object/apply:os.system ['touch pwned']",
    deep=b"[" * 200_000,
    values=b"stages: [" + b"a, " * 2_000_000 + b"]",
    list=b"[]",
    stages_in_a_list=b"stages: [watch]",
    outs_that_are_numbers=b"stages: {a: {outs: [1]}}",
    outs_in_a_text=b"stages: {a: {outs: abc}}",
    a_digest_that_leads_out=b"stages: {a: {outs: [{path: ../features/small, md5: ../../x}]}}",
    nothing=b"",
    bytes=bytes(range(256)),
    a_long_number=b"stages: 1" + b"0" * 500_000,
)
def a_lock_of_dvc(place, data):
    """It is a hint: what cannot be read of it is not used."""
    return locked(place, data)


@attack(0, fifo="fifo", folder="folder", device="device", sparse="sparse", circle="circle")
def a_lock_of_dvc_that_is_no_file(place, kind):
    run = locked(place)
    special(place / "dvc.lock", kind)
    return run


@attack(
    0,
    up=[{"relpath": "..", "md5": "0" * 32}],
    root=[{"relpath": "/etc/passwd", "md5": "0" * 32}],
    newline=[{"relpath": "a\nb", "md5": "0cc175b9c0f1b6a831c399e269772661"}],
    here=[{"relpath": ".", "md5": "0cc175b9c0f1b6a831c399e269772661"}],
    parent=[{"relpath": "..", "md5": "0cc175b9c0f1b6a831c399e269772661"}],
    numbers=[1, 2],
    map={"relpath": "a"},
    deep=b"[" * 10**5,
    values=b"[" + b"0," * 1_000_000 + b"0]",
    names_that_are_numbers=[{"relpath": 1, "md5": "0cc175b9c0f1b6a831c399e269772661"}],
)
def a_listing_of_dvc(place, listed):
    return locked(place, listed=listed)


@attack(0, fifo="fifo", device="device", sparse="sparse", folder="folder")
def a_listing_of_dvc_that_is_no_file(place, kind):
    run = locked(place)
    [path] = [path for path in place.glob(".dvc/cache/files/md5/*/*.dir") if path.is_file()]
    special(path, kind)
    return run


# params.yaml


@attack(
    2, fifo="fifo", folder="folder", device="device", socket="socket", sparse="sparse",
    circle="circle",
)  # fmt: skip
def params_that_are_no_file(place, kind):
    special(place / "params.yaml", kind)
    return ("heads", "ls")


@attack(
    2,
    a_billion_laughs="a0: &a0 x\n" + LAUGHS,
    a_merge="a: &a {b: 1}\nc: {<<: *a}",
    a_grid_of_many="train: {heads: {a: {kind: linear, epochs: 1, learning_rate: ["
    + ", ".join(f"0.{k:04}" for k in range(1, 300))
    + "], weight_decay: ["
    + ", ".join(f"0.{k:04}" for k in range(1, 300))
    + "]}}}",
    epochs_for_ever="train: {heads: {a: {kind: linear, epochs: 1000000000}}}",
    units_without_end="train: {heads: {a: {kind: mlp, units: [1000000000]}}}",
    brackets="[" * 200_000,
    quotes="'" * 500_000 + "''",
    a_directive="%YAML 9.9\n---\n{}",
    documents="---\n{}\n" * 1000,
    nul="download: {path: 'a\\0b'}\0",
    a_date="split: {seed: 2020-01-01}",
    sixty="split: {seed: 190:20:30}",
    an_octal="split: {seed: 0o9}",
    a_long_key="? " + "a" * 900_000 + "\n: 1",
    a_set_that_is_a_path="extract: {sets: {../x: {backbone: vgg16}}}",
    a_backbone_by_module="extract: {sets: {a: {backbone: os.system}}}",
    comments="#" * 1_100_000,
)
def params_that_say(place, text):
    (place / "params.yaml").write_text(text)
    return ("heads", "ls")


# data/raw


def raw(place: Path) -> Path:
    """Images that were downloaded, to be split."""
    images(place / "images")
    download(place, source="folder", path=str(place / "images"))()
    return place / "data" / "raw"


@attack(0, fifo="fifo", device="device", sparse="sparse", folder="folder", text="text")
def a_table_beside_the_splits(place, kind):
    """It is written for people, in the place of whatever is there."""
    raw(place)
    path = place / "data" / "splits" / "counts.csv"
    if kind == "folder":
        return ("split",)
    special(path, kind if kind != "text" else "link", place / "images" / "a" / "0.png")
    return ("split",)


@attack(3, fifo="fifo", device="device", sparse="sparse", folder="folder", circle="circle")
def a_record_of_images_that_is_no_file(place, kind):
    special(raw(place) / "dataset.json", kind)
    return ("split",)


@attack(
    3, fifo="fifo", device="device", sparse="sparse", folder="folder", circle="circle", link="link"
)
def a_pack_that_is_no_file(place, kind):
    [path] = raw(place).glob("pack-*.tar")
    special(path, kind, place / "images" / "a" / "0.png")
    return lambda: RawImages.open(place / "data" / "raw").read(0)


@attack(3, empty=b"", short=b"x" * 600, another=bytes(1 << 16))
def a_pack_of_other_bytes(place, data):
    [path] = raw(place).glob("pack-*.tar")
    path.unlink()
    path.write_bytes(data)

    def run() -> None:
        opened = RawImages.open(place / "data" / "raw")
        digest = hashlib.sha256(opened.read(0)).digest()
        if digest != opened.index.digest[0].tobytes():
            raise DataError("another image than its digest says")

    return run


# Images: one that is none is set aside, and the rest is taken


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">2L5B", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join((chunk(b"IHDR", header), *chunks, chunk(b"IEND", b"")))


def bomb(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def tiff(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    table = b"".join(struct.pack("<2H2L", *entry) for entry in entries)
    end = struct.pack("<L", following)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + end


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", 8 + len(data)) + kind + data


def nested_boxes() -> bytes:
    data = b""
    for _ in range(2000):
        data = box(b"meta", bytes(4) + data)
    return box(b"ftyp", b"avif\0\0\0\0avif") + data


def gif(frames: int) -> bytes:
    frame = b"\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
    return b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff" + frame * frames + b";"


PICTURES = {
    "png of 2^31 pixels a side": lambda: png(
        (1 << 31) - 1, (1 << 31) - 1, chunk(b"IDAT", bomb(1 << 20))
    ),
    "png that inflates to 400 MB": lambda: png(16, 16, chunk(b"IDAT", bomb(400 << 20))),
    "png with a profile that inflates": lambda: png(
        4, 4, chunk(b"iCCP", b"x\0\0" + bomb(300 << 20)), chunk(b"IDAT", bomb(52))
    ),
    "png with a text that inflates": lambda: png(
        4, 4, chunk(b"zTXt", b"x\0\0" + bomb(300 << 20)), chunk(b"IDAT", bomb(52))
    ),
    "png of a million chunks": lambda: png(4, 4, chunk(b"tEXt", b"a\0b") * 1_000_000),
    "png of no pixels": lambda: png(0, 0),
    "png of another colour": lambda: png(4, 4, chunk(b"IDAT", bomb(52)), colour=5),
    "jpeg of 65,535 pixels a side": lambda: (
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\3" + b"\1\x22\0\2\x11\1\3\x11\1\xff\xd9"
    ),
    "jpeg of a million scans": lambda: (
        b"\xff\xd8\xff\xc2\0\x0b\x08\x10\0\x10\0\1\1\x11\0"
        + b"\xff\xda\0\x08\1\1\0\0\0\0\0" * 1_000_000
    ),
    "jpeg of empty segments": lambda: b"\xff\xd8" + b"\xff\xe1\0\2" * 4_000_000,
    "jpeg of fill bytes": lambda: b"\xff\xd8" + b"\xff" * 50_000_000,
    "tiff that points at itself": lambda: tiff((256, 4, 1, 9), (257, 4, 1, 9), following=8),
    "tiff of 2^32 strips": lambda: tiff(
        (256, 4, 1, 99), (257, 4, 1, 99), (273, 4, (1 << 32) - 1, 8), (279, 4, (1 << 32) - 1, 8)
    ),
    "tiff of 2^32 pixels a side": lambda: tiff(
        (256, 4, 1, (1 << 32) - 1), (257, 4, 1, (1 << 32) - 1)
    ),
    "tiff of a length below zero": lambda: tiff((256, 9, 1, (1 << 32) - 5), (257, 4, 1, 5)),
    "avif of nested boxes": nested_boxes,
    "avif of a box of no length": lambda: box(b"ftyp", b"avif\0\0\0\0avif") + bytes(8) * 100_000,
    "gif of a million frames": lambda: gif(1_000_000),
    "gif of 65,535 pixels a side": lambda: b"GIF89a\xff\xff\xff\xff\0\0\0\x2c" + bytes(40),
    "bmp of a height of 2^31": lambda: (
        b"BM"
        + struct.pack("<3L", 99, 0, 54)
        + struct.pack("<L2l2H6L", 40, 99, -(1 << 31), 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "webp of 16,777,216 pixels a side": lambda: (
        b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6
    ),
    "webp whose length is another": lambda: (
        b"RIFF\xff\xff\xff\xffWEBPVP8L\xff\xff\xff\x7f/" + bytes(9)
    ),
}


def _add_picture(name: str) -> None:
    def write(place: Path) -> Run:
        """It is set aside with a reason of one line, or what it begins with is an image."""
        images(place / "images")
        (place / "images" / "a" / "9.png").write_bytes(PICTURES[name]())
        run = download(place, source="folder", path=str(place / "images"))

        def both() -> None:
            run()
            lines = (place / "data" / "raw" / "quarantined.csv").read_text("utf-8").splitlines()
            assert len(lines) in (1, 2)
            assert len(lines[-1]) < 500

        return both

    add_row(f"a picture: {name}", write, 0)


for _name in PICTURES:
    _add_picture(_name)


# Archives that no other row has


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as packed:
        for info, data in members:
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _long_name(size: int) -> bytes:
    """A GNU long name of some bytes, in front of a picture."""
    info = tarfile.TarInfo("././@LongLink")
    info.type = tarfile.GNUTYPE_LONGNAME
    return _tar((info, b"a" * size), (tarfile.TarInfo("a/1.png"), picture()))


def _pax(record: bytes) -> bytes:
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    return _tar((info, record), (tarfile.TarInfo("a/1.png"), picture()))


@attack(
    3,
    name_of_50_MB=lambda: _long_name(50_000_000),
    pax_of_50_MB=lambda: _pax(b"50000000 path=" + b"a" * 49_999_985 + b"\n"),
    pax_without_length=lambda: _pax(b"path=a\n"),
    pax_of_a_length_below_zero=lambda: _pax(b"-5 path=a\n"),
    pax_size_below_zero=lambda: _pax(b"11 size=-1\n"),
    pax_size_of_2_to_63=lambda: _pax(b"29 size=9223372036854775807\n"),
    sparse_of_an_exabyte=lambda: _pax(b"41 GNU.sparse.realsize=1152921504606846976\n"),
)
def a_tar_with_a(place, data):
    return unpacked(place, data())


@attack(3)
def an_archive_of_one_class(place):
    return unpacked(place, archive("zip", [("a/1.png", picture()), ("a/1.png", picture(1))]))

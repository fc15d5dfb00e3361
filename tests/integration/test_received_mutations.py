"""Mutated files of the small formats: each is read, or refused in one line; a checksum is believed.

The others have their mutations beside their tests: shards (`test_store_mutation`), the raw index,
splits and archives (`test_received_data`), npz, PyTorch's, HDF5 and images in the unit tests.
"""

import json
import os
import zlib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from cryobase.pipeline.params import Params, ParamsError, load
from cryobase.stages.data import headers
from cryobase.stages.errors import StageError
from cryobase.stages.heads import standing
from cryobase.stages.heads.head import Card
from cryobase.stages.heads.history import History
from cryobase.store import Manifest, StoreError, verified
from cryobase.store.canary import build_canary, load_canary
from cryobase.store.manifest import FileInfo
from cryobase.store.text import parse_json, record
from tests.integration.received_data import picture
from tests.integration.received_models import mutated
from tests.integration.store_forgery import sign
from tests.scale import rounds
from tests.unit.stages.heads.test_head import make_head
from tests.unit.store.samples import published


class Parser(NamedTuple):
    """Good bytes, what reads them, what it may raise, and whether others are never believed."""

    whole: bytes
    read: Callable[[bytes], Any]
    refusals: tuple[type[Exception], ...]
    sealed: bool = False


def manifest(place: Path) -> Parser:
    path = published(place) / "manifest-1.json"
    return Parser(
        path.read_bytes(), lambda data: Manifest.from_bytes(data, path), (StoreError,), sealed=True
    )


HOSTILE = (
    None, True, False, 0, -1, 1, 20, 1 << 31, 1 << 53, 1 << 62, "", "x", "../x", "0" * 64, [], {},
    [None], [[]], [1] * 40, {"name": "x"}, "float64", "shard-" + "0" * 64 + ".h5",
)  # fmt: skip


def manifest_signed_again(place: Path) -> Parser:
    """Values are exchanged, not bytes, and the checksum is right again."""
    path = published(place) / "manifest-1.json"
    whole = path.read_bytes()

    def read(data: bytes) -> Manifest:
        random, document = np.random.default_rng(zlib.crc32(data)), json.loads(whole)
        if data != whole:
            for _ in range(int(random.integers(1, 4))):
                exchange(document, random)
        return Manifest.from_bytes(sign(document), path)

    return Parser(whole, read, (StoreError,))


def exchange(value: Any, random: np.random.Generator) -> None:
    """Put something else in the place of a value at any depth, or take it away."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[int(random.integers(len(keys)))]
    if isinstance(value[key], dict | list) and value[key] and random.integers(5):
        exchange(value[key], random)
    elif random.integers(8):
        value[key] = deepcopy(HOSTILE[int(random.integers(len(HOSTILE)))])
    else:
        del value[key]


def canary(place: Path) -> Parser:
    def read(data: bytes) -> list[Any]:
        info = FileInfo.of("canary", data)
        path = place / info.name
        path.write_bytes(data)
        try:
            return load_canary(place, info).tolist()
        finally:
            path.unlink()

    return Parser(build_canary(np.arange(12).reshape(4, 3))[1], read, (StoreError,))


def card_of_a_head(place: Path) -> Parser:
    make_head().save(place / "head")
    whole = (place / "head" / "head.json").read_bytes()
    refusals = (ValueError, TypeError, KeyError)  # what `Head.load` makes a line of
    return Parser(whole, lambda data: record(Card, parse_json(data)), refusals)


def history(_: Path) -> Parser:
    made = History()
    for epoch in range(5):
        made.append(
            dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), 1 / (epoch + 2))
        )
    whole = made.to_csv().encode()
    return Parser(whole, lambda data: History.from_csv(data.decode("utf-8")), (ValueError,))


def metrics(place: Path) -> Parser:
    scores = {"accuracy": 0.5, "f1_macro": 0.25, "log_loss": 0.7}
    heads = {name: {"validation": scores, "training": "trained"} for name in ("linear", "mlp")}

    def read(data: bytes) -> Any:
        (place / standing.METRICS).write_bytes(data)
        return standing.read(place, "run `cryobase evaluate`")

    return Parser(json.dumps({"best": "linear", "heads": heads}).encode(), read, (StageError,))


def params(place: Path) -> Parser:
    """Bytes are altered, so YAML has its turn; `test_params` alters what it means."""
    path = place / "params.yaml"

    def read(data: bytes) -> Params:
        path.write_bytes(data)
        return load(path)

    return Parser(b"train: {heads: {a: {kind: mlp, units: [8]}}}\n", read, (ParamsError,))


def header(data: bytes) -> Callable[[Path], Parser]:
    return lambda _: Parser(data, headers.read, (ValueError,))  # which `decode` makes a reason of


def memory_of_checks(place: Path) -> Parser:
    """Whatever it says, the digest that comes out is the file's own."""
    file = place / "file"
    file.write_bytes(b"content")
    os.utime(file, ns=(0, 0))
    descriptor = os.open(file, os.O_RDONLY)
    key, right = verified._key(os.fstat(descriptor), "sha256"), verified.digest(descriptor)
    memory = place / f"verified-{os.geteuid()}"

    def read(data: bytes) -> str:
        memory.write_bytes(data)
        memory.chmod(0o600)
        verified._recalled.clear()  # as a process that begins
        return verified.digest(descriptor)

    return Parser(verified._line(key, right) * 3, read, (), sealed=True)


BMP = b"BM" + bytes(8) + b"\x36\0\0\0\x28\0\0\0\4\0\0\0\4\0\0\0\1\0\x18\0" + bytes(100)
JPEG = (
    b"\xff\xd8\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
    b"\xff\xc0\0\x11\x08\0\x10\0\x10\3\1\x22\0\2\x11\1\3\x11\1\xff\xda"
)
PARSERS = {
    "manifest": manifest,
    "manifest signed again": manifest_signed_again,
    "canary": canary,
    "head.json": card_of_a_head,
    "history.csv": history,
    "metrics.json": metrics,
    "params.yaml": params,
    "memory of checks": memory_of_checks,
    "header of a PNG": header(picture()),
    "header of a JPEG": header(JPEG),
    "header of a BMP": header(BMP),
}


@pytest.mark.fault(39, 65)
@pytest.mark.parametrize("name", PARSERS)
def test_a_mutated_file_is_read_or_refused_in_one_line(quick_path, name, monkeypatch):
    monkeypatch.setenv("CRYOBASE_CACHE", str(quick_path))
    parser, random = PARSERS[name](quick_path), np.random.default_rng(0)
    expected, ends = parser.read(parser.whole), {"read": 0, "refused": 0}
    for _ in range(rounds(100_000)):
        mutant = mutated(parser.whole, random)
        try:
            found = parser.read(mutant)
        except parser.refusals as error:
            ends["refused"] += 1
            line = str(error)
        else:
            line = ""
            ends["read"] += 1
            assert found == expected or not parser.sealed
        assert "\n" not in line
        assert len(line) < 2000
    print(f"\n{name}: {ends}")
    assert ends["read"] if not parser.sealed or not parser.refusals else ends["refused"]

"""Files of arrays that somebody made to do harm, or that are merely broken."""

import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from cryobase.stages.errors import DataError, StageError
from cryobase.stages.exchange import parquet
from cryobase.stages.exchange.arrays import Arrays
from cryobase.stages.exchange.taken import take_in
from cryobase.store import StoreError, export_npz, export_safetensors
from tests.scale import RUN_ALL
from tests.unit.stages.exchange.test_taken import ORIGIN, published
from tests.unit.store.samples import examples

MUTATIONS = 10_000 if RUN_ALL else 1_000
TABLES = 500 if RUN_ALL else 4  # each starts a child


@pytest.fixture
def tmp_path(quick_path):
    return quick_path


def header(**entries) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def entry(dtype="F32", shape=(2, 2), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 8 + b"{}",
        (1 << 40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{]",
        header(x=entry()),
        header(x=entry()) + b"\0" * 15,
        header(x=entry()) + b"\0" * 17,
        header(x=entry(shape=(1 << 62, 4))) + b"\0" * 16,
        header(x=entry(shape=(-2, -2))) + b"\0" * 16,
        header(x=entry(shape=(2, True, 2))) + b"\0" * 16,
        header(x=entry(shape=[2] * 40)) + b"\0" * 16,
        header(x=entry("F99")) + b"\0" * 16,
        header(x=entry(offsets=(16, 0))) + b"\0" * 16,
        header(x=entry(offsets=(4, 20))) + b"\0" * 20,
        header(x=entry(), y=entry()) + b"\0" * 16,
        header(x={"dtype": "F32"}) + b"\0" * 16,
        header(x=7) + b"\0" * 16,
        header(__metadata__=[1], x=entry()) + b"\0" * 16,
        header(__metadata__={"cryobase": 1}, x=entry()) + b"\0" * 16,
    ],
)
def test_a_safetensors_file_that_lies_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match="file: "):
        Arrays.open(tmp_path / "file")


def test_the_formats_own_library_and_ours_agree(tmp_path):
    random = np.random.default_rng(1)
    arrays = {
        "wide": random.normal(size=(3, 4)).astype("<f8"),
        "half": random.normal(size=(3,)).astype("<f2"),
        "bytes": random.integers(0, 255, (5, 7), np.uint8),
        "empty": np.zeros((0, 4), "<f4"),
        "scalar": np.array(3, "<i8"),
    }
    safetensors.numpy.save_file(arrays, tmp_path / "file", {"who": "somebody"})
    with Arrays.open(tmp_path / "file") as found:
        assert found.description is None
        assert found.places.keys() == arrays.keys()
        for name, values in arrays.items():
            assert found.places[name].shape == values.shape
            if values.ndim:
                assert (found.read(name) == values).all()


def test_a_sparse_file_costs_no_memory(tmp_path):
    rows = 1 << 34
    content = header(
        ids=entry("U8", (rows, 4), (0, 4 * rows)),
        features=entry("F32", (1, 1), (4 * rows, 4 * rows + 4)),
    )
    with (tmp_path / "file").open("wb") as file:
        file.write(content)
        file.truncate(len(content) + 4 * rows + 4)
    tracemalloc.start()
    with pytest.raises(DataError, match="17,179,869,184 ids"):
        take_in(tmp_path / "file", tmp_path / "set", origin=ORIGIN)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["deflated", "pickled", "version", "name", "sum"])
def test_an_npz_that_numpy_would_have_to_trust_is_refused(tmp_path, kind):
    path, arrays = tmp_path / "file.npz", {"ids": np.array(["a"]), "features": np.ones((1, 2))}
    if kind == "deflated":
        np.savez_compressed(path, **arrays)
    elif kind == "pickled":
        np.savez(path, **arrays, labels=np.array([{}], object))
    elif kind == "version":
        with zipfile.ZipFile(path, "w") as archive, archive.open("ids.npy", "w") as file:
            np.lib.format.write_array(file, arrays["ids"], (2, 0))
    elif kind == "name":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("ids.txt", "a")
    else:
        np.savez(path, **arrays)
        content = path.read_bytes()
        path.write_bytes(content.replace(struct.pack("<d", 1), struct.pack("<d", 2), 1))
    with pytest.raises(DataError, match=r"file\.npz: "):
        take_in(path, tmp_path / "set", origin=ORIGIN)


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match=str(path)):
            take_in(path, tmp_path / "set", origin=ORIGIN)


def test_a_small_table_of_many_rows_is_refused_before_it_fills_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "SPARE", 1 << 20)
    count = 200_000
    ids = pa.array([f"{number:06}" for number in range(count)])
    rows = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(count * 100, np.float32)), 100)
    table = pa.table({"id": ids, "label": pa.array(["x"] * count), "features": rows})
    pq.write_table(table, tmp_path / "file", compression="zstd")
    with pytest.raises(DataError, match="take more than"):
        take_in(tmp_path / "file", tmp_path / "set", origin=ORIGIN)


def test_a_reader_that_dies_or_hangs_is_an_error(tmp_path, monkeypatch):
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "file")
    monkeypatch.setattr(parquet, "SECONDS", 0)
    with pytest.raises(DataError, match=r"longer than 0 s|crashed"):
        take_in(tmp_path / "file", tmp_path / "set", origin=ORIGIN)


def mutated(good: bytes, random: np.random.Generator, number: int) -> bytes:
    """A file in which some bytes are others, are missing or come twice."""
    content = bytearray(good)
    for _ in range(random.integers(1, 4)):
        content[random.integers(len(content))] = random.choice(INTERESTING)
    if number % 5 == 0:
        start = random.integers(len(content))
        del content[start : start + random.integers(1, 40)]
    if number % 7 == 0:
        start = random.integers(len(content))
        content[start:start] = good[start : start + random.integers(1, 40)]
    return bytes(content)


INTERESTING = [0, 1, 0x7F, 0x80, 0xFF, *b'[]{}",:0123456789-eE']


@pytest.mark.parametrize("export", [export_npz, export_safetensors])
def test_mutations_are_refused_or_read(tmp_path, export):
    """Whatever bytes change, the set is the same or there is none; nothing but our errors."""
    before = published(tmp_path, examples(range(6), quarantined={2}), shape=(2,))
    export(before, tmp_path / "good")
    good, random = (tmp_path / "good").read_bytes(), np.random.default_rng(7)
    for number in range(MUTATIONS):
        (tmp_path / "file").write_bytes(mutated(good, random, number))
        try:
            arrays = Arrays.open(tmp_path / "file")
        except DataError:
            continue
        arrays.close()
        is_refused_or_equal(tmp_path, number, before.digest)


def test_mutated_tables_are_refused_or_read(tmp_path):
    before = published(tmp_path, examples(range(6), quarantined={2}), shape=(2,))
    parquet.export_parquet(before, tmp_path / "good")
    good, random = (tmp_path / "good").read_bytes(), np.random.default_rng(7)
    body = good[4:]  # the first four bytes alone say that it is a table
    for number in range(TABLES):
        (tmp_path / "file").write_bytes(good[:4] + mutated(body, random, number))
        is_refused_or_equal(tmp_path, number, before.digest)


def is_refused_or_equal(place, number: int, digest: str) -> None:
    target = place / f"set{number}"
    try:
        found = take_in(place / "file", target)
    except (StageError, StoreError):
        assert not target.exists()
    else:
        assert found.features.digest == digest

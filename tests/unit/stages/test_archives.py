"""Numpy's archives by a fixed grammar: what savez writes comes back, all else is one line."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest

from stages.archives import read_npz
from stages.errors import DataError
from stages.received import opened
from tests.integration.received_models import mutated
from tests.memory import peak_bytes
from tests.scale import rounds

ARRAYS = {
    "kernel0": np.asfortranarray(np.arange(12, dtype=np.float32).reshape(4, 3)),
    "bias0": np.arange(3, dtype=np.float32),
    "scalar": np.array(2, np.float32),
    "none": np.empty((0, 5), np.float32),
}


def read(path, dtypes=("<f4",)):
    with opened(path, 1 << 30) as file:
        return read_npz(file, dtypes)


def saved(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def zipped(member: bytes, name="a.npy", **changes) -> bytes:
    """A zip file of one stored member, or of one whose directory says something else."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), member)
    return buffer.getvalue()


def npy(header: str, data: bytes = b"", version=b"\1\0") -> bytes:
    text = header.encode("latin-1")
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(text))
    return b"\x93NUMPY" + version + size + text + data


def header(descr="'<f4'", order="False", shape="(1,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def overlapping() -> bytes:
    """A hundred names for one member: 400 MB of arrays in a file of 4 MB."""
    data = bytearray(zipped(npy(header(shape="(1000000,)"), bytes(4_000_000))))
    entry = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    entries = b"".join(
        bytes(data[entry:end]).replace(b"a.npy", b"%c%c.npy" % (97 + k // 10, 48 + k % 10))
        for k in range(100)
    )
    # names of six letters, so that all entries keep one length
    entries = entries.replace(b"\x05\0\0\0\0\0", b"\x06\0\0\0\0\0")
    tail = bytearray(data[end:])
    struct.pack_into("<2H2L", tail, 8, 100, 100, len(entries), entry)
    return bytes(data[:entry] + entries + tail)


HOSTILE = {
    "nothing": b"",
    "no zip": b"hello" * 10,
    "no array": zipped(b"no array"),
    "no suffix": zipped(npy(header(), bytes(4)), "a"),
    "header of 10^18": zipped(npy(header(shape="(1000000000000000000,)"), b"x" * 20)),
    "header of 0 by 10^18": zipped(npy(header(shape="(0, 999999999999999999, 9)"))),
    "nested header": zipped(npy("(" * 60_000)),
    "header that is longer": zipped(npy(header().replace("\n", " " * 60_000 + "\n"), bytes(4))),
    "header of version 2": zipped(npy(header(), bytes(4), b"\2\0")),
    "void": zipped(npy(header("'|V1000000'"), bytes(4))),
    "object": zipped(npy(header("'|O'"), bytes(4))),
    "big endian": zipped(npy(header("'>f4'"), bytes(4))),
    "double": zipped(npy(header("'<f8'"), bytes(8))),
    "record": zipped(npy(header("[('a', '<f4')]"), bytes(4))),
    "negative": zipped(npy(header(shape="(-1,)"), bytes(4))),
    "values missing": zipped(npy(header(shape="(2,)"), bytes(4))),
    "values left over": zipped(npy(header(), bytes(5))),
    "digits of other alphabets": zipped(npy(header(shape="(\xb2,)"), bytes(4))),
    "prefixed": b"MZ" + saved(a=np.zeros(1, np.float32)),
    "followed": saved(a=np.zeros(1, np.float32)) + b"x",
    "overlapping": overlapping(),
}


def test_what_savez_writes_comes_back(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(saved(**ARRAYS))
    found = read(path)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)
        assert found[name].flags.writeable
    assert read_of(tmp_path, saved()) == {}


def read_of(directory, data):
    path = directory / "b.npz"
    path.write_bytes(data)
    return read(path)


@pytest.mark.fault(56)
@pytest.mark.parametrize("name", HOSTILE)
def test_what_savez_does_not_write_is_refused(tmp_path, name):
    before = peak_bytes()
    with pytest.raises(DataError) as refusal:
        read_of(tmp_path, HOSTILE[name])
    assert len(str(refusal.value)) < 300
    assert "\n" not in str(refusal.value)
    assert peak_bytes() - before < 100e6


@pytest.mark.fault(56)
def test_two_members_of_one_name(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("a.npy", "b.npy"):
            archive.writestr(name, npy(header(), bytes(4)))
    with pytest.raises(DataError, match="two members of one name"):
        read_of(tmp_path, buffer.getvalue().replace(b"b.npy", b"a.npy"))


@pytest.mark.fault(56)
@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "too large", "missing"])
def test_only_regular_files_are_opened(tmp_path, kind):
    path = tmp_path / "a.npz"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "too large":
        with path.open("wb") as file:
            file.truncate(7 << 30)
    with pytest.raises((DataError, OSError), match=r"a\.npz"):
        read(path)


@pytest.mark.fault(56)
def test_mutations_are_refused_or_read():
    whole = saved(**ARRAYS)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(rounds(100_000)):
        mutant = mutated(whole, random)
        try:
            found = read_npz(io.BytesIO(mutant), ("<f4",))
        except DataError:
            refused += 1
        else:
            assert sum(array.nbytes for array in found.values()) <= len(mutant)
    assert refused > 0.5 * rounds(100_000)

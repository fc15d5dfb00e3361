"""Numpy's archives by a fixed grammar: what savez writes comes back, all else is one line."""

import io
import os
import zipfile

import numpy as np
import pytest

from cryobase.stages.errors import DataError
from cryobase.stages.received import opened
from cryobase.stages.stored_zip import read_npz
from tests.integration.received_models import NPZ, header, mutated, npy, saved
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
@pytest.mark.parametrize("name", NPZ)
def test_what_savez_does_not_write_is_refused(tmp_path, name):
    before = peak_bytes()
    with pytest.raises(DataError) as refusal:
        read_of(tmp_path, NPZ[name])
    assert len(str(refusal.value)) < 300
    assert "\n" not in str(refusal.value)
    assert peak_bytes() - before < 100e6


@pytest.mark.fault(56)
def test_two_members_of_one_name(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("a.npy", "b.npy"):
            archive.writestr(name, npy(header(), bytes(4)))
    with pytest.raises(DataError, match="two members have the same name"):
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


class Stream(io.BytesIO):
    """What cannot be rewound, so that sizes follow the members, as PyTorch writes them."""

    def seekable(self):
        return False

    def tell(self):
        raise OSError("no position")


def test_sizes_may_follow_the_members_and_records_the_directory():
    stream = Stream()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("a.npy", "b.npy"):
            archive.writestr(name, npy(header(), bytes(4)))
    data = stream.getvalue()
    end = data.index(b"PK\5\6")
    data = data[:end] + b"PK\6\6".ljust(56, b"\0") + b"PK\6\7".ljust(20, b"\0") + data[end:]
    assert list(read_npz(io.BytesIO(data), ("<f4",))) == ["a", "b"]


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

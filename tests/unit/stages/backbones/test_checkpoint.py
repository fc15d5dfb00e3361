"""PyTorch's checkpoints by a grammar of our own: arrays come back, all else is one line."""

import io
import os
import pickletools
from pathlib import Path

import numpy as np
import pytest

from cryobase.stages.backbones import checkpoint
from cryobase.stages.backbones.checkpoint import read_checkpoint
from cryobase.stages.errors import DataError
from tests.integration.received_models import (
    TORCH,
    mutated,
    torch_file,
    torch_object,
    torch_tensor,
    torch_text,
    torch_zip,
)
from tests.memory import peak_bytes
from tests.scale import rounds

TENSORS = {
    "whole": torch_tensor((2, 2), (2, 1), length=4),
    "turned": torch_tensor((2, 2), (1, 2), length=4),
    "spread": torch_tensor((3, 2), (0, 1), length=4, offset=2),
    "one": torch_tensor((), (), length=4, offset=3),
    "none": torch_tensor((0, 5), (5, 1), length=4, offset=4),
}
VALUES = {
    "whole": [[0, 1], [2, 3]],
    "turned": [[0, 2], [1, 3]],
    "spread": [[2, 3]] * 3,
    "one": 3,
    "none": np.empty((0, 5)),
}


@pytest.mark.parametrize("made", [torch_file, torch_zip])
def test_tensors_come_back_contiguous(tmp_path, made):
    path = tmp_path / "a.pth"
    path.write_bytes(made(TENSORS))
    found = read_checkpoint(path)
    assert list(found) == list(TENSORS)
    for name, array in found.items():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert np.array_equal(array, VALUES[name])


@pytest.mark.fault(56)
@pytest.mark.parametrize("name", TORCH)
def test_what_torch_does_not_save_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pth"
    path.write_bytes(TORCH[name])
    before = peak_bytes()
    with pytest.raises(DataError, match="not a checkpoint of PyTorch tensors") as refusal:
        read_checkpoint(path)
    assert len(str(refusal.value)) < 500
    assert "\n" not in str(refusal.value)
    assert peak_bytes() - before < 300e6
    assert os.listdir(tmp_path) == ["a.pth"]


@pytest.mark.fault(56)
def test_a_checkpoint_that_runs_code_names_the_code(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(torch_object(b"cposix\nsystem\n"))
    with pytest.raises(DataError, match="system is not part of a tensor"):
        read_checkpoint(path)


@pytest.mark.fault(56)
@pytest.mark.parametrize("made", [torch_file, torch_zip])
def test_mutations_are_refused_or_read(made):
    whole = made(TENSORS)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(rounds(100_000)):
        mutant = mutated(whole, random)
        try:
            found = checkpoint._read(io.BytesIO(mutant))
        except DataError:
            refused += 1
        else:
            assert sum(array.nbytes for array in found.values()) < len(mutant) + checkpoint.SPARE
    assert refused > 0.5 * rounds(100_000)


def shortened(whole, tensors):
    """The pickles of the package's file for its first tensors alone, and zeros as their values.

    What PyTorch wrote is kept: its instructions, its memo, and the versions of two modules.
    """
    stream, ends = io.BytesIO(whole), []
    for _ in range(4):
        steps = [(step.name, text, place) for step, text, place in pickletools.genops(stream)]
        ends.append(stream.tell())
    start, end = ends[-2:]
    texts = [place for name, text, place in steps if name == "BINUNICODE" and text[:1] == "_"]
    items = [place for name, _, place in steps if name == "SETITEMS"]
    modules = [place for place in texts if place > items[0]][1:]  # the first is `_metadata`
    cuts = ((start, texts[tensors]), (items[0], modules[2]), (items[-1], end))
    objects = b"".join(whole[first:last] for first, last in cuts)
    found = checkpoint._Pickles(objects).load().values()
    storages = {each.storage.key: each.storage for each in found}
    keys = b"\x80\x02](" + b"".join(map(torch_text, storages)) + b"e."
    data = b"".join(
        storage.length.to_bytes(8, "little") + bytes(storage.length * storage.dtype.itemsize)
        for storage in storages.values()
    )
    return whole[: ends[2]] + objects + keys, data


@pytest.mark.fault(56)
def test_mutations_of_the_packages_file_are_refused_or_read():
    lite0 = pytest.importorskip("cryobase.stages.backbones.lite0")
    pytest.importorskip(lite0.PACKAGE)
    file = Path(lite0.packaged_weights())
    pickles, data = shortened(file.read_bytes(), 6)
    kept = checkpoint._read(io.BytesIO(pickles + data))
    original = [*read_checkpoint(file).items()][:6]
    assert [(name, one.shape) for name, one in kept.items()] == [
        (name, one.shape) for name, one in original
    ]
    random, ends = np.random.default_rng(0), {"read": 0, "refused": 0}
    for _ in range(rounds(100_000)):
        mutant = mutated(pickles, random) + data
        try:
            found = checkpoint._read(io.BytesIO(mutant))
        except DataError:
            ends["refused"] += 1
        else:
            ends["read"] += 1
            assert sum(array.nbytes for array in found.values()) < len(mutant) + checkpoint.SPARE
    print(f"\n{ends}")
    assert min(ends.values()) > 0.05 * rounds(100_000)

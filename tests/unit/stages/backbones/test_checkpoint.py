"""PyTorch's checkpoints by a grammar of our own: arrays come back, all else is one line."""

import os
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
    with pytest.raises(DataError, match="no checkpoint of PyTorch tensors") as refusal:
        read_checkpoint(path)
    assert len(str(refusal.value)) < 500
    assert "\n" not in str(refusal.value)
    assert peak_bytes() - before < 300e6
    assert os.listdir(tmp_path) == ["a.pth"]


@pytest.mark.fault(56)
def test_a_checkpoint_that_runs_code_names_the_code(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(torch_object(b"cposix\nsystem\n"))
    with pytest.raises(DataError, match="system is no part of a tensor"):
        read_checkpoint(path)


@pytest.mark.fault(56)
@pytest.mark.parametrize("made", [torch_file, torch_zip])
def test_mutations_are_refused_or_read(made):
    import io

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


@pytest.mark.fault(56)
def test_mutations_of_the_packages_file_are_refused_or_read():
    import io

    lite0 = pytest.importorskip("cryobase.stages.backbones.lite0")
    pytest.importorskip(lite0.PACKAGE)
    whole = Path(lite0.packaged_weights()).read_bytes()
    pickles, data = whole[:47_176], whole[47_176:]
    random = np.random.default_rng(0)
    for _ in range(rounds(1000)):
        try:
            checkpoint._read(io.BytesIO(mutated(pickles, random) + data))
        except DataError:
            continue

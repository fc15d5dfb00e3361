"""Mutated indexes, splits and archives: refused in a line, or read as they are."""

import numpy as np
import pytest

from cryobase.stages.data import index
from cryobase.stages.data.splits import Splits
from cryobase.stages.errors import DataError
from cryobase.stages.sources import unpack
from tests.integration import received_data
from tests.integration.received_models import mutated
from tests.scale import rounds


def original(directory):
    """A good index and good splits, what they say, and their files."""
    index.write(directory, received_data.raw_index())
    splits = Splits(np.array([b"a/1", b"a/2", b"b/1"]), np.array([0, 1, 2], np.int8))
    splits.write(directory, [{"class": "a"}])


@pytest.mark.fault(18, 60)
@pytest.mark.parametrize("kind", ["record", "columns", "splits"])
def test_a_mutated_file_says_the_same_or_is_refused(tmp_path, kind):
    original(tmp_path)
    pattern = {"record": index.RECORD, "columns": "index-*.npz", "splits": "splits.npz"}[kind]
    path = next(tmp_path.glob(pattern))
    whole, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    path.unlink()  # it is read-only

    def content():
        if kind == "splits":
            found = Splits.open(tmp_path)
            return found.all_ids.tolist(), found.part.tolist()
        return received_data.read_all(tmp_path)

    path.write_bytes(whole)
    expected = content()
    for _ in range(rounds(100_000)):
        path.write_bytes(mutated(whole, random))
        try:
            found = content()
        except DataError:
            refused += 1
        else:
            assert found == expected
    assert refused > 0.5 * rounds(100_000)


@pytest.mark.fault(9, 12, 14)
@pytest.mark.parametrize("build", ["tar", "tar.gz", "pax", "zip", "stored zip"])
def test_a_mutated_archive_is_read_or_refused(tmp_path, build):
    """Whatever is read is no larger than an archive of its size may be; a zip's has its CRC-32."""
    whole, random, refused = received_data.archive(build), np.random.default_rng(0), 0
    path = tmp_path / "archive"
    count = rounds(100_000)
    for _ in range(count):
        path.write_bytes(mutated(whole, random))
        size = 0
        try:
            with unpack._members(path) as members:
                for member in members:
                    unpack.split_name(path, member.name)
                    while data := member.content.read(1 << 16):
                        size += len(data)
        except DataError as error:
            refused += 1
            line = str(error)
        else:
            line = ""
        assert "\n" not in line
        assert size < 1 << 20
    assert refused > 0.1 * count

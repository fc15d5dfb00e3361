"""The table of known digests: exact, and small."""

import hashlib

import numpy as np

from cryobase.stages.sources.digests import DigestTable


def digest(number):
    return hashlib.sha256(str(number).encode()).digest()


def test_digests_are_numbered_in_the_order_in_which_they_come():
    table = DigestTable()
    assert [table.add(digest(number % 3000)) for number in range(6000)] == [*range(3000)] * 2
    assert len(table) == 3000
    assert [table.find(digest(number)) for number in (0, 2999, 3000)] == [0, 2999, None]
    assert table.digests[7].tobytes() == digest(7)


def test_digests_that_begin_alike_are_told_apart():
    alike = [b"same eight" + bytes([number]) * 22 for number in range(200)]
    table = DigestTable(np.frombuffer(b"".join(alike), np.uint8).reshape(-1, 32))
    assert [table.find(one) for one in alike] == list(range(200))
    assert table.find(b"same eight" + b"\xff" * 22) is None


def test_an_entry_takes_less_memory_than_a_python_object():
    table = DigestTable()
    for number in range(20_000):
        table.add(digest(number))
    assert (len(table._digests) + table._rows.nbytes) / len(table) < 64

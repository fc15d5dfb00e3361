import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryobase.store import IntegrityError
from cryobase.store.keys import KeyIndex, words_of_rows, words_of_strings

ids = st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\0", b"x")), max_size=50)


@given(held=ids.map(lambda names: sorted(set(names))), asked=ids)
def test_finds_what_a_dictionary_finds(held, asked):
    index = KeyIndex(words_of_strings(np.array(held, "S24"), 24))
    found = index.find(words_of_strings(np.array(asked, "S24"), 24))
    positions = {name: position for position, name in enumerate(held)}
    assert found.tolist() == [positions.get(name, -1) for name in asked]


def test_keys_that_differ_in_one_bit_are_told_apart():
    digests = np.zeros((2 * 256, 32), np.uint8)
    for bit in range(256):
        digests[2 * bit, bit // 8] = 1 << bit % 8
    views = np.arange(512, dtype=np.uint16) % 2
    digests[1::2] = digests[::2]
    index = KeyIndex(words_of_rows(digests, views))
    assert index.find(words_of_rows(digests, views)).tolist() == list(range(512))
    assert (index.find(words_of_rows(digests, views + 2)) == -1).all()


def test_a_key_that_comes_twice_is_refused():
    with pytest.raises(IntegrityError, match="twice"):
        KeyIndex(words_of_rows(np.ones((2, 32), np.uint8), np.zeros(2, np.uint16)))

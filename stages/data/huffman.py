"""Tables that say of the next bits of a JPEG which coefficients they hold (ITU T.81, F.2.2)."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stages.data.jpeg import Code

LOOK = 13  # bits that are looked up at once: the tables of a photograph fit into the nearest cache
ENDED = 128  # is added to the number of coefficients passed, where the block ends
UNKNOWN = 64  # stands in place of that number: look at a single codeword
SIXTEEN_ZEROS = 0xF0


@lru_cache(maxsize=8)
def tables(
    codes: tuple[tuple[Code, Code], ...],
) -> tuple[NDArray[np.uint16], NDArray[np.int32], NDArray[np.uint16]]:
    """(codes, 2, …) words and coefficients, (codes, …) steps; cameras keep to the same codes."""
    words = np.array([[_words(code) for code in pair] for pair in codes])
    return words, _coefficients(words), _steps(words[:, 1])


def _words(code: Code) -> NDArray[np.uint16]:
    """(2**16,) by the next 16 bits: length << 8 | symbol of their codeword; 0 if there is none."""
    counts, symbols = code
    lengths = np.repeat(np.arange(1, 17), [*counts])
    words = (lengths << 8 | np.array([*symbols], np.int64)).astype(np.uint16)
    table = np.zeros(1 << 16, np.uint16)
    known = np.repeat(words, 1 << (16 - lengths))
    table[: len(known)] = known
    return table


def _coefficients(words: NDArray[np.uint16]) -> NDArray[np.int32]:
    """(…, 2**LOOK) by the next bits: value << 16 | coefficients passed << 8 | bits of a coefficient
    that is in them, codeword and value; else 0. T.81, F.2.2.1 and F.2.2.2.
    """
    look = np.arange(1 << LOOK, dtype=np.int32)
    length, symbol = np.divmod(words[..., :: 1 << (16 - LOOK)].astype(np.int32), 256)
    size = symbol & 15
    bits = length + size
    value = look >> np.maximum(LOOK - bits, 0) & ((1 << size) - 1)
    value -= ((1 << size) - 1) * (value << 1 < 1 << size)
    known = (length > 0) & (bits <= LOOK) & _regular(symbol)
    entries: NDArray[np.int32] = (value << 16 | _passed(symbol) << 8 | bits) * known
    return entries


def _steps(words: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """(…, 2**LOOK) by the next bits: coefficients passed << 8 | bits of all AC coefficients that
    are in them; UNKNOWN << 8 if there is none.
    """
    look = np.arange(1 << LOOK, dtype=np.int32)
    bits, passed = np.zeros((2, *words.shape[:-1], len(look)), np.int32)
    live = np.ones(bits.shape, np.bool_)
    while live.any():
        following = (look << bits) % (1 << LOOK) << (16 - LOOK)
        word = np.take_along_axis(words, following, -1).astype(np.int32)
        length, symbol = word >> 8, word & 255
        longer = bits + length + (symbol & 15)
        live &= (length > 0) & (longer <= LOOK) & _regular(symbol)
        bits = np.where(live, longer, bits)
        passed += live * _passed(symbol)
        live &= symbol != 0
    entries: NDArray[np.uint16] = (np.where(bits > 0, passed, UNKNOWN) << 8 | bits).astype(
        np.uint16
    )
    return entries


def _regular(symbol: NDArray[np.int32]) -> NDArray[np.bool_]:
    regular: NDArray[np.bool_] = (symbol & 15 > 0) | (symbol == 0) | (symbol == SIXTEEN_ZEROS)
    return regular


def _passed(symbol: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.where(symbol == 0, ENDED, (symbol >> 4) + 1)

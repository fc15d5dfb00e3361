"""JPEG at an eighth of its size: bit for bit what libjpeg-turbo gives, in two thirds of its time.

An eighth of a photograph is all that a frozen base wants, and nearly all of the work is Huffman
decoding. Of luma only the first coefficient of each 8x8 block counts, but the others stand in the
way, as codewords that tell their length only one after the other. Here a table says of the next 13
bits how many coefficients they hold, so two or three of them are passed in one step.

What is out of the ordinary is left to libjpeg: `decode` answers None.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stages.data.huffman import ENDED, LOOK, tables
from stages.data.jpeg import Code, Component, read

LAST = 63  # coefficients of a block after the first one
LARGEST = 4080  # of dequantized coefficients; those of a picture are a quarter of it
COLUMNS = (0, 1, 3, 5, 7)  # that count in the inverse DCT of 2x2

_PLACES = [  # T.81, figure A.6
    [0, 1, 5, 6, 14, 15, 27, 28],
    [2, 4, 7, 13, 16, 26, 29, 42],
    [3, 8, 12, 17, 25, 30, 41, 43],
    [9, 11, 18, 24, 31, 40, 44, 53],
    [10, 19, 23, 32, 39, 45, 52, 54],
    [20, 22, 33, 38, 46, 51, 55, 60],
    [21, 34, 37, 47, 50, 56, 59, 61],
    [35, 36, 48, 49, 57, 58, 62, 63],
]
ZIGZAG = np.argsort(np.ravel(_PLACES))  # where each coefficient of a block lies

u64 = np.uint64  # Numba makes floats of mixed integers
LOW_BITS, HIGH_BITS = u64(0x0101010101010101), u64(0x8080808080808080)


def decode(data: bytes) -> NDArray[np.uint8] | None:
    """Decode a baseline JPEG at 1/8, without EXIF's orientation.

    Returns:
        uint8 (⌈height / 8⌉, ⌈width / 8⌉, 3), RGB; None if the file is broken, progressive, CMYK, or
        otherwise unlike a camera's.
    """
    scan = read(data)
    if scan is None:
        return None
    parts = scan.components
    unit = max(part.down for part in parts), max(part.across for part in parts)
    down, across = (-(-side // 8) for side in (scan.height, scan.width))
    shape = (-(-down // unit[0]) * unit[0], -(-across // unit[1]) * unit[1])
    planes = np.empty((len(parts), *shape), np.uint8)
    codes = sorted({(part.dc, part.ac) for part in parts})
    decoded = _decode_scan(
        np.frombuffer(data, np.uint8),
        scan.start,
        scan.restart,
        _blocks(parts, unit, codes),
        np.array([[*part.quantization] for part in parts]),
        *tables(tuple(codes)),
        unit,
        planes,
    )
    if not decoded:
        return None
    if len(parts) == 1:
        return np.repeat(planes[0, :down, :across, None], 3, axis=2)
    rgb = np.empty((down, across, 3), np.uint8)
    _to_rgb(planes, rgb)
    return rgb


def _blocks(
    parts: tuple[Component, ...], unit: tuple[int, int], codes: list[tuple[Code, Code]]
) -> NDArray[np.int64]:
    """(blocks, 6) of a unit: component, codes, place and size in pixels.

    A block becomes one pixel, and more of them in a component that has fewer blocks than others.
    """
    return np.array(
        [
            (number, codes.index((part.dc, part.ac)), top, left, down, across)
            for number, part in enumerate(parts)
            for down, across in [(unit[0] // part.down, unit[1] // part.across)]
            for top in range(0, unit[0], down)
            for left in range(0, unit[1], across)
        ]
    )


@njit(nogil=True, cache=True)
def _decode_scan(data, position, restart, blocks, factors, words, known, steps, unit, planes):
    """Fill `planes`; whether all could be decoded, and is so small that it makes no difference in
    how many bits one reckons.

    One long function: Numba counts references to each array that is handed on, and takes twice as
    long then.
    """
    bits, count = u64(0), 0  # that were read, the next one on top; beyond the end they are zeros
    before = np.zeros(len(factors), np.int64)
    block, rows = np.zeros(64, np.int64), np.zeros((2, 8), np.int64)
    left, restarts = restart, 0
    for row in range(0, planes.shape[1], unit[0]):
        for column in range(0, planes.shape[2], unit[1]):
            if restart and left == 0:
                if count >= 8 or position + 2 > data.size:
                    return False
                if data[position] != 0xFF or data[position + 1] != 0xD0 + restarts % 8:
                    return False
                position, bits, count = position + 2, u64(0), 0
                before[:] = 0
                left, restarts = restart, restarts + 1
            left -= 1
            for number in range(len(blocks)):
                part, codes = blocks[number, 0], blocks[number, 1]
                y, x = row + blocks[number, 2], column + blocks[number, 3]
                down, across = blocks[number, 4], blocks[number, 5]
                four = down * across == 4  # pixels, so not the first coefficient alone counts
                passed, last = -1, 0
                while passed < LAST:
                    if count < 32:
                        at, word = u64(position), u64(0xFF)
                        if position + 8 <= data.size:
                            word = (
                                u64(data[at]) << u64(56)
                                | u64(data[at + u64(1)]) << u64(48)
                                | u64(data[at + u64(2)]) << u64(40)
                                | u64(data[at + u64(3)]) << u64(32)
                                | u64(data[at + u64(4)]) << u64(24)
                                | u64(data[at + u64(5)]) << u64(16)
                                | u64(data[at + u64(6)]) << u64(8)
                                | u64(data[at + u64(7)])
                            )
                        if (~word - LOW_BITS) & word & HIGH_BITS == u64(0):  # no byte is ff
                            # Parts of a byte that stay behind come again, as the same bits.
                            bits |= word >> u64(count)
                            position += (63 - count) >> 3
                            count |= 56
                        else:
                            while count <= 56 and position < data.size:
                                byte = data[position]
                                if byte == 0xFF:
                                    if position + 1 == data.size or data[position + 1] != 0:
                                        break  # a marker
                                    position += 1
                                position += 1
                                bits |= u64(byte) << u64(56 - count)
                                count += 8
                    if passed >= 0 and not four:
                        entry = np.int64(steps[codes, bits >> u64(64 - LOOK)])
                        after = passed + (entry >> 8)
                        if after <= LAST or ENDED <= after < ENDED + LAST:
                            passed = after
                            bits <<= u64(entry & 63)
                            count -= entry & 63
                            continue
                    ac = np.int64(passed >= 0)
                    entry = np.int64(known[codes, ac, bits >> u64(64 - LOOK)])
                    if entry:
                        bits <<= u64(entry & 63)
                        count -= entry & 63
                        run, value = entry >> 8 & 255, entry >> 16
                    else:
                        entry = np.int64(words[codes, ac, bits >> u64(48)])
                        run, value, bits, count = _coefficient(entry, bits, count)
                    if count < 0:
                        return False
                    if passed < 0:
                        before[part] += value
                        block[0] = first = before[part] * factors[part, 0]
                        if abs(first) > LARGEST:
                            return False
                        passed = 0
                        continue
                    passed += run
                    if LAST < passed < ENDED:
                        return False
                    if four and value != 0:
                        last = passed
                        value *= factors[part, passed]
                        if abs(value) > LARGEST:
                            return False
                        block[ZIGZAG[passed]] = value
                if count < 0:
                    return False
                if last == 0:
                    level = _level((block[0] + 4) >> 3)
                    for i in range(down):
                        planes[part, y + i, x] = planes[part, y + i, x + across - 1] = level
                    continue
                for i in COLUMNS:
                    even = (block[i] << 15) + (1 << 12)
                    odd = _odd(block[8 + i], block[24 + i], block[40 + i], block[56 + i])
                    rows[0, i], rows[1, i] = (even + odd) >> 13, (even - odd) >> 13
                    if abs(even) + abs(odd) >= 1 << 27:
                        return False
                block[:] = 0
                for i in range(2):
                    even = (rows[i, 0] << 15) + (1 << 19)
                    odd = _odd(rows[i, 1], rows[i, 3], rows[i, 5], rows[i, 7])
                    planes[part, y + i, x] = _level((even + odd) >> 20)
                    planes[part, y + i, x + 1] = _level((even - odd) >> 20)
                    if abs(even) + abs(odd) >= 1 << 29:
                        return False
    at_end = 0 <= count < 8 and position + 2 <= data.size
    return at_end and data[position] == 0xFF and data[position + 1] == 0xD9


@njit(inline="always")
def _coefficient(word, bits, count):
    """Coefficients passed, value, and the bits that are left, fewer than 0 if it is no codeword."""
    length, size = word >> 8, word & 15
    bits <<= u64(length)
    value = np.int64(bits >> u64(1) >> u64(63 - size))
    value -= ((1 << size) - 1) * (value << 1 < 1 << size)
    passed = ENDED if word & 255 == 0 else (word >> 4 & 15) + 1
    if length == 0 or (size == 0 and passed < 16):
        count = -1
    return passed, value, bits << u64(size), count - length - size


@njit(inline="always")
def _odd(first, third, fifth, seventh):
    """The odd half of libjpeg's inverse DCT to two values, in 13 bits after the point."""
    return 29692 * first - 10426 * third + 6967 * fifth - 5906 * seventh


@njit(inline="always")
def _level(value):
    return np.uint8(min(max(value + 128, 0), 255))


@njit(nogil=True, cache=True)
def _to_rgb(planes, rgb):
    """YCbCr to RGB in libjpeg's 16 bits after the point; JFIF 1.02, page 3."""
    for y in range(rgb.shape[0]):
        for x in range(rgb.shape[1]):
            luma = np.int64(planes[0, y, x])
            blue, red = np.int64(planes[1, y, x]) - 128, np.int64(planes[2, y, x]) - 128
            rgb[y, x, 0] = _level(luma - 128 + ((91881 * red + (1 << 15)) >> 16))
            rgb[y, x, 1] = _level(luma - 128 + (((1 << 15) - 22554 * blue - 46802 * red) >> 16))
            rgb[y, x, 2] = _level(luma - 128 + ((116130 * blue + (1 << 15)) >> 16))

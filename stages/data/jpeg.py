"""What a baseline JPEG tells ahead of its pixels (ITU T.81, annex B)."""

import re
import struct
from dataclasses import dataclass
from itertools import accumulate

Code = tuple[bytes, bytes]
"""A Huffman code: how many codewords have 1, 2, … 16 bits, and what they stand for, in order."""

START_OF_IMAGE = b"\xff\xd8"
START_OF_FRAME, HUFFMAN_CODES, START_OF_SCAN = 0xC0, 0xC4, 0xDA
QUANTIZATION, RESTART_INTERVAL = 0xDB, 0xDD
IGNORED = {*range(0xE0, 0xF0), 0xFE}  # what applications and people have to say, but for
UNUSUAL = re.compile(rb"(?s)JFIF\0[^\1]|Adobe.{6}[^\1]")  # a format to come, and RGB
FACTOR_NAMES, CODE_NAMES = {*range(4)}, {*range(4), *range(16, 20)}
LUMA_AND_CHROMA = (1, 2, 3)  # the names of a JFIF file's components
ALL_COEFFICIENTS = bytes([0, 63, 0])
SAMPLINGS = [[0x11], [0x22], *([luma, 0x11, 0x11] for luma in (0x11, 0x12, 0x21, 0x22))]


@dataclass(frozen=True)
class Component:
    """One plane: blocks in each direction of a unit, factors in zigzag order, both codes."""

    down: int
    across: int
    quantization: bytes
    dc: Code
    ac: Code


@dataclass(frozen=True)
class Scan:
    """Gray or YCbCr pixels in one scan of Huffman codes.

    Attributes:
        start: Where the codes begin.
        height: Of the image, in pixels.
        width: Likewise.
        restart: Units after which the codes begin anew; 0 if never.
        components: Three, or one if gray.
    """

    start: int
    height: int
    width: int
    restart: int
    components: tuple[Component, ...]


def read(data: bytes) -> Scan | None:
    """What precedes the first scan; None for files of another kind, and for broken ones."""
    try:
        return _read(data)
    except (IndexError, KeyError, ValueError, struct.error):
        return None


def _read(data: bytes) -> Scan | None:
    if not data.startswith(START_OF_IMAGE):
        return None
    frame, restart, position = b"", 0, len(START_OF_IMAGE)
    factors: dict[int, bytes] = {}
    codes: dict[int, Code] = {}
    while data[position] == 0xFF:
        marker = data[position + 1]
        (length,) = struct.unpack_from(">H", data, position + 2)
        content = data[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == START_OF_SCAN:
            _, height, width = struct.unpack_from(">BHH", frame)
            components = _components(frame, content, factors, codes)
            return Scan(position, height, width, restart, components) if components else None
        if marker == START_OF_FRAME and not frame:
            frame = content
        elif marker == QUANTIZATION:
            factors |= struct.iter_unpack("B64s", content)  # of eight bits
        elif marker == HUFFMAN_CODES:
            codes |= _codes(content)
        elif marker == RESTART_INTERVAL:
            (restart,) = struct.unpack(">H", content)
        elif marker not in IGNORED or UNUSUAL.match(content):
            return None
    return None


def _components(
    frame: bytes, content: bytes, factors: dict[int, bytes], codes: dict[int, Code]
) -> tuple[Component, ...] | None:
    """The components of a frame that a scan's header chooses all at once, with what they use."""
    depth, count = frame[0], frame[5]
    planes = list(struct.iter_unpack("3B", frame[6:]))
    chosen = list(struct.iter_unpack("2B", content[1:-3]))
    names = tuple(name for name, _, _ in planes)
    if (depth, content[0], content[-3:]) != (8, count, ALL_COEFFICIENTS):
        return None
    if names != LUMA_AND_CHROMA[:count] or names != tuple(name for name, _ in chosen):
        return None
    if [sampling for _, sampling, _ in planes] not in SAMPLINGS:
        return None
    if not (factors.keys() <= FACTOR_NAMES and codes.keys() <= CODE_NAMES):
        return None
    return tuple(
        Component(
            sampling & 15 if count > 1 else 1,
            sampling >> 4 if count > 1 else 1,
            factors[table],
            codes[both >> 4],
            codes[16 | both & 15],
        )
        for (_, sampling, table), (_, both) in zip(planes, chosen, strict=True)
    )


def _codes(content: bytes) -> dict[int, Code]:
    """Codes by name: from 0 those of DC, from 16 those of AC coefficients."""
    found = {}
    while content:
        counts, size = content[1:17], 17 + sum(content[1:17])
        found[content[0]] = counts, content[17:size]
        used = accumulate(count << (16 - bits) for bits, count in enumerate(counts, 1))
        if len(content) < size or max(used) > 0xFFFF:  # of all ones there is no codeword
            raise ValueError("no Huffman code")
        if content[0] < 16 and max(content[17:size], default=0) > 11:
            raise ValueError("a difference of more than 11 bits")
        content = content[size:]
    return found

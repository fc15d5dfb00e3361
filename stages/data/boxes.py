"""The format and size of AVIF and HEIC files, read from their boxes, without decoding.

ISO/IEC 14496-12 defines the boxes, and 23008-12 (HEIF) the properties of images in them.
"""

import struct
from collections.abc import Iterator

AVIF = frozenset((b"avif", b"avis"))
HEIF = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)
MAX_BOXES = 100_000  # directly in one box

Span = tuple[int, int]  # start and end of a box's content


def format_of(data: bytes) -> str:
    """Pillow's name of a file's format, "AVIF" or "HEIF", by its brands; "" for other files."""
    if data[4:8] != b"ftyp":
        return ""
    end = min(int.from_bytes(data[:4], "big"), len(data), 1024)
    brand, others = data[8:12], {data[at : at + 4] for at in range(16, end - 3, 4)}
    if brand in AVIF or (brand in HEIF and others & AVIF):
        return "AVIF"
    return "HEIF" if brand in HEIF else ""


def size_of(data: bytes) -> tuple[int, int]:
    """(height, width) of the main image, after its cropping and rotation.

    Raises:
        ValueError, IndexError, struct.error: the boxes are broken, or none has a size.
    """
    start, end = _first(data, (0, len(data)), b"meta")
    meta = (start + 4, end)
    holder = _first(data, meta, b"iprp")
    properties = list(_boxes(data, _first(data, holder, b"ipco")))
    height = width = turns = 0
    for number in _properties_of(data, holder, _main_item(data, meta)):
        kind, (start, _) = properties[number - 1]
        if kind == b"ispe":
            width, height = struct.unpack_from(">II", data, start + 4)
        elif kind == b"clap":
            width, height = _aperture(data, start)
        elif kind == b"irot":
            turns = data[start] & 3
    return (width, height) if turns % 2 else (height, width)


def _boxes(data: bytes, span: Span) -> Iterator[tuple[bytes, Span]]:
    """Kind and content span of the boxes that follow each other in a span."""
    position, end = span
    for _ in range(MAX_BOXES):
        if position + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        length = length or end - position  # 0: to the end
        if position + length < start or position + length > end:
            raise ValueError(f"box {kind!r} is longer than the file, or has no length")
        yield kind, (start, position + length)
        position += length
    raise ValueError("too many boxes")


def _first(data: bytes, span: Span, wanted: bytes) -> Span:
    for kind, content in _boxes(data, span):
        if kind == wanted:
            return content
    raise ValueError(f"no box {wanted.decode()!r}")


def _main_item(data: bytes, meta: Span) -> int:
    start, _ = _first(data, meta, b"pitm")
    (number,) = struct.unpack_from(">I" if data[start] else ">H", data, start + 4)
    return int(number)


def _properties_of(data: bytes, holder: Span, item: int) -> list[int]:
    """Positions in `ipco`, from 1, of an item's properties, in order (23008-12, section 9.3)."""
    for kind, (start, end) in _boxes(data, holder):
        if kind != b"ipma":
            continue
        item_format = ">I" if data[start] else ">H"
        wide = data[start + 3] & 1
        (items,) = struct.unpack_from(">I", data, start + 4)
        position = start + 8
        for _ in range(min(items, MAX_BOXES)):
            (number,) = struct.unpack_from(item_format, data, position)
            position += struct.calcsize(item_format)
            count, position = data[position], position + 1
            step = 2 if wide else 1
            if position + count * step > end:
                raise ValueError("associations are longer than their box")
            if number == item:
                values = struct.unpack_from(f">{count}{'H' if wide else 'B'}", data, position)
                return [value & (0x7FFF if wide else 0x7F) for value in values]
            position += count * step
    raise ValueError("the main image has no properties")


def _aperture(data: bytes, start: int) -> tuple[int, int]:
    """(width, height) of a clean aperture, which stores both as fractions."""
    width, width_by, height, height_by = struct.unpack_from(">IIII", data, start)
    if not width_by or not height_by:
        raise ValueError("a crop without a size")
    return width // width_by, height // height_by

"""Format, size and orientation of an encoded image, read from its headers without decoding."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from cryobase.stages.data import boxes

MAX_BYTES = 256 << 20  # of an encoded image
MAX_PIXELS = 89_478_485  # above it Pillow warns of a decompression bomb
MAX_SIDE = 65_535
EXIF_ORIENTATION = 0x0112
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers of a JPEG
EXTENSIONS = {
    "JPEG": "jpg", "PNG": "png", "GIF": "gif", "BMP": "bmp", "WEBP": "webp", "TIFF": "tiff",
    "AVIF": "avif", "HEIF": "heic",
}  # fmt: skip
TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}  # + is BigTIFF
TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # types of whole numbers
BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    **dict.fromkeys(TIFF_ORDERS, "TIFF"),
}
RAW_COLORS = (32803, 34892)  # photometric interpretations of a raw sensor image
DNG_VERSION = 50706


@dataclass(frozen=True)
class Header:
    """Format (Pillow's name), stored size in pixels, channels, and bits of a value if known.

    `orientation` is EXIF's. For AVIF and HEIF, the size is the one after their own rotation.
    """

    format: str
    height: int
    width: int
    channels: int = 3
    orientation: int = 1
    depth: int = 8

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) after EXIF's orientation is undone."""
        turned = self.orientation >= 5
        return (self.width, self.height) if turned else (self.height, self.width)


def read(data: bytes) -> Header | None:
    """The header of an encoded image; None if the format is not read.

    Raises:
        ValueError: the header is broken.
    """
    form = format_of(data)
    try:
        return _READERS[form](data) if form else None
    except (struct.error, IndexError) as error:
        raise ValueError(str(error)) from None


def format_of(start: bytes) -> str:
    """The format by the first 64 bytes of a file, or more; "" if the format is not read."""
    for beginning, form in BEGINNINGS.items():
        if start.startswith(beginning):
            return form
    if start.startswith(b"BM") and start[14:18] in _BMP_SIZES:
        return "BMP"
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "WEBP"
    return boxes.format_of(start)


def too_large(height: int, width: int) -> str:
    """A reason to refuse an image of this size before decoding it, or ""."""
    if min(height, width) < 1:
        return f"no pixels ({width}x{height})"
    if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE:
        return (
            f"{width}x{height} pixels; at most {MAX_PIXELS:,} and {MAX_SIDE:,} a side are decoded:"
            " scale it down"
        )
    return ""


def orientation_of(tiff: bytes) -> int:
    """EXIF's orientation, 1 to 8, from a TIFF structure (TIFF 6.0, section 2); 1 if unusable."""
    return 1 if b"+" in tiff[:4] else _orientation(tiff)  # EXIF never is a BigTIFF


def _orientation(tiff: bytes) -> int:
    for tag, kind, count, value in _first_directory(tiff):
        if tag == EXIF_ORIENTATION:
            return value if (kind, count) == (3, 1) and 1 <= value <= 8 else 1
    return 1


def _first_directory(tiff: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(tag, type, count, first value if it is a whole number, else 0) of a TIFF's first page."""
    order = TIFF_ORDERS.get(tiff[:4])
    if order is None or len(tiff) < 16:
        return
    big = b"+" in tiff[:4]
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), tiff, 8 if big else 4)
    head, room, step = ("HHQ", 8, 20) if big else ("HHI", 4, 12)
    first = start + (8 if big else 2)
    if first > len(tiff):
        return
    (entries,) = struct.unpack_from(order + ("Q" if big else "H"), tiff, start)
    for entry in range(first, min(first + step * min(entries, 0xFFFF), len(tiff) - step + 1), step):
        tag, kind, count = struct.unpack_from(order + head, tiff, entry)
        number, place = order + TIFF_NUMBERS.get(kind, "B"), entry + step - room
        if count * struct.calcsize(number) > room:
            (place,) = struct.unpack_from(order + ("Q" if big else "I"), tiff, place)
        whole = kind in TIFF_NUMBERS and place + struct.calcsize(number) <= len(tiff)
        yield tag, kind, count, struct.unpack_from(number, tiff, place)[0] if whole else 0


def _read_tiff(data: bytes) -> Header | None:
    """Size of the first page; None for a raw photograph, whose first page is a preview."""
    tags = {tag: value for tag, _, _, value in _first_directory(data)}
    raw = data[8:10] == b"CR" or tags.get(254, 0) & 1 or tags.get(262) in RAW_COLORS
    if raw or DNG_VERSION in tags:
        return None
    if not tags.get(256) or not tags.get(257):
        raise ValueError("TIFF without a first page")
    orientation = _orientation(data)
    return Header("TIFF", tags[257], tags[256], orientation=orientation, depth=tags.get(258, 1))


def _read_boxes(form: str, data: bytes) -> Header:
    try:
        return Header(form, *boxes.size_of(data))
    except (struct.error, IndexError, ValueError) as error:
        name = "HEIC" if form == "HEIF" else form
        raise ValueError(f"the boxes of an {name} file are broken or cut ({error})") from None


def _read_gif(data: bytes) -> Header:
    width, height = struct.unpack_from("<HH", data, 6)
    return Header("GIF", height, width)


def _read_jpeg(data: bytes) -> Header:
    """Size from the frame header (ITU T.81, annex B), orientation from Exif before it."""
    orientation, position = 1, 2
    while position < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in FRAMES:
            height, width, channels = struct.unpack_from(">HHB", data, position + 5)
            return Header("JPEG", height, width, channels, orientation)
        if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            orientation = orientation_of(data[position + 10 : position + 2 + length])
        if marker == 0xDA:
            break
        position += 2 + length
    raise ValueError("JPEG without a frame")


def _read_png(data: bytes) -> Header:
    """Size from IHDR; orientation from an eXIf chunk, which must come before the pixels."""
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if kind != b"IHDR" or length != 13:
        raise ValueError("PNG does not begin with IHDR")
    orientation, position = 1, 33
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind in (b"IDAT", b"IEND"):
            break
        if kind == b"eXIf":
            orientation = orientation_of(data[position + 8 : position + 8 + length])
            break
        position += 12 + length
    return Header("PNG", height, width, orientation=orientation, depth=data[24])


_BMP_SIZES = {struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124)}


def _read_bmp(data: bytes) -> Header:
    if data[14:18] == struct.pack("<I", 12):
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return Header("BMP", abs(height), width)  # a negative height stores the rows from the top


def _read_webp(data: bytes) -> Header:
    """Size from the first chunk (RFC 9649); only the extended format can carry EXIF."""
    kind = data[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        if len(data) < 30:
            raise ValueError("truncated WebP header")
        return Header("WEBP", height, width, orientation=orientation_of(_webp_exif(data)))
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("WEBP", height & 0x3FFF, width & 0x3FFF)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("WEBP", 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF))
    raise ValueError("unknown WebP chunk")


def _webp_exif(data: bytes) -> bytes:
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            return data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0")
        position += 8 + length + length % 2
    return b""


_READERS: dict[str, Callable[[bytes], Header | None]] = {
    "JPEG": _read_jpeg,
    "PNG": _read_png,
    "GIF": _read_gif,
    "BMP": _read_bmp,
    "WEBP": _read_webp,
    "TIFF": _read_tiff,
    "AVIF": partial(_read_boxes, "AVIF"),
    "HEIF": partial(_read_boxes, "HEIF"),
}

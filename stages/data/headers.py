"""What an encoded image says of itself, read from its first bytes, without decoding anything."""

import re
import struct
from dataclasses import dataclass

MAX_BYTES = 256 << 20  # of an encoded image
MAX_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb
MAX_SIDE = 65_535
EXIF_ORIENTATION = 0x0112
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers of a JPEG
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "BMP": "bmp", "WEBP": "webp"}

BEGINNINGS = re.compile(
    rb"(?s)\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0|RIFF.{4}WEBP"
)

# Beginnings of files that people put among images; the words become reasons of quarantine.
KNOWN_BEGINNINGS = [
    (rb"\A\s*\Z", "empty file"),
    (rb"\Aversion https://git-lfs", "a Git LFS pointer, not the image; run: git lfs pull"),
    (rb"(?i)\A\s*<(!doctype html|html|head|body)", "an HTML page, not an image"),
    (rb"(?i)\A\s*(<\?xml[^>]*>\s*)?<svg", "SVG is not read; convert to PNG"),
    (rb"\A%PDF", "PDF is not read; convert to PNG"),
    (rb"\A%!PS|\A\xc5\xd0\xd3\xc6", "EPS is not read; convert to PNG"),
    (rb"\ASIMPLE  =", "FITS is not read; convert to PNG"),
    (rb"\A(II\*\0|MM\0\*)", "TIFF is not read; convert to PNG"),
    (rb"(?s)\A....ftyp(avif|avis)", "AVIF is not read; convert to JPEG or PNG"),
    (rb"(?s)\A....ftyp(hei|hev|mif1|msf1)", "HEIC is not read; convert to JPEG or PNG"),
    (rb"\APK\x03\x04", "a zip archive, not an image"),
    (rb"\A[\t\n\r\x20-\x7e]{16}", "text, not an image"),
]


@dataclass(frozen=True)
class Header:
    """Format (Pillow's name), size as stored, channels where known, and EXIF orientation."""

    format: str
    height: int
    width: int
    channels: int = 3
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) after EXIF's orientation is undone."""
        turned = self.orientation >= 5
        return (self.width, self.height) if turned else (self.height, self.width)


def read(data: bytes) -> Header | None:
    """The header of a JPEG, PNG, GIF, BMP or WebP file, else None.

    Raises:
        ValueError, IndexError, struct.error: the header is broken.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return _read_jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _read_png(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        width, height = struct.unpack_from("<HH", data, 6)
        return Header("GIF", height, width)
    if data.startswith(b"BM") and data[14:18] in _BMP_SIZES:
        return _read_bmp(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _read_webp(data)
    return None


def begins_as_image(start: bytes) -> bool:
    """Whether the first bytes of a file, 32 or more, are those of a format that is read here."""
    return bool(BEGINNINGS.match(start))


def describe(data: bytes) -> str:
    """A reason why these bytes are not read, for people."""
    if not data:
        return "empty file"
    for beginning, reason in KNOWN_BEGINNINGS:
        if re.match(beginning, data[:512]):
            return reason
    return f"not a JPEG, PNG, GIF, BMP or WebP file (begins with {data[:8].hex(' ')})"


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
    """EXIF's orientation, 1 to 8, from a TIFF structure (TIFF 6.0, section 2); 1 where unusable."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    (directory,) = struct.unpack_from(order + "I", tiff, 4)
    if directory + 2 > len(tiff):
        return 1
    (entries,) = struct.unpack_from(order + "H", tiff, directory)
    for entry in range(directory + 2, min(directory + 2 + 12 * entries, len(tiff) - 11), 12):
        tag, kind, count, value = struct.unpack_from(order + "HHIH", tiff, entry)
        if tag == EXIF_ORIENTATION:
            return value if (kind, count) == (3, 1) and 1 <= value <= 8 else 1
    return 1


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
    """Size from IHDR; orientation from an eXIf chunk ahead of the pixels, where it belongs."""
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
    return Header("PNG", height, width, orientation=orientation)


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

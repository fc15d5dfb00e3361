"""Encoded bytes to RGB pixels: which formats are read, how, and what is refused before decoding."""

import io
import re
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from cryobase.stages.data import headers, unread
from cryobase.stages.errors import DataError

MAX_BYTES = headers.MAX_BYTES
TOO_LARGE = f"more than {MAX_BYTES:,} bytes"
MAX_SCANS = 200  # of a progressive JPEG; each costs a pass over all pixels
START_OF_SCAN = b"\xff\xda"
WHITE = 255
DARK_BELOW = 64  # of 256: what 14 bits fill of 16
DARK = "nearly black, as 14 of 16 bits or fewer are used; multiply the values to fill 16"
TURNED_ALREADY = frozenset({"TIFF", "AVIF", "HEIF"})
HEIC_NEEDS = "HEIC is read by pillow-heif; run `pip install 'cryobase[heif]'`"
READ_SINCE = frozenset({  # reasons of older versions
    "TIFF is not read; convert to PNG",
    "AVIF is not read; convert to JPEG or PNG",
    "HEIC is not read; convert to JPEG or PNG",
})  # fmt: skip

# libjpeg warnings that leave the pixels alone; every other one means damage.
HARMLESS = re.compile(
    r"extraneous bytes before marker|unknown JFIF revision|Unknown Adobe color transform"
    r"|Invalid SOS parameters|bad ICC marker"
)


class UndecodableImageError(DataError):
    """These bytes are no image that is read here; the message is the reason of quarantine."""


def decode(
    data: bytes, *, accurate: bool = False, smallest: tuple[int, int] = (0, 0)
) -> NDArray[np.uint8]:
    """Decode an image as docs/images.md says: upright, 8-bit RGB, alpha composited on white.

    Opaque 8-bit files that EXIF does not turn have the pixels of `tf.io.decode_image`.

    Args:
        data: The encoded JPEG, PNG, BMP, GIF (first frame), WebP, TIFF (first page), AVIF or HEIC.
        accurate: Decode JPEG with the accurate DCT, as Pillow and Keras' `load_img` do, not with
            TensorFlow's fast one.
        smallest: (height, width) that suffices: a JPEG may come back scaled down by 2, 4 or 8 to no
            less than this. (0, 0) decodes in full.

    Returns:
        uint8 (height, width, 3).

    Raises:
        UndecodableImageError: with the reason.
    """
    header = inspect(data)
    try:
        pixels = _DECODERS[header.format](data, header, accurate, smallest)
    except (UndecodableImageError, MemoryError):  # too little memory is no fault of the image
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise anything on hostile bytes
        raise UndecodableImageError(f"broken {header.format} file: {_one_line(error)}") from None
    return pixels if header.format in TURNED_ALREADY else _upright(pixels, header.orientation)


def examine(data: bytes) -> str:
    """Try an image out: decode it in full; a remark for people, or "".

    Raises:
        UndecodableImageError: with the reason.
    """
    pixels = decode(data)
    sixteen = inspect(data).depth == 16
    return DARK if sixteen and pixels.max() < DARK_BELOW else ""


def is_outdated(reason: str) -> bool:
    """Whether an image that an earlier run put into quarantine is read now."""
    if reason in READ_SINCE:
        return True
    return reason.startswith(HEIC_NEEDS.partition(";")[0]) and find_spec("pillow_heif") is not None


def inspect(data: bytes) -> headers.Header:
    """Read format, size and orientation from the header, and apply the caps before any decoding.

    Raises:
        UndecodableImageError: not a format that is read, a broken header, or beyond the caps.
    """
    if len(data) > MAX_BYTES:
        raise UndecodableImageError(TOO_LARGE)
    try:
        header = headers.read(data)
    except ValueError as error:
        raise UndecodableImageError(f"broken header: {_one_line(error)}") from None
    if header is None:
        raise UndecodableImageError(unread.describe(data))
    if reason := headers.too_large(header.height, header.width):
        raise UndecodableImageError(reason)
    return header


def _decode_jpeg(
    data: bytes, header: headers.Header, accurate: bool, smallest: tuple[int, int]
) -> NDArray[np.uint8]:
    height, width = smallest if header.orientation < 5 else smallest[::-1]
    if (scans := _count_scans(data)) > MAX_SCANS:
        raise UndecodableImageError(f"JPEG of {scans:,} scans; at most {MAX_SCANS} are read")
    if header.channels == 4:
        return _decode_with_pillow(data, header, accurate, smallest)
    options: dict[str, Any] = {
        "fastdct": not accurate,
        "fastupsample": False,
        "min_height": height,
        "min_width": width,
        "min_factor": 1,
    }
    rgb: NDArray[np.uint8]
    try:
        rgb = simplejpeg.decode_jpeg(data, **options)
    except KeyError:  # a chroma subsampling that simplejpeg has no name for
        return _decode_with_pillow(data, header, accurate, smallest)
    except ValueError as error:
        if not HARMLESS.search(str(error)):
            raise
        # The strict decoder stopped at its first warning; Pillow refuses a file that is cut later.
        rgb = _decode_with_pillow(data, header, accurate, smallest)
        with suppress(ValueError):  # a warning in the header is always strict
            rgb = simplejpeg.decode_jpeg(data, strict=False, **options)
    return rgb


def _count_scans(data: bytes) -> int:
    """How often `ff da`, which begins a scan, stands anywhere; ten times as fast as bytes.count."""
    found, begins = 0, np.frombuffer(START_OF_SCAN, np.uint16)  # in the machine's order of bytes
    for offset in (0, 1):
        pairs = np.frombuffer(data, np.uint16, (len(data) - offset) // 2, offset)
        found += int(np.count_nonzero(pairs == begins))
    return found


def _decode_with_pillow(
    data: bytes, header: headers.Header, accurate: bool, smallest: tuple[int, int]
) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=[header.format]) as image:
        if reason := headers.too_large(image.height, image.width):
            raise UndecodableImageError(reason)
        image.load()
        return _to_rgb(image)


def _decode_tiff(
    data: bytes, header: headers.Header, accurate: bool, smallest: tuple[int, int]
) -> NDArray[np.uint8]:
    """The first page, which Pillow turns upright; 12 and 16 bits keep the high eight."""
    from PIL import TiffImagePlugin

    with TiffImagePlugin.TiffImageFile(io.BytesIO(data)) as image:
        if image.mode in ("I", "F", "LAB"):
            kind = {"I": "signed or 32-bit values", "F": "fractions", "LAB": "Lab colours"}
            raise UndecodableImageError(
                f"TIFF of {kind[image.mode]} is not read; convert to 8 or 16 bits, gray or RGB"
            )
        if reason := headers.too_large(image.height, image.width):
            raise UndecodableImageError(reason)
        inverted = image.tag_v2.get(262) == 0
        image.load()
        if not image.mode.startswith("I;16"):
            return _to_rgb(image)
        values = np.asarray(image).astype(np.uint16) << (16 - header.depth)
        gray = ((~values if inverted else values) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)


def _decode_avif(
    data: bytes, header: headers.Header, accurate: bool, smallest: tuple[int, int]
) -> NDArray[np.uint8]:
    """The main image; Pillow says as EXIF's orientation how the file turns it."""
    from PIL import Image, features

    if not features.check("avif"):
        raise UndecodableImageError("AVIF is not read by this build of Pillow; take PyPI's")
    with Image.open(io.BytesIO(data), formats=["AVIF"]) as image:
        if reason := headers.too_large(image.height, image.width):
            raise UndecodableImageError(reason)
        image.load()
        turned = image.getexif().get(headers.EXIF_ORIENTATION, 1)
        return _upright(_to_rgb(image), turned if turned in _FLIPS else 1)


def _decode_heif(
    data: bytes, header: headers.Header, accurate: bool, smallest: tuple[int, int]
) -> NDArray[np.uint8]:
    """The main image, which libheif crops and turns as the file says."""
    try:
        import pillow_heif
    except ImportError:
        raise UndecodableImageError(HEIC_NEEDS) from None
    image = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True)
    if reason := headers.too_large(*image.size[::-1]):
        raise UndecodableImageError(reason)
    return _to_rgb(image.to_pillow())


def _to_rgb(image: Any) -> NDArray[np.uint8]:
    """The frame that is loaded, of whatever mode, as RGB on white."""
    if image.mode.startswith("I"):
        return _from_sixteen_bits(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _on_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def _from_sixteen_bits(image: Any) -> NDArray[np.uint8]:
    """Sixteen-bit gray keeps its high byte, as TensorFlow does; Pillow would clip at 255."""
    values = np.asarray(image).astype(np.uint16)
    gray = (values >> 8).astype(np.uint8)
    if (transparent := image.info.get("transparency")) is not None:
        gray[values == transparent] = WHITE
    return np.repeat(gray[..., None], 3, axis=2)


def _on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Composite on white: round(color * alpha + 255 * (1 - alpha)), in whole numbers."""
    alpha = rgba[..., 3:].astype(np.uint16)
    blended = rgba[..., :3] * alpha + WHITE * (WHITE - alpha) + WHITE // 2
    return (blended // WHITE).astype(np.uint8)


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo EXIF's orientation (TIFF 6.0 tag 274, values 1 to 8)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    flip_rows, flip_columns = _FLIPS[orientation]
    return np.ascontiguousarray(pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def _one_line(error: Exception) -> str:
    words = re.sub(r" <_io\.BytesIO object at 0x[0-9a-f]+>", "", str(error))  # no two are equal
    name = type(error).__name__
    return " ".join(words.split())[:120] if len(words) > 8 else f"{name} {words}".strip()


# Orientation: whether rows and columns are reversed, after the transposition of 5 to 8.
_FLIPS = {
    1: (False, False),
    2: (False, True),
    3: (True, True),
    4: (True, False),
    5: (False, False),
    6: (False, True),
    7: (True, True),
    8: (True, False),
}

_DECODERS = {
    "JPEG": _decode_jpeg,
    "PNG": _decode_with_pillow,
    "GIF": _decode_with_pillow,
    "BMP": _decode_with_pillow,
    "WEBP": _decode_with_pillow,
    "TIFF": _decode_tiff,
    "AVIF": _decode_avif,
    "HEIF": _decode_heif,
}

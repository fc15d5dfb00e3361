"""Decoding encoded bytes to RGB pixels: formats, decoders, and limits that apply before decoding.

Messages of `UndecodableImageError` are reasons of quarantine. They are stored in data/raw, so a
changed message becomes visible there.
"""

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
MAX_SCANS = 200  # of a progressive JPEG; each scan costs a pass over all pixels
START_OF_SCAN = b"\xff\xda"
WHITE = 255
DARK_BELOW = 64  # of 256: values of 14 bits, stored in 16, stay below
DARK = "nearly black, as 14 of 16 bits or fewer are used; multiply the values to fill 16"
TURNED_ALREADY = frozenset({"TIFF", "AVIF", "HEIF"})
HEIC_NEEDS = "HEIC is read by pillow-heif; run `pip install 'cryobase[heif]'`"
READ_SINCE = frozenset({  # reasons of older versions for formats that are read now
    "TIFF is not read; convert to PNG",
    "AVIF is not read; convert to JPEG or PNG",
    "HEIC is not read; convert to JPEG or PNG",
})  # fmt: skip

# libjpeg warnings that do not concern pixels; every other warning means damage.
HARMLESS = re.compile(
    r"extraneous bytes before marker|unknown JFIF revision|Unknown Adobe color transform"
    r"|Invalid SOS parameters|bad ICC marker"
)


class UndecodableImageError(DataError):
    """The bytes cannot be decoded; the message is the reason of quarantine."""


def decode(
    data: bytes, *, accurate: bool = False, smallest: tuple[int, int] = (0, 0)
) -> NDArray[np.uint8]:
    """Decode an image to upright 8-bit RGB, with alpha composited on white; see docs/images.md.

    Opaque 8-bit files without an EXIF rotation give the pixels of `tf.io.decode_image`.

    Args:
        data: The encoded JPEG, PNG, BMP, GIF (first frame), WebP, TIFF (first page), AVIF or HEIC.
        accurate: Whether to decode JPEG with the accurate DCT of Pillow and Keras' `load_img`, not
            with TensorFlow's fast DCT.
        smallest: (height, width) that is enough: a JPEG may be scaled down by 2, 4 or 8, but not
            below this size. (0, 0) decodes in full size.

    Returns:
        uint8 (height, width, 3).

    Raises:
        UndecodableImageError: with the reason.
    """
    header = inspect(data)
    try:
        pixels = _DECODERS[header.format](data, header, accurate, smallest)
    except (UndecodableImageError, MemoryError):  # MemoryError is not the image's fault
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise anything on hostile bytes
        raise UndecodableImageError(f"broken {header.format} file: {_one_line(error)}") from None
    return pixels if header.format in TURNED_ALREADY else _upright(pixels, header.orientation)


def examine(data: bytes) -> str:
    """Decode an image in full to test it. Returns a remark for the user, or "".

    Raises:
        UndecodableImageError: with the reason.
    """
    pixels = decode(data)
    sixteen = inspect(data).depth == 16
    return DARK if sixteen and pixels.max() < DARK_BELOW else ""


def is_outdated(reason: str) -> bool:
    """Whether an image with this reason of quarantine can be read now."""
    if reason in READ_SINCE:
        return True
    return reason.startswith(HEIC_NEEDS.partition(";")[0]) and find_spec("pillow_heif") is not None


def inspect(data: bytes) -> headers.Header:
    """Read format, size and orientation from the header, and check the limits. Decodes nothing.

    Raises:
        UndecodableImageError: the format is not read, the header is broken, or a limit is exceeded.
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
    except KeyError:  # simplejpeg does not know this chroma subsampling
        return _decode_with_pillow(data, header, accurate, smallest)
    except ValueError as error:
        if not HARMLESS.search(str(error)):
            raise
        # The strict decoder stopped at its first warning, so the rest of the file is unchecked.
        # Pillow decodes it too, and refuses a truncated file.
        rgb = _decode_with_pillow(data, header, accurate, smallest)
        with suppress(ValueError):  # simplejpeg always raises for a warning in the header
            rgb = simplejpeg.decode_jpeg(data, strict=False, **options)
    return rgb


def _count_scans(data: bytes) -> int:
    """Count `ff da`, which begins a scan, in all bytes; ten times as fast as `bytes.count`."""
    count, begins = 0, np.frombuffer(START_OF_SCAN, np.uint16)  # in the machine's byte order
    for offset in (0, 1):
        pairs = np.frombuffer(data, np.uint16, (len(data) - offset) // 2, offset)
        count += int(np.count_nonzero(pairs == begins))
    return count


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
    """The first page, which Pillow rotates upright. Of 12 or 16 bits, the high 8 are kept."""
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
    """The main image. Pillow reports the file's rotation as EXIF orientation."""
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
    """The main image, which libheif crops and rotates."""
    try:
        import pillow_heif
    except ImportError:
        raise UndecodableImageError(HEIC_NEEDS) from None
    image = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True)
    if reason := headers.too_large(*image.size[::-1]):
        raise UndecodableImageError(reason)
    return _to_rgb(image.to_pillow())


def _to_rgb(image: Any) -> NDArray[np.uint8]:
    """The loaded frame, of any mode, as RGB on white."""
    if image.mode.startswith("I"):
        return _from_sixteen_bits(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _on_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def _from_sixteen_bits(image: Any) -> NDArray[np.uint8]:
    """Keep the high byte of 16-bit gray, as TensorFlow does; Pillow would clip values at 255."""
    values = np.asarray(image).astype(np.uint16)
    gray = (values >> 8).astype(np.uint8)
    if (transparent := image.info.get("transparency")) is not None:
        gray[values == transparent] = WHITE
    return np.repeat(gray[..., None], 3, axis=2)


def _on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Composite on white: round(color * alpha + 255 * (1 - alpha)), in integers."""
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
    words = re.sub(r" <_io\.BytesIO object at 0x[0-9a-f]+>", "", str(error))  # differs in every run
    name = type(error).__name__
    return " ".join(words.split())[:120] if len(words) > 8 else f"{name} {words}".strip()


# Orientation: whether rows and columns are reversed. 5 to 8 are transposed first.
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

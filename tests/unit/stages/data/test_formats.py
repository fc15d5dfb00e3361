"""TIFF, AVIF and HEIC: documented pixels, or a reason that says what to do."""

import contextlib
import io
import os
import struct
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from cryobase.stages.data import decoding, headers, unread
from cryobase.stages.data.decoding import UndecodableImageError, decode, examine
from cryobase.stages.data.png import encode_png
from tests.unit.stages.data.test_decoding import COLORS, encoded, photo

GRAY = np.array([[0, 1 << 8, 40_000], [65_535, 255, 4_095]], np.uint16)


def heic(pixels, **options):
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(buffer, quality=95, **options)
    return buffer.getvalue()


def tiff(tags, pixels=b"", order="<"):
    """A TIFF of one page from whole numbers, each tag (number, value, …); pixels come first."""
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(pixels))
    entries = b"".join(
        struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in sorted(tags.items())
    )
    directory = struct.pack(order + "H", len(tags)) + entries + bytes(4)
    return start + pixels + directory


def gray_tiff(pixels, *, bits, width, height, order="<", **more):
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height,
            279: len(pixels)}  # fmt: skip
    return tiff(tags | {int(tag[1:]): value for tag, value in more.items()}, pixels, order)


@pytest.mark.parametrize(
    "compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "tiff_deflate"]
)
def test_tiffs_of_eight_bits_give_back_the_pixels(compression):
    np.testing.assert_array_equal(
        decode(encoded(photo(), "TIFF", compression=compression)), photo()
    )
    np.testing.assert_array_equal(decode(encoded(photo(), "TIFF", big_tiff=True)), photo())


@pytest.mark.fault(6)
@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_modes_of_tiff_become_rgb_as_pillow_converts_them(mode):
    image = Image.fromarray(photo()).convert(mode)
    data = encoded(photo(), "TIFF", mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)


@pytest.mark.fault(6)
def test_alpha_of_tiff_and_avif_is_composited_on_white():
    rgba = np.dstack([COLORS, np.array([[255, 0], [128, 51]], np.uint8)])
    expected = [[[200, 30, 40], [255, 255, 255]], [[127, 127, 255], [255, 255, 255]]]
    assert decode(encoded(rgba, "TIFF")).tolist() == expected
    clear = np.zeros((16, 16, 4), np.uint8)
    assert (decode(encoded(clear, "AVIF")) == 255).all()
    assert (decode(heic(clear)) == 255).all()


@pytest.mark.fault(6)
@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_of_tiff_keep_their_high_byte_as_in_png(order):
    pixels = GRAY.astype(order + "u2").tobytes()
    data = gray_tiff(pixels, bits=16, width=3, height=2, order=order)
    assert decode(data)[..., 0].tolist() == (GRAY >> 8).tolist()
    np.testing.assert_array_equal(decode(data), decode(encode_png(GRAY[..., None])))


@pytest.mark.fault(6)
def test_white_is_zero_is_inverted_at_sixteen_bits_too():
    for data in (
        gray_tiff(GRAY.astype("<u2").tobytes(), bits=16, width=3, height=2, _262=0),
        gray_tiff((GRAY >> 8).astype(np.uint8).tobytes(), bits=8, width=3, height=2, _262=0),
    ):
        assert decode(data)[..., 0].tolist() == (255 - (GRAY >> 8)).tolist()


@pytest.mark.fault(6)
def test_twelve_bits_of_tiff_fill_the_range():
    packed = bytes([0xFF, 0xF8, 0x00, 0x01, 0x0A, 0xBC])  # fff 800 010 abc
    data = gray_tiff(packed, bits=12, width=2, height=2)
    assert decode(data)[..., 0].tolist() == [[0xFF, 0x80], [0x01, 0xAB]]


@pytest.mark.fault(6)
def test_sixteen_bits_of_colour():
    cv2 = pytest.importorskip("cv2")
    wide = photo().astype(np.uint16) * 256 + 99
    _, data = cv2.imencode(".tiff", wide[..., ::-1])
    np.testing.assert_array_equal(decode(data.tobytes()), photo())


@pytest.mark.fault(6)
@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_values_without_a_range_are_refused_with_what_to_do(mode):
    image = Image.new(mode, (8, 8))
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    with pytest.raises(UndecodableImageError, match="convert to 8 or 16 bits"):
        decode(buffer.getvalue())


@pytest.mark.parametrize("image_format", ["TIFF", "AVIF", "HEIF"])
def test_of_several_pages_the_first_is_taken(image_format):
    frames = [Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (50, 200)]
    buffer = io.BytesIO()
    if image_format == "HEIF":
        pillow_heif = pytest.importorskip("pillow_heif")
        file = pillow_heif.HeifFile()
        for frame in frames:
            file.add_from_pillow(frame)
        file.save(buffer, primary_index=0)
    else:
        frames[0].save(buffer, image_format, save_all=True, append_images=frames[1:])
    assert abs(int(decode(buffer.getvalue()).mean()) - 50) <= 3


@pytest.mark.fault(6)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["TIFF", "AVIF", "HEIF"])
def test_images_are_turned_upright(orientation, image_format):
    pixels = photo(24, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if image_format == "HEIF":
        data = heic(pixels, exif=exif.tobytes())
    else:
        options = {"quality": 100, "subsampling": "4:4:4"} if image_format == "AVIF" else {}
        data = encoded(pixels, image_format, exif=exif, **options)
    turned = Image.fromarray(pixels)
    turned.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(turned)).astype(int)
    mine = decode(data)
    assert headers.read(data).upright == mine.shape[:2] == expected.shape[:2]
    here = np.abs(mine - expected).mean()
    flipped = min(np.abs(mine[::-1] - expected).mean(), np.abs(mine[:, ::-1] - expected).mean())
    assert here < flipped / 4, "lossy, but this way up"


@pytest.mark.parametrize("quality", [30, 95])
def test_avif_has_pillows_pixels_and_is_near_what_was_encoded(quality):
    data = encoded(photo(), "AVIF", quality=quality)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(decode(data), np.asarray(image.convert("RGB")))


def test_heic_has_the_pixels_of_pillow_heif():
    data = heic(photo())
    pillow_heif = pytest.importorskip("pillow_heif")
    expected = np.asarray(pillow_heif.open_heif(io.BytesIO(data)))
    np.testing.assert_array_equal(decode(data), expected)
    assert headers.read(data) == headers.Header("HEIF", 61, 83)


def test_without_the_extra_a_heic_has_a_reason_that_names_it(monkeypatch):
    data = heic(photo())
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UndecodableImageError, match=r"pip install 'cryobase\[heif\]'") as caught:
        decode(data)
    assert str(caught.value) == decoding.HEIC_NEEDS


@pytest.mark.fault(3, 4)
def test_pixel_bombs_of_the_new_formats_are_refused_from_the_header():
    bomb = gray_tiff(bytes(9), bits=8, width=40_000, height=40_000)
    avif = bytearray(encoded(photo(), "AVIF"))
    place = avif.index(b"ispe") + 8
    avif[place : place + 8] = struct.pack(">II", 40_000, 40_000)
    for data in (bomb, bytes(avif)):
        with pytest.raises(UndecodableImageError, match="pixels; at most"):
            decode(data)


@pytest.mark.parametrize(
    ("tags", "of"),
    [({254: 1}, "NEF"), ({50706: 0x0401}, "DNG"), ({262: 32803}, "ARW"), ({262: 34892}, "DNG")],
)
def test_raw_photographs_are_not_their_previews(tags, of):
    """A TIFF reader would take the small picture in front for the photograph."""
    more = {f"_{tag}": value for tag, value in tags.items()}
    for order in "<>":
        data = gray_tiff(bytes(16), bits=8, width=4, height=4, order=order, **more)
        with pytest.raises(UndecodableImageError, match=f"raw photograph.*{of}.*develop"):
            decode(data)


@pytest.mark.fault(5)
@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(20), "Canon CR2"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "Canon CR3"),
        (b"IIRO\x08\0\0\0", "Olympus"), (b"IIU\0\x18\0\0\0", "Panasonic"),
        (b"FUJIFILMCCD-RAW 0201", "Fujifilm"),
        (b"8BPS\0\1" + bytes(9), "PSD"), (b"\xff\x0a\xff\xff\x01", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"), (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (bytes(128) + b"DICM\2\0", "DICOM"), (b"x" * 128 + b"DICM\2\0", "DICOM"),
        (b"<?xml version='1.0'?>\n<!-- made by x -->\n<!-- y -->\n<svg xmlns=", "SVG"),
        (b"<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN'>\n<SVG>", "SVG"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "video"), (b"\0\0\1\0ftypqt  " + bytes(9), "video"),
        (b"\0\0\0\x08wide\0\0\1\0mdat", "video"), (b"\x1a\x45\xdf\xa3\x01", "video"),
        (b"RIFF\0\1\0\0AVI LIST", "video"), (b"\0\0\1\xba\x44", "video"),
        ((b"G" + bytes(187)) * 3, "video"), (b"\0\0\1\0\2\0\x10\x10", "icon"),
        (b"P6 4 4 255 ", "PNM"), (b"P5\n# made by\n4 4\n255\n", "PNM"), (b"v/1\1\2", "OpenEXR"),
        (b"#?RADIANCE\n", "Radiance"), (b"gimp xcf v011", "GIMP"), (b"AT&TFORM", "DjVu"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Office"), (b"\0\5\x16\7\0\2", "macOS"),
        (b"Rar!\x1a\7\1\0", "RAR"), (b"\x1f\x8b\x08\0", "gzip"), (b"\x89HDF\r\n", "HDF5"),
        (bytes(500), "zero bytes"), (b"words", "text"), (b"\xef\xbb\xbfwords", "text"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_called_by_its_name(data, name):
    with pytest.raises(UndecodableImageError, match=name) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    assert "begins with" not in str(caught.value) or name == "zero bytes"


def test_telling_what_a_file_is_takes_no_time_whatever_it_holds():
    """Patterns with two ways to match the same bytes would take for ever."""
    steps = [b"<!---->", b"<?xml ?>", b" ", b"<!doctype svg>", b"-->", b"?>", b"G" * 188]
    for one in steps:
        for other in steps:
            assert unread.describe((one + other) * 1000)


@pytest.mark.fault(1)
@pytest.mark.parametrize("image_format", ["AVIF", "HEIF", "none", "tiff_lzw", "jpeg", "group4"])
def test_a_cut_image_of_the_new_formats_is_refused_or_whole(image_format):
    if image_format == "HEIF":
        data = heic(photo())
    elif image_format == "AVIF":
        data = encoded(photo(), "AVIF")
    else:
        compression = None if image_format == "none" else image_format
        mode = "1" if image_format == "group4" else None
        data = encoded(photo(), "TIFF", mode, compression=compression)
    whole = decode(data)
    for tenths in range(10):
        with pytest.raises(UndecodableImageError):
            decode(data[: len(data) * tenths // 10])
    for missing in range(1, 20):
        with contextlib.suppress(UndecodableImageError):
            np.testing.assert_array_equal(decode(data[:-missing]), whole)


def test_reasons_are_the_same_every_time():
    """They are in the index, which has the same bytes for the same folder."""
    data = encoded(photo(), "PNG")
    broken = data[:24] + b"\x77" + data[25:]
    reasons = set()
    for _ in range(3):
        with pytest.raises(UndecodableImageError) as caught:
            decode(broken)
        reasons.add(str(caught.value))
        io.BytesIO(os.urandom(9))
    assert len(reasons) == 1
    assert " at 0x" not in reasons.pop()


@pytest.mark.parametrize(
    ("highest", "dark"),
    [(255, True), (4_095, True), (16_383, True), (16_384, False), (65_535, False)],
)
@pytest.mark.parametrize("kind", ["gray", "colour", "tiff"])
def test_sixteen_bits_that_hold_fewer_are_remarked_on_and_keep_their_pixels(kind, highest, dark):
    values = np.array([[0, highest // 2, highest]], np.uint16)
    if kind == "tiff":
        data = gray_tiff(values.tobytes(), bits=16, width=3, height=1)
    else:
        data = encode_png(np.repeat(values[..., None], 1 if kind == "gray" else 3, axis=2))
    assert examine(data) == (decoding.DARK if dark else "")
    assert decode(data)[0, :, 0].tolist() == (values[0] >> 8).tolist()


def test_eight_bits_are_dark_without_a_remark():
    assert examine(encoded(np.full((4, 4, 3), 9, np.uint8), "PNG")) == ""
    assert examine(encoded(photo(), "JPEG")) == ""


def test_readers_of_headers_survive_anything():
    random = np.random.default_rng(0)
    starts = [b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0\x10", b"\0\0\0\x18ftypavif\0\0\0\0mif1heic"]
    for number in range(400):
        data = starts[number % 4] + random.bytes(int(random.integers(0, 90)))
        with contextlib.suppress(UndecodableImageError):
            decoding.inspect(data)
    whole = encoded(photo(9, 9), "AVIF")
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(3):
            data[random.integers(0, 300)] = random.integers(0, 256)
        with contextlib.suppress(UndecodableImageError):
            decoding.inspect(bytes(data))


@pytest.mark.parametrize("big", [False, True])
def test_a_turned_tiff_has_its_size_in_either_kind(big):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photo(20, 30), "TIFF", exif=exif, big_tiff=big)
    assert headers.read(data).upright == decode(data).shape[:2] == (30, 20)

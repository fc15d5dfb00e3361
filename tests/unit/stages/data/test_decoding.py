"""What is read, as which pixels, and what is refused: the documented modes, golden."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cryobase.stages.data import decoding, headers
from cryobase.stages.data.decoding import UndecodableImageError, decode
from cryobase.stages.data.png import encode_png
from tests.scale import rounds

ALL_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF")
COLORS = np.array([[[200, 30, 40], [10, 220, 60]], [[0, 0, 255], [255, 255, 255]]], np.uint8)


def encoded(pixels, image_format, mode=None, **options):
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, image_format, **options)
    return buffer.getvalue()


def photo(height=61, width=83, seed=0):
    """Smooth colours with some noise, like a photograph."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 90 * np.sin(x / a + y / b) for a, b in ((9, 14), (17, 7), (5, 23))]
    noise = np.random.default_rng(seed).normal(0, 8, (height, width, 3))
    return (np.stack(waves, axis=-1) + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "WEBP", "GIF"])
def test_lossless_formats_give_back_the_pixels(image_format):
    options = {"lossless": True} if image_format == "WEBP" else {}
    pixels = COLORS if image_format == "GIF" else photo()
    np.testing.assert_array_equal(decode(encoded(pixels, image_format, **options)), pixels)


@pytest.mark.fault(6)
def test_palette_becomes_its_colours():
    image = Image.fromarray(COLORS).quantize(4)
    for image_format in ("PNG", "BMP", "GIF"):
        buffer = io.BytesIO()
        image.save(buffer, image_format)
        np.testing.assert_array_equal(decode(buffer.getvalue()), COLORS)


@pytest.mark.fault(6)
def test_gray_and_bilevel_become_three_equal_channels():
    gray = np.array([[0, 77], [128, 255]], np.uint8)
    np.testing.assert_array_equal(decode(encoded(gray, "PNG")), np.stack([gray] * 3, axis=-1))
    bilevel = decode(encoded(gray, "PNG", "1"))
    assert set(np.unique(bilevel)) == {0, 255}


@pytest.mark.fault(6)
def test_alpha_is_composited_on_white():
    rgba = np.dstack([COLORS, np.array([[255, 0], [128, 51]], np.uint8)])
    expected = [[[200, 30, 40], [255, 255, 255]], [[127, 127, 255], [255, 255, 255]]]
    for image_format, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        assert decode(encoded(rgba, image_format, **options)).tolist() == expected


@pytest.mark.fault(6)
def test_gray_with_alpha_and_transparent_palette_are_composited_too():
    gray_alpha = np.dstack([[[100, 100]], [[255, 0]]]).astype(np.uint8)
    assert decode(encoded(gray_alpha, "PNG")).tolist() == [[[100] * 3, [255] * 3]]
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 60, 50, 40])
    image.putpixel((1, 0), 1)
    for image_format in ("PNG", "GIF"):
        buffer = io.BytesIO()
        image.save(buffer, image_format, transparency=1)
        assert decode(buffer.getvalue()).tolist() == [[[9, 8, 7], [255, 255, 255]]]


@pytest.mark.fault(6)
def test_sixteen_bits_keep_their_high_byte():
    gray = np.array([[[0], [40_000], [65_535]]], np.uint16)
    assert decode(encode_png(gray))[0, :, 0].tolist() == [0, 40_000 >> 8, 255]
    color = np.array([[[65_535, 40_000, 256]]], np.uint16)
    assert decode(encode_png(color)).tolist() == [[[255, 156, 1]]]


@pytest.mark.fault(6)
def test_cmyk_jpeg_becomes_rgb_as_pillow_converts_it():
    pixels = np.broadcast_to(np.array([200, 100, 50], np.uint8), (16, 16, 3))
    data = encoded(pixels, "JPEG", "CMYK", quality=95)
    assert headers.read(data).channels == 4
    np.testing.assert_allclose(decode(data)[8, 8], [200, 100, 50], atol=3)  # levels that JPEG loses


@pytest.mark.fault(6)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_undone(orientation, image_format):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = photo(24, 40)
    options = {"quality": 95, "subsampling": 0} if image_format == "JPEG" else {}
    options |= {"lossless": True} if image_format == "WEBP" else {}
    data = encoded(pixels, image_format, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    mine = decoding.decode(data, accurate=True)
    np.testing.assert_array_equal(mine, expected)
    assert headers.read(data).upright == mine.shape[:2]


@pytest.mark.fault(6)
@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(image_format):
    frames = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (50, 200)]
    buffer = io.BytesIO()
    options = {"lossless": True} if image_format == "WEBP" else {}
    frames[0].save(buffer, image_format, save_all=True, append_images=frames[1:], **options)
    assert np.unique(decode(buffer.getvalue())).tolist() == [50]


@pytest.mark.parametrize("smallest", [(30, 30), (20, 45), (100, 100)])
def test_scaled_decoding_is_no_smaller_than_asked(smallest):
    data = encoded(photo(200, 300), "JPEG")
    height, width, _ = decoding.decode(data, smallest=smallest).shape
    assert height >= smallest[0]
    assert width >= smallest[1]
    assert (height, width) != (200, 300)


@pytest.mark.parametrize(("side", "shape"), [(24, (38, 25)), (25, (38, 25)), (26, (75, 50))])
def test_scaled_decoding_counts_sides_as_they_are_seen(side, shape):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decode(encoded(photo(200, 300), "JPEG", exif=exif), smallest=(1, side))
    assert pixels.shape == (*shape, 3)


@pytest.mark.fault(1)
@pytest.mark.parametrize("image_format", ALL_FORMATS)
def test_an_image_cut_at_any_decile_is_refused(image_format):
    data = encoded(photo(), image_format)
    for tenths in range(10):
        with pytest.raises(UndecodableImageError):
            decode(data[: len(data) * tenths // 10])


@pytest.mark.fault(1)
@pytest.mark.parametrize("image_format", ALL_FORMATS)
def test_an_image_that_lacks_its_last_bytes_is_refused_or_whole(image_format):
    data = encoded(photo(), image_format)
    whole = decode(data)
    for missing in range(1, 30):
        with contextlib.suppress(UndecodableImageError):
            np.testing.assert_array_equal(decode(data[:-missing]), whole)


@pytest.mark.fault(1)
def test_a_jpeg_cut_and_closed_with_an_end_marker_is_refused():
    """As a camera's or a downloader's repair leaves it; Pillow fills the rest with gray."""
    data = encoded(photo(), "JPEG")
    with pytest.raises(UndecodableImageError, match="premature end of data"):
        decode(data[: len(data) // 2] + b"\xff\xd9")


@pytest.mark.fault(1)
def test_a_jpeg_cut_after_a_harmless_warning_is_refused():
    data = encoded(photo(), "JPEG")
    odd = data.replace(b"JFIF\0\1", b"JFIF\0\x09")
    np.testing.assert_array_equal(decode(odd), decoding.decode(data, accurate=True))
    with pytest.raises(UndecodableImageError):
        decode(odd[: len(odd) // 2])


def test_bytes_before_the_end_of_a_jpeg_are_forgiven():
    data = encoded(photo(), "JPEG")
    np.testing.assert_array_equal(decode(data[:-2] + b"junk" * 9 + data[-2:]), decode(data))


def png_claiming(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )  # fmt: skip


@pytest.mark.fault(3, 4)
@pytest.mark.parametrize("size", [(14_000, 14_000), (2**31 - 1, 1), (10_000, 10_000), (0, 5)])
def test_pixel_bombs_are_refused_from_the_header(size):
    with pytest.raises(UndecodableImageError, match="pixels"):
        decode(png_claiming(*size))


@pytest.mark.fault(3)
def test_a_jpeg_of_very_many_scans_is_refused():
    data = encoded(photo(), "JPEG", progressive=True)
    scan = data[data.index(b"\xff\xda") : -2]
    with pytest.raises(UndecodableImageError, match="scans"):
        decode(data[:-2] + scan * 300 + data[-2:])


@pytest.mark.fault(5, 7)
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n" * 9, "empty"),
        (b"just some words in a file named .jpg", "text"),
        (b"<!DOCTYPE html><html>404</html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "EPS"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"\0\0\0\x1cftypheic\0\0", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0", "AVIF"),
        (b"\x01\x02\x03\x04", "01 02 03 04"),
        (b"\xff\xd8\xff\xe0", "broken header"),
    ],
)
def test_other_files_are_refused_with_what_they_are(data, reason):
    with pytest.raises(UndecodableImageError, match=reason) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


@pytest.mark.fault(5)
@pytest.mark.parametrize("image_format", ["ICO", "PPM", "TGA", "JPEG2000", "PCX", "DDS", "ICNS"])
def test_formats_that_pillow_could_read_are_not_read(image_format):
    with pytest.raises(UndecodableImageError):
        decode(encoded(photo(), image_format))


def test_exif_parser_survives_anything():
    random = np.random.default_rng(0)
    for _ in range(300):
        body = random.bytes(int(random.integers(0, 80)))
        for start in (b"II*\0", b"MM\0*", b""):
            assert 1 <= headers.orientation_of(start + body) <= 8


@pytest.mark.fault(1)
def test_mutated_images_decode_or_are_refused_with_one_line():
    random = np.random.default_rng(2)
    seeds = [encoded(photo(40, 50), name) for name in ALL_FORMATS]
    seeds += [encoded(photo(40, 50), "TIFF", compression=kind) for kind in ("tiff_lzw", "jpeg")]
    seeds += [encoded(photo(40, 50), "JPEG", progressive=True), encoded(photo(), "JPEG", "CMYK")]
    reasons = []
    for number in range(rounds(100_000)):
        data = bytearray(seeds[number % len(seeds)])
        for _ in range(random.integers(1, 9)):
            data[random.integers(0, len(data))] = random.integers(0, 256)
        if number % 5 == 0:
            del data[random.integers(0, len(data)) :]
        try:
            pixels = decode(bytes(data))
        except UndecodableImageError as error:
            reasons.append(str(error))
        else:
            assert pixels.ndim == 3
            assert pixels.dtype == np.uint8
            assert pixels.size <= 3 * headers.MAX_PIXELS
    assert len(reasons) > 20
    assert not any("\n" in reason for reason in reasons)


def test_scans_are_counted_wherever_they_begin():
    scan = b"\xff\xda"
    for noise in (b"", b"\xff", b"\xda", b"\x00\xff", b"\xff\xff\xda"):
        for data in (noise + scan * 3, scan + noise + scan, noise * 3):
            assert decoding._count_scans(data + b"end") == (data + b"end").count(scan)

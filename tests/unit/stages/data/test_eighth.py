"""JPEG at an eighth: the pixels of libjpeg, or none."""

import io
import random
import struct

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from stages.data import decoding
from tests.scale import rounds

pytest.importorskip("numba")
from stages.data import eighth

SAMPLINGS = ("444", "422", "420", "440", "411")


def libjpeg(data):
    return simplejpeg.decode_jpeg(data, fastdct=True, min_height=1, min_width=1, min_factor=1)


def photo(height, width, seed=0):
    """Smooth colours, noise and an edge, so that blocks have few and many coefficients."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack(
        [127 + 90 * np.sin(x / a + y / b) for a, b in ((9, 14), (17, 7), (5, 23))], -1
    )
    chance = np.random.default_rng(seed)
    pixels += chance.normal(0, 12, pixels.shape) * (x > width // 3)[..., None]
    pixels[height // 2 :, width // 2 :] = chance.integers(0, 256, 3)
    return pixels.clip(0, 255).astype(np.uint8)


def encoded(pixels, quality=90, sampling="420", **options):
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    flags += [
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}"),
    ]
    for name, value in options.items():
        flags += [getattr(cv2, f"IMWRITE_JPEG_{name.upper()}"), value]
    return cv2.imencode(".jpg", pixels, flags)[1].tobytes()


@pytest.mark.parametrize("quality", [1, 30, 75, 90, 100])
@pytest.mark.parametrize("sampling", SAMPLINGS[:4])
def test_the_pixels_are_those_of_libjpeg(sampling, quality):
    for seed, (height, width) in enumerate([(200, 300), (8, 8), (17, 33), (1, 40), (121, 9)]):
        data = encoded(photo(height, width, seed), quality, sampling)
        np.testing.assert_array_equal(eighth.decode(data), libjpeg(data))


@pytest.mark.parametrize("options", [{"optimize": 1}, {"rst_interval": 1}, {"rst_interval": 7}])
def test_so_they_are_with_other_codes_and_restarts(options):
    for quality in (20, 95, 100):
        data = encoded(photo(150, 211), quality, **options)
        np.testing.assert_array_equal(eighth.decode(data), libjpeg(data))


@pytest.mark.parametrize("value", [0, 255])
def test_so_they_are_at_the_ends_of_the_scale(value):
    stripes = np.full((64, 96, 3), value, np.uint8)
    stripes[::2, 32:], stripes[:, 64::2] = 255 - value, 255 - value
    for quality in (5, 50, 100):
        for sampling in SAMPLINGS[:4]:
            data = encoded(stripes, quality, sampling)
            np.testing.assert_array_equal(eighth.decode(data), libjpeg(data))


def test_so_they_are_in_gray():
    data = encoded(photo(90, 170)[..., 0])
    np.testing.assert_array_equal(eighth.decode(data), libjpeg(data))


def test_what_follows_the_picture_is_not_looked_at():
    """Phones append a second picture, or a film."""
    data = encoded(photo(90, 170)) + b"\xff\xd8 more"
    np.testing.assert_array_equal(eighth.decode(data), libjpeg(data))


def pillow(mode, **options):
    buffer = io.BytesIO()
    Image.fromarray(photo(64, 80)).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff",
        pillow("CMYK"),
        pillow("RGB", progressive=True),
        pillow("RGB", keep_rgb=True),
        encoded(photo(64, 80), sampling="411"),
        encoded(photo(64, 80))[:-2],
        encoded(photo(64, 80))[:-40],
        encoded(photo(64, 80), rst_interval=2).replace(b"\xff\xd1", b"\xff\xd2", 1),
    ],
    ids=["empty", "marker", "cmyk", "progressive", "rgb", "411", "end", "cut", "restart"],
)
def test_what_is_out_of_the_ordinary_is_left_to_libjpeg(data):
    assert eighth.decode(data) is None


def test_a_changed_file_is_decoded_as_without_it_or_left_to_libjpeg(monkeypatch):
    monkeypatch.setattr(decoding, "_eighth", lambda: None)
    chance, accepted = random.Random(0), 0
    for number in range(rounds(40_000)):
        sampling = SAMPLINGS[number % 4]
        options = ({"rst_interval": 3}, {"optimize": 1}, {})[number % 3]
        data = bytearray(encoded(photo(40, 56, number % 8), 40 + number % 60, sampling, **options))
        for _ in range(chance.randint(1, 3)):
            change(data, chance)
        if (pixels := eighth.decode(bytes(data))) is not None:
            accepted += 1
            expected = decoding.decode(bytes(data), smallest=(1, 1))
            np.testing.assert_array_equal(pixels, expected, err_msg=bytes(data).hex())
    assert accepted > rounds(40_000) // 10


def change(data, chance):
    place = chance.randrange(len(data))
    match chance.randrange(4):
        case 0:
            data[place] = chance.randrange(256)
        case 1:
            data[place] ^= 1 << chance.randrange(8)
        case 2:
            del data[place : place + chance.randint(1, 4)]
        case 3:
            data[place:place] = chance.randbytes(chance.randint(1, 4))


def test_a_segment_that_claims_more_than_there_is():
    data = encoded(photo(40, 56))
    place = data.index(b"\xff\xc4")
    for length in (0, 2, 3, 18, 19, 20, 5000, 65535):
        claimed = data[: place + 2] + struct.pack(">H", length) + data[place + 4 :]
        assert eighth.decode(claimed) is None


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("side", [24, 25, 26, 49, 51])
def test_decoding_is_the_same_with_and_without_it(monkeypatch, side, orientation):
    """Where an eighth suffices, libjpeg takes it too."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(photo(200, 300)).save(buffer, "JPEG", exif=exif)
    smallest = (side, side)
    faster = decoding.decode(buffer.getvalue(), smallest=smallest)
    monkeypatch.setattr(decoding, "_eighth", lambda: None)
    np.testing.assert_array_equal(faster, decoding.decode(buffer.getvalue(), smallest=smallest))


def test_it_is_used_for_photographs(monkeypatch):
    asked = []
    monkeypatch.setattr(decoding, "_eighth", lambda: asked.append)
    data = encoded(photo(200, 300))
    for side in (0, 25, 26):
        decoding.decode(data, smallest=(side, side))
    assert asked == [data]


def test_where_numba_fails_photographs_are_decoded_by_libjpeg(monkeypatch, caplog):
    def fail(data):
        raise RuntimeError("no directory to keep what was compiled")

    monkeypatch.setattr(eighth, "decode", fail)
    decoding._eighth.cache_clear()
    try:
        pixels = decoding.decode(encoded(photo(200, 300)), smallest=(25, 25))
    finally:
        decoding._eighth.cache_clear()
    assert pixels.shape == (25, 38, 3)
    assert "no directory" in caplog.text

"""Sizes, aspect ratios and modes of loading, without TensorFlow."""

import numpy as np
import pytest

from cryobase.stages.data.pixels import PixelSpec, load
from tests.unit.stages.data.test_decoding import encoded, photo


@pytest.mark.parametrize("resize", ["bilinear", "nearest"])
@pytest.mark.parametrize("aspect", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("decode", ["exact", "fast"])
@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (300, 211)])
def test_every_combination_gives_a_square_of_levels(resize, aspect, decode, size):
    spec = PixelSpec(image_size=37, resize=resize, aspect=aspect, decode=decode)
    for image_format in ("JPEG", "PNG"):
        pixels = load(encoded(photo(*size), image_format), spec)
        assert pixels.shape == (37, 37, 3)
        assert pixels.dtype == np.float32
        assert pixels.flags.c_contiguous
        assert pixels.min() >= 0
        assert pixels.max() <= 255


def test_crop_takes_the_centre_and_pad_keeps_all():
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, :10] = [255, 0, 0]
    pixels[:, 10:20] = [0, 255, 0]
    pixels[:, 20:] = [0, 0, 255]
    data = encoded(pixels, "PNG")
    cropped = load(data, PixelSpec(image_size=30, aspect="crop"))
    assert np.unique(cropped.reshape(-1, 3), axis=0).tolist() == [[0, 255, 0]]
    padded = load(data, PixelSpec(image_size=30, aspect="pad"))
    np.testing.assert_array_equal(padded[10:20], pixels)
    assert not padded[:10].any()
    assert not padded[20:].any()


def test_fast_decoding_of_a_padded_panorama_keeps_enough_pixels():
    smooth = np.repeat(np.linspace(0, 255, 1600, dtype=np.uint8)[None, :, None], 200, 0)
    data = encoded(np.repeat(smooth, 3, axis=2), "JPEG", quality=95)
    exact, fast = (
        load(data, PixelSpec(image_size=100, aspect="pad", decode=mode))
        for mode in ("exact", "fast")
    )
    np.testing.assert_allclose(exact, fast, atol=4)  # levels: a seventh of a step between


@pytest.mark.parametrize(
    ("key", "value"), [("image_size", 0), ("resize", "area"), ("aspect", "fit"), ("decode", "slow")]
)
def test_unknown_settings_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=key):
        PixelSpec(**{"image_size": 8, key: value})

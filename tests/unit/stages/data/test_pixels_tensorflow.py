"""Our pixels are TensorFlow's and Keras' own."""

import io
import itertools

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from cryobase.stages.data.pixels import PixelSpec, decode, load
from tests.closeness import RESIZING, assert_close
from tests.scale import rounds
from tests.unit.stages.data.test_decoding import encoded, photo

SIZES = [(1, 1), (7, 13), (16, 16), (17, 31), (64, 47), (101, 99), (375, 500)]
CHROMA = ["444", "422", "420", "440", "411", "Gray"]


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def keras(tf):
    return pytest.importorskip("keras")


@pytest.mark.parametrize(("chroma", "quality"), list(itertools.product(CHROMA, [50, 90, 98])))
def test_jpeg_bit_for_bit(tf, chroma, quality):
    for number, size in enumerate(SIZES):
        pixels = photo(*size, seed=number)
        color = "GRAY" if chroma == "Gray" else "RGB"
        pixels = pixels[..., :1].copy() if chroma == "Gray" else pixels
        data = simplejpeg.encode_jpeg(pixels, quality, color, chroma)
        np.testing.assert_array_equal(decode(data), tf.io.decode_image(data, 3).numpy())


def test_progressive_jpeg_bit_for_bit(tf):
    for size in SIZES:
        data = encoded(photo(*size), "JPEG", progressive=True, quality=85)
        np.testing.assert_array_equal(decode(data), tf.io.decode_image(data, 3).numpy())


@pytest.mark.parametrize(
    ("image_format", "mode"),
    [("BMP", "RGB"), *itertools.product(["PNG", "GIF", "WEBP"], ["RGB", "L", "P", "1"])],
)  # TensorFlow reads no BMP with a palette
def test_lossless_formats_bit_for_bit(tf, image_format, mode):
    for size in SIZES:
        options = {"lossless": True} if image_format == "WEBP" else {}
        data = encoded(photo(*size), image_format, mode, **options)
        theirs = tf.io.decode_image(data, 3, expand_animations=False).numpy()
        np.testing.assert_array_equal(decode(data), theirs)


def test_lossy_webp_and_sixteen_bit_png_bit_for_bit(tf):
    from cryobase.stages.data.png import encode_png

    for size in SIZES:
        data = encoded(photo(*size), "WEBP", quality=80)
        theirs = tf.io.decode_image(data, 3, expand_animations=False).numpy()
        np.testing.assert_array_equal(decode(data), theirs)
        deep = encode_png(photo(*size).astype(np.uint16) * 250 + 3)
        np.testing.assert_array_equal(decode(deep), tf.io.decode_image(deep, 3).numpy())


def test_resizing_within_two_hundredths_of_a_level(tf):
    random = np.random.default_rng(3)
    for number in range(rounds(300)):
        height, width, size = (int(side) for side in random.integers(1, 900, 3))
        height *= 4 if number % 5 == 0 else 1
        width *= 4 if number % 7 == 0 else 1
        pixels = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
        mine = load(encoded(pixels, "BMP"), PixelSpec(image_size=size // 3 + 1))
        theirs = tf.image.resize(pixels, mine.shape[:2]).numpy()
        assert_close(mine, theirs, within=RESIZING, scale=255)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([*SIZES, (200, 31), (23, 240), (799, 1200)]):
        if min(size) * 48 < max(size):
            continue
        for extension in ("jpg", "png", "bmp", "gif"):
            path = root / "a" / f"{number:02}.{extension}"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(photo(*size, seed=number)).save(path)
    return root


@pytest.mark.parametrize("aspect", ["stretch", "crop", "pad"])
def test_bilinear_is_image_dataset_from_directory(keras, folder, aspect):
    options = {} if aspect == "stretch" else {f"{aspect}_to_aspect_ratio": True}
    dataset = keras.utils.image_dataset_from_directory(
        folder, labels=None, image_size=(48, 48), batch_size=1, shuffle=False, verbose=False,
        **options,
    )  # fmt: skip
    assert len(dataset.file_paths) > 30
    spec = PixelSpec(image_size=48, aspect=aspect)
    for path, theirs in zip(dataset.file_paths, dataset, strict=True):
        with open(path, "rb") as file:
            mine = load(file.read(), spec)
        assert_close(mine, theirs.numpy()[0], within=RESIZING, scale=255)


@pytest.mark.parametrize("aspect", ["stretch", "crop"])
def test_nearest_is_the_loader_of_image_data_generator(keras, folder, aspect):
    spec = PixelSpec(image_size=48, resize="nearest", aspect=aspect)
    paths = sorted(folder.rglob("*.*"))
    assert len(paths) > 30
    for path in paths:
        theirs = keras.utils.load_img(
            path, target_size=(48, 48), interpolation="nearest", keep_aspect_ratio=aspect == "crop"
        )
        mine = load(path.read_bytes(), spec)
        np.testing.assert_array_equal(mine, keras.utils.img_to_array(theirs), err_msg=str(path))


def test_nearest_padded_is_resize_with_pad(tf, folder):
    for path in sorted(folder.rglob("*.png")):
        data = path.read_bytes()
        mine = load(data, PixelSpec(image_size=48, resize="nearest", aspect="pad"))
        theirs = tf.image.resize_with_pad(decode(data), 48, 48).numpy()
        for axes in ((0, 2), (1, 2)):  # the same rows and columns are black
            np.testing.assert_array_equal(mine.any(axis=axes), theirs.any(axis=axes), str(path))


def test_fast_decoding_is_close_to_exact(tf):
    buffer = io.BytesIO()
    smooth = Image.fromarray(photo(40, 60)).resize((900, 600), Image.Resampling.BICUBIC)
    smooth.save(buffer, "JPEG", quality=95)
    exact, fast = (
        load(buffer.getvalue(), PixelSpec(image_size=96, decode=mode)) for mode in ("exact", "fast")
    )
    assert not np.array_equal(exact, fast)
    assert np.abs(exact - fast).mean() < 3

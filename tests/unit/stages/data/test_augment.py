"""Augmented views: reproducible, and geometrically what ImageDataGenerator does."""

import hashlib

import numpy as np
import pytest
from scipy import ndimage

from cryobase.stages.data.augment import Augmentation, affine, augment, uniform
from tests.closeness import RESIZING, assert_close

DIGEST = hashlib.sha256(b"an image").digest()
EVERYTHING = Augmentation(
    rotation=40, width_shift=0.2, height_shift=0.2, shear=11, zoom=0.2, horizontal_flip=True
)


@pytest.fixture
def image():
    return np.random.default_rng(0).uniform(0, 255, (33, 40, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("fill", "mode"),
    [("nearest", "nearest"), ("reflect", "reflect"), ("wrap", "grid-wrap"),
     ("constant", "grid-constant")],
)  # fmt: skip
def test_pixels_are_those_of_an_affine_transform_by_scipy(image, fill, mode):
    policy = Augmentation(rotation=40, shear=11, zoom=0.2, fill=fill, fill_value=17)
    matrix = affine(policy, DIGEST, 3, image.shape[:2])
    swap = [[0, 1], [1, 0]]  # scipy counts (row, column)
    expected = np.stack(
        [
            ndimage.affine_transform(
                image[..., channel], swap @ matrix[:, :2] @ swap, matrix[::-1, 2], order=1,
                mode=mode, cval=17,
            )
            for channel in range(3)
        ],
        axis=-1,
    )  # fmt: skip
    assert_close(augment(image, policy, DIGEST, 3), expected, within=RESIZING, scale=255)


def test_view_0_is_the_image_itself(image):
    assert augment(image, EVERYTHING, DIGEST, 0) is image


def test_a_view_depends_on_digest_and_number_alone(image):
    once = augment(image, EVERYTHING, DIGEST, 1)
    np.testing.assert_array_equal(once, augment(image, EVERYTHING, DIGEST, 1))
    assert not np.array_equal(once, augment(image, EVERYTHING, DIGEST, 2))
    assert not np.array_equal(once, augment(image, EVERYTHING, hashlib.sha256().digest(), 1))


def test_random_numbers_are_pinned_for_every_machine():
    assert uniform(DIGEST, 1, "rotation") == 0.16401003590395283
    assert 0.48 < np.mean([uniform(DIGEST, view, "zoom") for view in range(3000)]) < 0.52


def test_flip_mirrors_half_of_the_views(image):
    policy = Augmentation(horizontal_flip=True)
    views = [augment(image, policy, DIGEST, view) for view in range(1, 101)]
    within = 255 * RESIZING
    mirrored = sum(np.abs(view - image[:, ::-1]).max() <= within for view in views)
    plain = sum(np.abs(view - image).max() <= within for view in views)
    assert mirrored + plain == 100
    assert 30 < mirrored < 70


@pytest.mark.parametrize(
    ("policy", "dx", "dy"),
    [(Augmentation(width_shift=0.2), True, False), (Augmentation(height_shift=0.2), False, True)],
)
def test_shifts_move_along_their_own_axis_and_no_further(policy, dx, dy):
    for view in range(1, 50):
        matrix = affine(policy, DIGEST, view, (100, 200))
        assert (matrix[0, 2] != 0, matrix[1, 2] != 0) == (dx, dy)
        assert abs(matrix[0, 2]) <= 40
        assert abs(matrix[1, 2]) <= 20


def test_zoom_together_keeps_proportions():
    apart = affine(Augmentation(zoom=0.5), DIGEST, 1, (9, 9))
    together = affine(Augmentation(zoom=0.5, zoom_together=True), DIGEST, 1, (9, 9))
    assert apart[0, 0] != apart[1, 1]
    assert together[0, 0] == together[1, 1]


def test_json_is_canonical_and_comes_back():
    assert Augmentation().to_json() == "{}"
    assert Augmentation(zoom=0.2, rotation=40).to_json() == '{"rotation":40.0,"zoom":0.2}'
    assert Augmentation.from_json(EVERYTHING.to_json()) == EVERYTHING
    with pytest.raises(ValueError, match="not an augmentation"):
        Augmentation.from_json('{"rotatoin":1}')


@pytest.mark.parametrize(
    ("key", "value"), [("rotation", -1), ("zoom", 1.0), ("shear", float("nan")), ("fill", "edge")]
)
def test_impossible_policies_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=key):
        Augmentation(**{key: value})

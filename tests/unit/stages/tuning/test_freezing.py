import numpy as np
import pytest

from cryobase.stages.errors import ConfigError
from cryobase.stages.tuning import freezing
from cryobase.stages.tuning.freezing import place_of_cut, unfreeze
from tests.unit.stages.tuning.tuning_data import SIZE, base_with_norms, grafted

IMAGES = np.random.default_rng(0).uniform(0, 255, (3, SIZE, SIZE, 3)).astype(np.float32)


def residual():
    """input -> a -> b -> (+ a) -> c: between a and the sum two tensors are live."""
    import keras

    keras.utils.clear_session()
    image = keras.Input((SIZE, SIZE, 3), name="image")
    a = keras.layers.Conv2D(4, 3, padding="same", name="a")(image)
    b = keras.layers.Conv2D(4, 3, padding="same", name="b")(a)
    total = keras.layers.Add(name="sum")([a, b])
    bare = total * 2.0  # an operation, not a layer
    c = keras.layers.Conv2D(5, 3, name="c")(bare)
    return keras.Model(image, keras.layers.GlobalAveragePooling2D(name="pool")(c))


def test_only_places_with_one_live_tensor_are_cuts():
    assert [cut.layer for cut in freezing.cuts(residual())] == ["", "a", "sum", "c"]


def test_a_cut_knows_what_lies_below_and_its_size():
    found = {cut.layer: cut for cut in freezing.cuts(residual())}
    assert found["sum"].below == {"image", "a", "b", "sum"}
    assert found["c"].values == (SIZE - 2) ** 2 * 5


@pytest.mark.parametrize("number", range(4))
def test_both_halves_give_what_the_whole_gives(number):
    model = residual()
    lower, upper = freezing.split(model, freezing.cuts(model)[number])
    below = IMAGES if lower is None else lower.predict_on_batch(IMAGES)
    assert np.array_equal(upper.predict_on_batch(below), model.predict_on_batch(IMAGES))


def test_the_deepest_cut_has_nothing_below_it_that_learns():
    model = residual()
    assert freezing.deepest(model, {"c"}).layer == "sum"
    assert freezing.deepest(model, {"b"}).layer == "a"
    assert freezing.deepest(model, {"a", "c"}).layer == ""


def test_a_place_that_is_none_is_an_error_that_names_the_others():
    with pytest.raises(ConfigError, match=r"places: a, sum$"):
        freezing.at(residual(), "b", {"c"})


@pytest.mark.parametrize(
    ("rule", "place"),
    [("none", "pool"), ("all", ""), ({"from": "conv2"}, "relu1"), ({"last": 3}, "pool")],
)
def test_the_base_is_cut_where_learning_begins(rule, place):
    base = base_with_norms()
    model = grafted(base)
    unfreeze(base, rule)
    assert place_of_cut(model, base, None).layer == place


@pytest.mark.parametrize(
    ("backbone", "learning", "place"),
    [
        ("mobilenetv2", "block_11_expand", "block_10_project_BN"),
        ("vgg16", "block5_conv1", "block4_pool"),
        ("xception", "block14_sepconv1", "add_11"),
        ("convnexttiny", "convnext_tiny_stage_3_block_0_depthwise_conv", None),
    ],
)
def test_cuts_of_real_bases_are_where_they_should_be(backbone, learning, place):
    from cryobase.stages.backbones.build import build
    from cryobase.stages.backbones.table import BACKBONES

    row = BACKBONES[backbone]
    model = build(
        backbone,
        None,
        image_size=row.smallest,
        preprocessing=row.preprocessing,
        outputs=["avg"],
    )
    found = freezing.deepest(model, {learning})
    assert place is None or found.layer == place
    layers = {layer.name for layer in model.layers}
    assert found.below < layers
    assert learning not in found.below

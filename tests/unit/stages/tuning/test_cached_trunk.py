import math

import pytest

from cryobase.stages.errors import ConfigError
from cryobase.stages.tuning import cached_trunk
from cryobase.stages.tuning.cached_trunk import Place, choose, multiplications, named, places
from tests.unit.stages.tuning.tuning_data import SIZE, base_with_norms, grafted

LEARNING = {"conv2", "logits"}


def test_multiplications_of_layers():
    import keras

    keras.utils.clear_session()
    image = keras.Input((10, 10, 3))
    layers = keras.layers
    conv, depthwise = layers.Conv2D(4, 3, strides=2), layers.DepthwiseConv2D(3)
    separable, dense = layers.SeparableConv2D(5, 3, padding="same"), layers.Dense(7)
    norm = layers.BatchNormalization()
    dense(layers.Flatten()(norm(separable(depthwise(conv(image))))))
    assert multiplications(conv) == 4 * 4 * 27 * 4
    assert multiplications(depthwise) == 2 * 2 * 9 * 4
    assert multiplications(separable) == 2 * 2 * (9 * 4 + 4 * 5)
    assert multiplications(dense) == 20 * 7
    assert multiplications(norm) == 0


def test_places_lie_below_what_learns_and_say_their_bytes():
    model = grafted(base_with_norms())
    found = places(model, LEARNING, images=10, train=8, views=2, dtype="float16")
    assert [place.layer for place in found] == ["conv1", "norm1", "relu1"]
    assert all(place.bytes == 10 * 3 * (SIZE - 2) ** 2 * 4 * 2 for place in found)


def test_views_and_few_training_images_delay_the_break_even(monkeypatch):
    monkeypatch.setattr(cached_trunk, "BYTES_PER_SECOND", 1e30)
    model = grafted(base_with_norms())

    def break_even(train: int, views: int) -> float:
        return places(model, LEARNING, images=10, train=train, views=views, dtype="float16")[
            -1
        ].break_even

    assert break_even(10, 0) == 1.0  # one pass over the images is what each epoch saves
    assert break_even(10, 4) == 5.0
    assert break_even(5, 0) == 2.0


def test_a_place_that_costs_more_to_read_than_to_compute_never_pays(monkeypatch):
    monkeypatch.setattr(cached_trunk, "BYTES_PER_SECOND", 1.0)
    found = places(
        grafted(base_with_norms()), LEARNING, images=10, train=8, views=0, dtype="float32"
    )
    assert all(place.break_even == math.inf and place.speedup < 1 for place in found)


PLACES = [
    Place(layer="a", bytes=100, speedup=1.5, break_even=2.0),
    Place(layer="b", bytes=1000, speedup=4.0, break_even=3.0),
    Place(layer="c", bytes=10, speedup=2.0, break_even=40.0),
]


@pytest.mark.parametrize(
    ("epochs", "budget", "layer"),
    [(10, 1e4, "b"), (10, 500, "a"), (50, 500, "c"), (10, 50, None), (2, 1e4, None)],
)
def test_the_fastest_place_within_the_budget_that_pays_is_chosen(epochs, budget, layer):
    place = choose(PLACES, epochs=epochs, budget=budget)
    assert (place and place.layer) == layer


def test_a_place_is_found_by_name():
    assert named(PLACES, "c") is PLACES[2]
    with pytest.raises(ConfigError, match="places: a, b, c"):
        named(PLACES, "d")

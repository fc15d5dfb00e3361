import dataclasses

import numpy as np
import pytest

from cryobase.stages.errors import DataError
from cryobase.stages.heads.graft import graft
from tests.closeness import assert_close, rounding
from tests.unit.stages.heads.test_head import make_head


def backbone(*shapes):
    """A frozen base of one convolution per output, preprocessing inside."""
    import keras

    image = keras.Input((8, 8, 3))
    x = image / 127.5 - 1.0
    outputs = []
    for rows, columns, width in shapes:
        y = keras.layers.Conv2D(width, (9 - rows, 9 - columns))(x)
        outputs.append(y)
    model = keras.Model(image, outputs)
    model.trainable = False
    return model


DEPTH = 12 + 32 + 16  # products in a row, from features to the last layer of the widest head
IMAGES = np.random.default_rng(0).uniform(0, 255, (6, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "linear"},
        {"units": ((32, 16),), "dropout": 0.3},
        {"activation": "linear"},
        {"classes": ("a", "b"), "output": "sigmoid"},
    ],
)
def test_a_grafted_model_gives_the_heads_probabilities_also_reloaded(tmp_path, values):
    import keras

    head = make_head(**values)
    base = backbone((2, 2, 3))
    model = graft(base, head)
    expected = head.probabilities(base(IMAGES).numpy())
    expected = expected[:, 1:] if head.outputs == 1 else expected
    assert_close(model(IMAGES), expected, within=rounding(DEPTH))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert np.array_equal(loaded(IMAGES).numpy(), model(IMAGES).numpy())


def test_only_the_head_is_trainable():
    model = graft(backbone((2, 2, 3)), make_head())
    names = [layer.name for layer in model.layers if layer.trainable and layer.weights]
    assert "logits" in names
    assert not [name for name in names if name.startswith("conv")]


def test_a_head_of_two_outputs_takes_them_side_by_side():
    import keras

    head = dataclasses.replace(make_head(), specs=make_head().specs * 2, shapes=((2, 2, 2), (4,)))
    base = backbone((2, 2, 2), (1, 1, 4))
    flat = keras.layers.Flatten()(base.outputs[1])
    base = keras.Model(base.inputs, [base.outputs[0], flat])
    features = np.concatenate([x.numpy().reshape(6, -1) for x in base(IMAGES)], axis=1)
    assert_close(graft(base, head)(IMAGES), head.probabilities(features), within=rounding(DEPTH))


@pytest.mark.fault(57)
def test_features_of_another_shape_are_refused():
    with pytest.raises(DataError, match=r"gives \(\(4, 1, 3\),\)"):
        graft(backbone((4, 1, 3)), make_head())

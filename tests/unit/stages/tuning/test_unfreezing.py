import pytest

from cryobase.stages.errors import ConfigError
from cryobase.stages.tuning.freezing import unfreeze
from tests.unit.stages.tuning.tuning_data import base_with_norms


@pytest.mark.parametrize(
    ("rule", "learning"),
    [
        ("none", []),
        ("all", ["conv1", "conv2"]),
        ({"from": "conv2"}, ["conv2"]),
        ({"from": "norm1"}, ["conv2"]),
        ({"from": 1}, ["conv1", "conv2"]),
        ({"from": 2}, ["conv2"]),
        ({"last": 4}, ["conv2"]),
        ({"last": 3}, []),
        ({"last": 0}, []),
        ({"last": 99}, ["conv1", "conv2"]),
    ],
)
def test_a_rule_unfreezes_exactly_the_layers_meant(rule, learning):
    base = base_with_norms()
    assert unfreeze(base, rule) == learning
    assert {layer.name for layer in base.layers if layer.trainable_variables} == set(learning)


@pytest.mark.parametrize(
    ("rule", "learning"),
    [
        ("none", []),
        ("all", ["conv1", "norm1", "conv2", "norm2"]),
        ({"from": "norm1"}, ["norm1", "conv2", "norm2"]),
        ({"last": 3}, ["norm2"]),
    ],
)
def test_batch_normalization_learns_where_asked(rule, learning):
    base = base_with_norms()
    assert unfreeze(base, rule, batch_normalization=True) == learning
    assert {layer.name for layer in base.layers if layer.trainable_variables} == set(learning)


def test_a_rule_replaces_the_one_before():
    base = base_with_norms()
    unfreeze(base, "all")
    assert unfreeze(base, {"from": "conv2"}) == ["conv2"]
    assert unfreeze(base, "all") == ["conv1", "conv2"]


@pytest.mark.parametrize("rule", [{"from": "conv3"}, {"from": 99}, {"from": -1}])
def test_an_unknown_layer_is_an_error_that_names_those_there_are(rule):
    with pytest.raises(ConfigError, match=r"conv2|0 to"):
        unfreeze(base_with_norms(), rule)

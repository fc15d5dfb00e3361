import pytest

from cryobase.stages import ladder
from cryobase.stages.extract import SetConfig
from cryobase.stages.tuning.config import Network
from cryobase.stages.tuning.convnets import CONVNETS, build


@pytest.mark.parametrize("name", CONVNETS)
def test_the_smallest_size_is_the_last_that_can_be_built(name):
    smallest = CONVNETS[name].smallest
    assert smallest <= CONVNETS[name].image_size
    assert build(name, image_size=smallest).output_shape[-1] > 0
    with pytest.raises(ValueError, match="zero or negative"):
        build(name, image_size=smallest - 1)


def test_params_of_a_smaller_network_are_refused():
    with pytest.raises(ValueError, match="image_size: at least 94 for five-blocks"):
        Network(kind="five-blocks", image_size=93)
    assert Network(kind="five-blocks", image_size=94).pixels.image_size == 94


@pytest.mark.parametrize(("size", "left"), [(64, 2), (94, 4)])
def test_a_ladder_of_small_images_leaves_out_what_needs_larger_ones(size, left, caplog):
    base = SetConfig(backbone="mobilenetv2", weights="none", image_size=size)
    rungs = ladder._possible(ladder.LadderConfig(base=base))
    assert len(rungs) == left
    assert ("left out" in caplog.text) == (left == 2)

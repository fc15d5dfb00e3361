"""Training on stored outputs of a frozen trunk, which are a feature set like any other."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryobase.stages import extract
from cryobase.stages.data.stream import Batch
from cryobase.stages.extract import ExtractConfig, SetConfig
from cryobase.store import FeatureSet
from cryobase.store.epochs import drawn_views, shuffled
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
        positions = shuffled(self._train, self.seed, epoch)
        stored = range(min(1, self.rows.views), self.rows.views + 1)
        views = drawn_views(len(positions), self.seed, epoch, stored)
        return self.rows.read(positions, self.batch_size, views)

    def validation(self) -> Iterator[Batch]:
        return self.rows.read(self._validation, self.batch_size)

    def batches_per_epoch(self) -> int:
        return math.ceil(len(self) / self.batch_size)

    @cached_property
    def _train(self) -> NDArray[np.signedinteger]:
        return self.rows.positions(self.train_ids)

    @cached_property
    def _validation(self) -> NDArray[np.signedinteger]:
        return self.rows.positions(self.validation_ids)


def store_trunk(config: SetConfig, *, raw: Path, pool: Path, output: Path) -> FeatureSet:
    """Compute what the pool lacks of a trunk's rows, and publish them as a feature set."""
    sets = ExtractConfig(sets={NAME: config})
    nothing = Path(os.devnull)  # to adopt: the last version's rows came from this pool
    extract.run(sets, NAME, raw=raw, pool=pool, output=output, before=nothing)
    with mended_by(f"remove {output}, it is made again"):
        return FeatureSet.open(output)

"""Parts of a pass: what is sent to a worker, what the worker keeps, and what it sends back."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.passes import checked_engine, failures_of, flow_of, rows_of
from cryobase.stages.backbones.plan import Images, Pass, Target, Views
from cryobase.stages.backbones.table import EXTRACTOR_VERSION
from cryobase.stages.backbones.trunk import Engine
from cryobase.stages.backbones.weights import WeightsFile
from cryobase.stages.errors import ConfigError, StageError
from cryobase.store import StoreError
from cryobase.store.pool import Pool
from cryobase.store.spec import FeatureSpec

ROWS_PER_PART = 2048
OURS = "cryobase."
ALIKE = (
    "cryobase", "numpy", "openvino", "tensorflow", "keras", "simplejpeg", "opencv-python-headless",
    "pillow",
)  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Part:
    """A few thousand rows at most of one pass."""

    number: int  # of the pass
    positions: NDArray[np.int64]
    views: Views

    def halves(self) -> "list[Part]":
        """The part as two."""
        pairs = zip(np.array_split(self.positions, 2), np.array_split(self.views, 2), strict=True)
        return [replace(self, positions=positions, views=views) for positions, views in pairs]


def parts_of(passes: Sequence[Pass]) -> Iterator[Part]:
    """All rows of the passes, one by one in parts."""
    for number, each in enumerate(passes):
        for start in range(0, len(each.positions), ROWS_PER_PART):
            rows = slice(start, start + ROWS_PER_PART)
            yield Part(number, each.positions[rows], each.views[rows])


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every part of a run needs, in names that mean the same on every worker.

    Attributes:
        raw: the directory of the images.
        dataset: SHA-256 of their index's columns: a position means the same image everywhere.
        pool: the directory of all pools.
        nonce: a file in it that is there now, to see whether the directory is the same.
        specs: the targets of each pass.
        versions: see `versions`.
    """

    raw: str
    dataset: str
    pool: str
    nonce: str
    specs: tuple[tuple[FeatureSpec, ...], ...]
    weights: WeightsFile
    engine: str
    batch_size: int
    versions: dict[str, str]


class Computer:
    """What a worker keeps during a run: the images, and an engine for each pass, loaded once."""

    def __init__(self, settings: Settings) -> None:
        """Open the images and load the first pass's engine.

        Raises:
            ConfigError: this worker has other versions, another dataset or another disk.
            DriftError: the engine does not reproduce a pool's canary rows.
        """
        self._settings = settings
        self._check_surroundings()
        self._images = Images(Path(settings.raw))
        if self._images.raw.index.sha256 != settings.dataset:
            raise ConfigError(
                f"{settings.raw}: the worker sees another dataset than the client; give both one"
            )
        self._lock = Lock()
        self._engines: dict[int, Engine] = {}
        self._engine(0)

    def compute(self, part: Part) -> tuple[dict[str, int], dict[bytes, str]]:
        """Compute a part and write its rows: rows by fingerprint, reasons of images without."""
        targets = self._targets(part.number)
        each = Pass(targets, part.positions, part.views)
        kept: dict[Target, list[Any]] = {target: [] for target in targets}
        failures: dict[bytes, str] = {}
        start = lambda: self._engine(part.number)  # noqa: E731
        for batch in flow_of(each, self._images, start, self._settings.batch_size):
            for target, *rows in rows_of(batch, each, self._images):
                kept[target].append(rows)
            failures |= failures_of(batch, each, self._images)
        counts = {}
        for target, batches in kept.items():
            with target.pool.writer() as writer:
                for rows in batches:
                    writer.append(*rows)
            counts[target.spec.fingerprint] = sum(len(rows[0]) for rows in batches)
        return counts, failures

    def _targets(self, number: int) -> tuple[Target, ...]:
        pool, specs = Path(self._settings.pool), self._settings.specs[number]
        return tuple(Target(Pool(pool, spec), 0) for spec in specs)

    def _engine(self, number: int) -> Engine:
        nothing = np.empty(0, np.int64)
        with self._lock:
            if number not in self._engines:
                each = Pass(self._targets(number), nothing, nothing.astype("u2"))
                self._engines[number] = checked_engine(
                    each, self._settings.weights, self._settings.engine, self._settings.batch_size
                )
            return self._engines[number]

    def _check_surroundings(self) -> None:
        wanted, mine = self._settings.versions, versions()
        if skew := [
            f"{name} {mine.get(name)} instead of {wanted[name]}"
            for name in wanted
            if mine.get(name) != wanted[name]
        ]:
            raise ConfigError(
                f"a worker has {', '.join(skew)}; install the client's versions there"
            )
        if not os.path.exists(self._settings.nonce):
            raise ConfigError(
                f"a worker does not see {self._settings.pool}; put the pool on a shared disk"
            )


def versions() -> dict[str, str]:
    """Of what decides features' values here."""
    found = {"extractor": str(EXTRACTOR_VERSION)}
    for name in ALIKE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def portable(error: Exception) -> StageError | StoreError:
    """The error as one that can be sent: an exception that cannot would leave the client waiting.

    Ours that are made of a text keep their type; of all others, and of causes, the text remains.
    """
    kind, text = type(error), str(error)
    if isinstance(error, StageError | StoreError) and kind.__module__.startswith(OURS):
        with suppress(Exception):
            if str(copy := kind(text)) == text:
                return copy  # type: ignore[return-value]
    return StageError(f"{kind.__qualname__}: {' '.join(text.split())}")

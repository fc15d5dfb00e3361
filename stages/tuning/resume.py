"""Checkpoints, from which a killed run goes on: weights, optimizer state and history per epoch."""

import io
import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.errors import DataError
from cryobase.stages.received import opened
from cryobase.stages.stored_zip import read_npz
from cryobase.store.publish import publish_bytes, remove
from cryobase.store.text import parse_json

Arrays = list[NDArray[Any]]
HistoryRows = list[dict[str, float]]

NAME = "epoch-{:05}.npz"
# dtypes of weights, optimizers' slots and seeds; the card is u1
DTYPES = ("<f4", "<f2", "<i4", "<i8", "<u4", "|u1", "|b1")
MAX_BYTES = 4 << 30

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class State:
    """The state of a phase after an epoch.

    Attributes:
        rows: the history so far, one row per epoch, from epoch 0.
        weights: weights of the model that learns, in the order of `model.weights`.
        slots: variables of the optimizer, in the order of `optimizer.variables`.
        kept: the best epoch so far; its weights would be kept.
    """

    rows: HistoryRows
    weights: Arrays
    slots: Arrays
    kept: int


@dataclass(frozen=True)
class Checkpoints:
    """The last epoch of a phase and the epoch to keep, each in a separate file.

    A file gets its name only when it is complete, so the remains of a killed run are never read. A
    file also names its run and phase; files of another run or phase are refused.

    Attributes:
        directory: directory of the phase, inside the directory of the run's fingerprint.
    """

    directory: Path

    @property
    def _of(self) -> str:
        return "/".join(self.directory.parts[-2:])

    def save(self, state: State) -> None:
        """Write the state after its last row, then remove files that are no longer needed."""
        epoch = len(state.rows) - 1
        arrays = {f"weight{k:05}": array for k, array in enumerate(state.weights)}
        arrays |= {f"slot{k:05}": array for k, array in enumerate(state.slots)}
        rows = [{k: v if math.isfinite(v) else None for k, v in row.items()} for row in state.rows]
        card = json.dumps(
            {"of": self._of, "rows": rows, "kept": state.kept}, allow_nan=False
        ).encode()
        buffer = io.BytesIO()
        np.savez(buffer, card=np.frombuffer(card, np.uint8), **arrays)  # type: ignore[arg-type]
        (self.directory / NAME.format(epoch)).unlink(missing_ok=True)
        publish_bytes(self.directory, NAME.format(epoch), buffer.getvalue())
        for path in self.directory.glob("epoch-*.npz"):
            if path.name not in {NAME.format(epoch), NAME.format(state.kept)}:
                path.unlink()

    def load(self) -> State | None:
        """The newest state that can be read, or None. Newer files that cannot are removed."""
        for path in sorted(self.directory.glob("epoch-*.npz"), reverse=True):
            try:
                state = self._read(path)
                self.weights(state.kept)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                logger.warning("%s: damaged, or not an epoch of this run; removed", path)
                remove(path)
            else:
                return state
        return None

    def weights(self, epoch: int) -> Arrays:
        """The weights after the epoch to keep."""
        return self._read(self.directory / NAME.format(epoch)).weights

    def _read(self, path: Path) -> State:
        with opened(path, MAX_BYTES, follow=False) as file:
            arrays = read_npz(file, DTYPES)
        card = parse_json(arrays["card"].tobytes())
        rows, kept = card["rows"], card["kept"]
        if card["of"] != self._of or path.name != NAME.format(len(rows) - 1):
            raise DataError(f"{path}: epoch {len(rows) - 1} of {card['of']!r:.80}")
        rows = [{k: math.nan if v is None else v for k, v in row.items()} for row in rows]
        numbers = all(isinstance(value, int | float) for row in rows for value in row.values())
        if not numbers or type(kept) is not int or not 0 <= kept < len(rows):
            raise DataError(f"{path}: no history, or a history without epoch {kept!r:.20}")
        weights, slots = (_series(arrays, kind) for kind in ("weight", "slot"))
        return State(rows, weights, slots, kept)

    def clear(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _series(arrays: Mapping[str, NDArray[Any]], kind: str) -> Arrays:
    return [arrays[name] for name in sorted(arrays) if name.startswith(kind)]


def arrays_of(variables: Sequence[Any]) -> Arrays:
    """The values of Keras variables."""
    return [np.asarray(variable.numpy()) for variable in variables]


def fit(variables: Sequence[Any], arrays: Arrays) -> bool:
    """Whether the arrays have the shapes of the Keras variables."""
    return [tuple(each.shape) for each in variables] == [each.shape for each in arrays]


def assign(variables: Sequence[Any], arrays: Arrays) -> None:
    """Set Keras variables to the values of the arrays."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)

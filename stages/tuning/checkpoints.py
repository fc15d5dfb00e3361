"""What a run needs to go on after it was killed: weights, optimizer state and history per epoch."""

import io
import json
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.publish import publish_bytes

Arrays = list[NDArray[Any]]
Rows = list[dict[str, float]]

NAME = "epoch-{:05}.npz"


@dataclass(frozen=True, eq=False)
class State:
    """A phase after some epoch.

    Attributes:
        rows: the history so far, one row per epoch, from epoch 0.
        weights: of the model that learns, in the order of `model.weights`.
        slots: of the optimizer, in the order of `optimizer.variables`.
        kept: the epoch whose weights are to be kept, so far.
    """

    rows: Rows
    weights: Arrays
    slots: Arrays
    kept: int


@dataclass(frozen=True)
class Checkpoints:
    """The last epoch of a phase and the one to be kept, each in a file of its own.

    A file has its name only when it is whole, so what a kill leaves behind is never read.
    """

    directory: Path

    def save(self, state: State) -> None:
        """Write the state after its last row, then remove the files that are no longer needed."""
        epoch = len(state.rows) - 1
        arrays = {f"weight{k:05}": array for k, array in enumerate(state.weights)}
        arrays |= {f"slot{k:05}": array for k, array in enumerate(state.slots)}
        card = json.dumps({"rows": state.rows, "kept": state.kept}).encode()
        buffer = io.BytesIO()
        np.savez(buffer, card=np.frombuffer(card, np.uint8), **arrays)  # type: ignore[arg-type]
        (self.directory / NAME.format(epoch)).unlink(missing_ok=True)
        publish_bytes(self.directory, NAME.format(epoch), buffer.getvalue())
        for path in self.directory.glob("epoch-*.npz"):
            if path.name not in {NAME.format(epoch), NAME.format(state.kept)}:
                path.unlink()

    def load(self) -> State | None:
        """The newest state; None where there is none, or none that can be read."""
        for path in sorted(self.directory.glob("epoch-*.npz"), reverse=True):
            try:
                return _read(path)
            except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
                path.unlink(missing_ok=True)
        return None

    def weights(self, epoch: int) -> Arrays:
        """The weights after an epoch that was to be kept."""
        return _read(self.directory / NAME.format(epoch)).weights

    def clear(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _read(path: Path) -> State:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as members:
        card = json.loads(members["card"].tobytes())
        weights, slots = (_series(members, kind) for kind in ("weight", "slot"))
    return State(card["rows"], weights, slots, card["kept"])


def _series(members: Any, kind: str) -> Arrays:
    return [members[name] for name in sorted(members.files) if name.startswith(kind)]


def arrays_of(variables: Sequence[Any]) -> Arrays:
    """The values of Keras variables."""
    return [np.asarray(variable.numpy()) for variable in variables]


def assign(variables: Sequence[Any], arrays: Arrays) -> None:
    """Give Keras variables their values back."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)

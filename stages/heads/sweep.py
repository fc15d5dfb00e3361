"""Training all heads of a task in one scan of its rows per epoch.

A `TrainingStack` keeps what its heads need between steps. `kernel.py` computes the steps, and
`stack.py` decides which heads train together.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.frameworks import load_tensorflow
from cryobase.stages.heads.config import HeadParams
from cryobase.stages.heads.head import Layer, Trained
from cryobase.stages.heads.history import History
from cryobase.stages.heads.kernel import UPDATES, judge, trainer
from cryobase.stages.heads.rows import READ, Batch, Floats, Task, fit_scale, weigh_classes
from cryobase.stages.heads.stack import Read, Stack, plan
from cryobase.stages.progress import Progress
from cryobase.store.text import counted

tf = load_tensorflow()
logger = logging.getLogger(__name__)


class TrainingStack:
    """The heads of one stack, each with its own rate, decay, dropout, class weights and last epoch.

    Attributes:
        stack: names and shape.
        active: (heads,) True for places that are taken and still learn.
    """

    def __init__(self, stack: Stack, heads: Mapping[str, HeadParams], task: Task) -> None:
        self.stack = stack
        self._heads = [heads[name] for name in stack.names]
        self.active = np.arange(stack.shape.heads) < len(self._heads)
        self._histories = [History() for _ in self._heads]
        self._best_epochs = np.zeros(len(self._heads), int)
        self._best_losses = np.full(len(self._heads), np.inf)
        self._rows = len(task.train), len(task.validation)
        self._knobs = self._vectors(task)
        self._weights = tuple(map(tf.constant, self._initial()))
        slots = UPDATES[stack.shape.optimizer][1]
        self._slots = tuple([tf.zeros_like(w)] * slots for w in self._weights)
        self._best = self._weights
        self._step = tf.constant(0)
        self._learned, self._judged = self._no_sums(), self._no_sums()

    def learn(self, x: Any, labels: Any, rows: int) -> None:
        """Take the steps of one call, see `kernel.trainer`."""
        batch = (x, labels, tf.constant(rows))
        self._step, (self._weights, self._slots), sums = trainer(self.stack.shape)(
            batch, self._step, self._knobs, (self._weights, self._slots)
        )
        self._learned += np.stack([part.numpy() for part in sums])

    def judge(self, x: Any, labels: Any, rows: int) -> None:
        """Count loss and right answers on validation rows."""
        sums = judge(self.stack.shape)((x, labels, tf.constant(rows)), self._weights)
        self._judged += np.stack([part.numpy() for part in sums])

    def end_epoch(self) -> None:
        """Extend the histories, keep weights that are better, and stop heads that are finished."""
        better = np.zeros(self.stack.shape.heads, bool)
        for place in np.flatnonzero(self.active):
            better[place] = self._end_epoch(int(place))
        self._keep(better)
        self._learned, self._judged = self._no_sums(), self._no_sums()
        self._knobs["active"] = tf.constant(self.active, tf.float32)

    def _end_epoch(self, place: int) -> bool:
        """End an epoch of one head. Returns whether its weights are the best so far."""
        train_rows, validation_rows = self._rows
        loss, right = self._learned[:, place] / train_rows
        val_loss, val_right = (
            self._judged[:, place] / validation_rows if validation_rows else (np.nan, np.nan)
        )
        row = {"loss": loss, "accuracy": right, "val_loss": val_loss, "val_accuracy": val_right}
        history = self._histories[place]
        history.append(row)
        val_loss = history.curves["val_loss"][-1]
        better = val_loss < self._best_losses[place] or not validation_rows
        if better:
            self._best_losses[place], self._best_epochs[place] = val_loss, len(history)
        params = self._heads[place]
        waited = len(history) - self._best_epochs[place]
        self.active[place] = len(history) < params.epochs and not 0 < params.patience <= waited
        return bool(better)

    def _keep(self, better: NDArray[np.bool_]) -> None:
        if self.stack.shape.heads == 1:
            self._best = self._weights if better[0] else self._best
        elif better.any():
            columns = np.zeros(self.stack.shape.columns, bool)
            taken = np.repeat(better, self.stack.shape.outputs)
            columns[: len(taken)] = taken
            self._best = tuple(
                tf.where(columns, new, old)
                for new, old in zip(self._weights, self._best, strict=True)
            )

    def trained(self, scale: tuple[Floats, Floats] | None) -> dict[str, Trained]:
        """The finished heads, without padding."""
        best = [weight.numpy() for weight in self._best]
        mean, deviation = scale if scale and self.stack.standardize else (None, None)
        return {
            name: Trained(self._layers(best, place), mean, deviation, self._histories[place])
            for place, name in enumerate(self.stack.names)
        }

    def _layers(self, weights: list[Floats], place: int) -> tuple[Layer, ...]:
        shape = self.stack.shape
        sizes = (shape.width, *shape.hidden, shape.outputs)
        starts = [0] * len(shape.hidden) + [place * shape.outputs]
        return tuple(
            (
                weights[2 * k][: sizes[k], start : start + sizes[k + 1]].copy(),
                weights[2 * k + 1][start : start + sizes[k + 1]].copy(),
            )
            for k, start in enumerate(starts)
        )

    def _initial(self) -> list[Floats]:
        """Glorot-uniform kernels from each head's seed, zero biases, zero padding."""
        shape = self.stack.shape
        weights: list[Floats] = []
        for inputs, outputs in shape.layers:
            weights += [np.zeros((inputs, outputs), np.float32), np.zeros(outputs, np.float32)]
        for place, params in enumerate(self._heads):
            for layer, (kernel, _) in enumerate(self._layers(weights, place)):
                start = place * shape.outputs if layer == len(shape.hidden) else 0
                drawn = _glorot(params.seed, layer, *kernel.shape)
                weights[2 * layer][: len(drawn), start : start + drawn.shape[1]] = drawn
        return weights

    def _vectors(self, task: Task) -> dict[str, Any]:
        """Numbers that differ between heads, as vectors (heads,); zero in places not taken."""
        shape = self.stack.shape
        labels = task.rows.labels[task.train]
        class_weights = np.zeros((shape.classes, shape.heads), np.float32)
        for place, params in enumerate(self._heads):
            class_weights[:, place] = weigh_classes(params.class_weights, labels, task.rows.classes)
        knobs = {
            key: self._vector(key, np.float32)
            for key in ("learning_rate", "weight_decay", "momentum", "dropout")
        }
        knobs |= {"seed": self._vector("seed", np.uint32), "class_weights": class_weights}
        knobs["active"] = self.active.astype(np.float32)
        return {key: tf.constant(vector) for key, vector in knobs.items()}

    def _vector(self, key: str, dtype: Any) -> NDArray[Any]:
        vector = np.zeros(self.stack.shape.heads, dtype)
        vector[: len(self._heads)] = [getattr(params, key) for params in self._heads]
        return vector

    def _no_sums(self) -> NDArray[np.float64]:
        return np.zeros((2, self.stack.shape.heads))


def _glorot(seed: int, layer: int, inputs: int, outputs: int) -> Floats:
    """Glorot and Bengio, 2010: uniform within sqrt(6 / (inputs + outputs)), Keras' default."""
    limit = np.sqrt(6 / (inputs + outputs))
    random = np.random.Generator(np.random.Philox(key=[seed, layer]))
    return random.uniform(-limit, limit, (inputs, outputs)).astype(np.float32)


def train(task: Task, heads: Mapping[str, HeadParams]) -> dict[str, Trained]:
    """Train heads by steps of gradient descent, each as if it were alone.

    Args:
        task: the rows.
        heads: params of the heads to train, by name.
    """
    reads = plan(heads, task.rows.width, len(task.rows.classes))
    scaled = any(params.standardize for params in heads.values())
    scale = fit_scale(task) if scaled else None
    trained: dict[str, Trained] = {}
    for read in reads:
        trained |= _train_read(task, heads, read, scale)
    return {name: trained[name] for name in heads}


def _train_read(
    task: Task, heads: Mapping[str, HeadParams], read: Read, scale: tuple[Floats, Floats] | None
) -> dict[str, Trained]:
    stacks = [TrainingStack(stack, heads, task) for stack in read.stacks]
    active = stacks
    epoch = 0
    most = max(heads[name].epochs for stack in read.stacks for name in stack.names)
    rows = most * (len(task.train) + len(task.validation))  # fewer if all heads stop early
    with ThreadPoolExecutor(os.cpu_count()) as pool, Progress("train", "rows", rows) as progress:
        while active:
            heads_left = sum(int(training.active.sum()) for training in active)
            learning = f"epoch {epoch + 1}, {counted(heads_left, 'head')}"
            for batch in task.epoch(epoch, read.rows, read.views):
                _feed(pool, active, batch, scale, rows_of=_rows, use=TrainingStack.learn)
                progress.advance(len(batch[1]), learning)
            for batch in task.in_order(task.validation):
                _feed(pool, active, batch, scale, rows_of=lambda _: READ, use=TrainingStack.judge)
                progress.advance(len(batch[1]), learning)
            for training in active:
                training.end_epoch()
            active = [training for training in active if training.active.any()]
            epoch += 1
            logger.debug("epoch %d: %d of %d stacks learn", epoch, len(active), len(stacks))
    trained: dict[str, Trained] = {}
    for training in stacks:
        trained |= training.trained(scale)
    return trained


def _rows(training: TrainingStack) -> int:
    return training.stack.shape.rows


def _feed(
    pool: ThreadPoolExecutor,
    stacks: list[TrainingStack],
    batch: Batch,
    scale: tuple[Floats, Floats] | None,
    *,
    rows_of: Callable[[TrainingStack], int],
    use: Callable[..., None],
) -> None:
    """Give the same rows to all stacks, in pieces of the size that each stack needs."""
    groups: dict[tuple[bool, int], list[TrainingStack]] = {}
    for stack in stacks:
        groups.setdefault((stack.stack.standardize, rows_of(stack)), []).append(stack)
    for (standardize, rows), those in groups.items():
        for piece in _pieces(*batch, rows, scale if standardize else None):
            list(pool.map(use, those, *([part] * len(those) for part in piece)))


def _pieces(
    x: Floats, labels: NDArray[np.int32], rows: int, scale: tuple[Floats, Floats] | None
) -> Iterator[tuple[Any, Any, int]]:
    """Rows and labels in pieces of a fixed size, with the number of real rows in each piece.

    The last piece is filled up with zeros.
    """
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        part = part if scale is None else (part - scale[0]) / scale[1]
        missing = rows - len(part)
        yield (
            tf.constant(np.pad(part, ((0, missing), (0, 0))) if missing else part),
            tf.constant(np.pad(labels[start : start + rows], (0, missing))),
            len(part),
        )

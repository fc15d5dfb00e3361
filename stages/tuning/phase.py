"""One phase of training a grafted model: its epochs, the epoch that is kept, resuming after a kill.

The loop is our own because a killed run must give the same bits as one that ran through.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cryobase.stages.backbones.frameworks import load_keras, load_tensorflow
from cryobase.stages.data.stream import Batch, ImageStream
from cryobase.stages.errors import DataError
from cryobase.stages.progress import Progress
from cryobase.stages.tuning import freezing, resume
from cryobase.stages.tuning.freezing import logits_model, place_of_cut
from cryobase.stages.tuning.resume import Checkpoints, HistoryRows, State
from cryobase.store.epochs import shuffled

logger = logging.getLogger(__name__)

Keep = Literal["best", "smoothed", "last"]

SMOOTHING = 0.8  # factor of the smoothed curve for `keep: smoothed`
HELD = 256 << 20  # bytes of memory, at most, for the trunk's outputs on validation images


Step = Callable[[Any, Any], tuple[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """A Keras optimizer. All settings that are not listed here have Keras' defaults.

    Attributes:
        name: `adam`, `adamw`, `sgd` or `rmsprop`.
        learning_rate: rate of the head after the warm-up.
        momentum: momentum of `sgd`.
        weight_decay: decoupled; None means Keras' default.
        layer_decay: each layer with weights has the rate of the layer above it, towards the head,
            times this; 1 means the same rate for all layers.
        warmup: epochs in which the rate rises from 0, step by step; may be a fraction.
    """

    name: str
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float | None = None
    layer_decay: float = 1.0
    warmup: float = 0.0

    def build(self, *, scaled: bool) -> Any:
        """Make the optimizer. `scaled` scales the loss: small float16 gradients would become 0."""
        keras = load_keras()

        kinds = {
            "adam": keras.optimizers.Adam,
            "adamw": keras.optimizers.AdamW,
            "sgd": keras.optimizers.SGD,
            "rmsprop": keras.optimizers.RMSprop,
        }
        extra: dict[str, Any] = {"momentum": self.momentum} if self.name == "sgd" else {}
        if self.weight_decay is not None:
            extra["weight_decay"] = self.weight_decay
        optimizer = kinds[self.name](learning_rate=self.learning_rate, **extra)
        return keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """The head's rate at a step, counted from 0."""
        rising = self.warmup * steps_per_epoch
        return (
            self.learning_rate * min(1.0, (step + 1) / rising) if rising > 0 else self.learning_rate
        )


class TrainingExamples(Protocol):
    """The source of training batches: images, or stored outputs of the frozen trunk."""

    stored: bool

    def __len__(self) -> int:
        """The number of training examples."""
        ...

    def train(self, epoch: int) -> Iterator[Batch]:
        """The training examples, in a different order each epoch."""
        ...

    def validation(self) -> Iterator[Batch]:
        """The validation examples without augmentation, in the same order each time."""
        ...

    def batches_per_epoch(self) -> int:
        """Training batches in an epoch."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageExamples:
    """Training and validation images of a split."""

    stream: ImageStream
    train_ids: NDArray[np.bytes_]
    validation_ids: NDArray[np.bytes_]
    seed: int
    stored = False

    def __len__(self) -> int:
        return len(self.train_ids)

    def train(self, epoch: int) -> Iterator[Batch]:
        return self.stream.batches(shuffled(self.train_ids, self.seed, epoch), epoch)

    def validation(self) -> Iterator[Batch]:
        return self.stream.plain.batches(self.validation_ids)

    def batches_per_epoch(self) -> int:
        return math.ceil(len(self) / self.stream.batch_size)


@dataclass(frozen=True, kw_only=True)
class PhaseSettings:
    """How one phase trains.

    Attributes:
        optimizer: the optimizer and its rates.
        epochs: passes over the training images.
        keep: the epoch whose weights are kept: `best` has the lowest validation loss, and the
            phase's start counts as epoch 0; `smoothed` has the lowest exponentially smoothed
            validation loss; or `last`.
        seed: seed of dropout.
        cut: the layer whose outputs are stored; None cuts at the deepest place.
        scaled: whether the loss is scaled, which float16 needs.
        first: number of epochs before this phase.
    """

    optimizer: OptimizerSettings
    epochs: int
    keep: Keep
    seed: int
    cut: str | None = None
    scaled: bool = False
    first: int = 0


class Phase:
    """One phase of a tuning: a fixed set of learning layers and an optimizer.

    Create it after `unfreeze`, then call `run` to train the model.
    """

    def __init__(
        self, model: Any, base: Any, examples: TrainingExamples, settings: PhaseSettings
    ) -> None:
        """Cut the model below its first learning layer.

        Args:
            model: model from pixels to probabilities, with a layer `logits`.
            base: the model whose layers are partly frozen; all other layers learn.
            examples: training and validation examples.
            settings: how the phase trains.
        """
        whole = logits_model(model)
        cut = place_of_cut(whole, base, settings.cut)
        lower, self.upper = freezing.split(whole, cut)
        self.lower = None if examples.stored else lower
        self.examples, self.settings = examples, settings
        self.optimizer = settings.optimizer.build(scaled=settings.scaled)
        self.optimizer.build(self.upper.trainable_variables)
        factors = layer_factors(self.upper, base, settings.optimizer.layer_decay)
        self._step = _rated(settings, examples, self.optimizer, self._compiled(factors))
        self._answer = inference(self.upper)
        self._below = self.lower and inference(self.lower)
        self._held: list[Batch] | None = None

    def _compiled(self, factors: list[float]) -> Step:
        return compiled_step(
            self.upper, self.lower, self.optimizer, factors, scaled=self.settings.scaled
        )

    def run(self, checkpoints: Checkpoints) -> HistoryRows:
        """Train from the start or from the last checkpoint. The model then has the kept weights.

        Returns:
            A row per epoch, from 0: epoch, loss and accuracy (NaN for 0), val_loss, val_accuracy.

        Raises:
            DataError: the loss is no longer finite.
        """
        state = checkpoints.load()
        if state is None or not self._takes(state):
            state = self._state([self.judged(0, math.nan, math.nan)], 0)
            checkpoints.save(state)
        else:
            resume.assign(self.upper.weights, state.weights)
            resume.assign(self.optimizer.variables, state.slots)
        for epoch in range(len(state.rows), self.settings.epochs + 1):
            rows = [*state.rows, self.epoch(epoch)]
            state = self._state(rows, kept_epoch(rows, self.settings.keep))
            checkpoints.save(state)
        resume.assign(self.upper.weights, checkpoints.weights(state.kept))
        return state.rows

    def _takes(self, state: State) -> bool:
        weights = resume.fit(self.upper.weights, state.weights)
        return weights and resume.fit(self.optimizer.variables, state.slots)

    def _state(self, rows: HistoryRows, kept: int) -> State:
        weights = resume.arrays_of(self.upper.weights)
        return State(rows, weights, resume.arrays_of(self.optimizer.variables), kept)

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch. It depends only on weights, optimizer state, seed and number."""
        _reseed(self.upper, self.settings.seed, self.settings.first + epoch)
        total, right, seen = 0.0, 0, 0
        number = self.settings.first + epoch
        with Progress(f"epoch {number}", "batches", self._steps) as progress:
            for step, (inputs, labels) in enumerate(self.examples.train(number)):
                loss, logits = self._step(inputs, labels, step + self._steps * (epoch - 1))
                total += float(loss) * len(labels)
                right += int((_predicted(logits.numpy()) == labels).sum())
                seen += len(labels)
                progress.advance(1)
        if not math.isfinite(total):
            raise DataError(f"epoch {epoch}: the loss is {total}; lower the learning_rate")
        row = self.judged(epoch, total / seen, right / seen)
        _tell(row, self.settings)
        return row

    @property
    def _steps(self) -> int:
        return self.examples.batches_per_epoch()

    def judged(self, epoch: int, loss: float, accuracy: float) -> dict[str, float]:
        """The row of an epoch for the history, with validation scores of the current weights.

        Validation loss and accuracy are NaN without validation examples.
        """
        total, right, seen = 0.0, 0, 0
        for inputs, labels in self._validation():
            logits = self._answer(inputs)
            total += float(cross_entropy(logits, labels).numpy().sum())
            right += int((_predicted(logits.numpy()) == labels).sum())
            seen += len(labels)
        row = {"epoch": epoch, "loss": loss, "accuracy": accuracy}
        values = (total / seen, right / seen) if seen else (math.nan, math.nan)
        return row | dict(zip(("val_loss", "val_accuracy"), values, strict=True))

    def _validation(self) -> Iterator[Batch]:
        """Validation batches as inputs of the learning part.

        Outputs of the frozen part are computed once and kept, up to `HELD` bytes.
        """
        if self._below is None:
            yield from self.examples.validation()
        elif self._held is not None:
            yield from self._held
        else:
            held: list[Batch] = []
            size = 0
            for images, labels in self.examples.validation():
                outputs = self._below(images).numpy()
                size += outputs.nbytes
                held = [*held, (outputs, labels)] if size <= HELD else []
                yield outputs, labels
            self._held = held if size <= HELD else None


def kept_epoch(rows: HistoryRows, keep: Keep) -> int:
    """The epoch, counted in rows from 0, whose weights are kept.

    Of equally good epochs it is the first; without validation it is the last.
    """
    losses = [row["val_loss"] for row in rows]
    if keep == "last" or not np.isfinite(losses).any():
        return len(rows) - 1
    if keep == "smoothed":
        return 1 + int(np.nanargmin(smoothed(losses[1:])))
    return int(np.nanargmin(losses))


def smoothed(values: list[float], factor: float = SMOOTHING) -> list[float]:
    """Exponential smoothing: new = factor * previous + (1 - factor) * value.

    As `smooth_curve` in Chollet, Deep Learning with Python, 1st edition, section 5.3.
    """
    points: list[float] = []
    for value in values:
        points.append(points[-1] * factor + value * (1 - factor) if points else value)
    return points


def _rated(settings: PhaseSettings, examples: TrainingExamples, optimizer: Any, step: Step) -> Any:
    """The training step; it sets the learning rate of the optimizer first."""

    def rated(inputs: Any, labels: Any, number: int) -> tuple[Any, Any]:
        if settings.optimizer.warmup:
            rate = settings.optimizer.rate(number, examples.batches_per_epoch())
            optimizer.learning_rate = rate
        return step(inputs, labels)

    return rated


def _reseed(model: Any, seed: int, epoch: int) -> None:
    """Set the state of every random layer, so that an epoch does not depend on earlier epochs."""
    for number, layer in enumerate(model.layers):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            drawn = np.random.default_rng((seed, epoch, number)).integers(0, 1 << 32, 2, np.uint32)
            generator.state.assign(drawn)


def _predicted(logits: NDArray[Any]) -> NDArray[Any]:
    return (logits[:, 0] > 0).astype(np.int32) if logits.shape[1] == 1 else logits.argmax(axis=1)


def _tell(row: dict[str, float], settings: PhaseSettings) -> None:
    names = {"loss": "loss", "val_loss": "validation loss", "val_accuracy": "validation accuracy"}
    scores = (f"{name} {row[key]:.4f}" for key, name in names.items() if math.isfinite(row[key]))
    logger.info("epoch %d: %s", settings.first + row["epoch"], ", ".join(scores))


def layer_factors(upper: Any, base: Any, layer_decay: float) -> list[float]:
    """The multiple of the head's rate for every trainable variable of a model, in its order."""
    depths: dict[int, float] = {}
    learning = [layer for layer in base.layers if layer.trainable_variables]
    for depth, layer in enumerate(reversed(learning), start=1):
        for variable in layer.trainable_variables:
            depths[id(variable)] = layer_decay**depth
    return [depths.get(id(variable), 1.0) for variable in upper.trainable_variables]


def compiled_step(
    upper: Any, lower: Any | None, optimizer: Any, factors: Sequence[float], *, scaled: bool
) -> Step:
    """A function of a batch and its labels: does one training step, returns mean loss and logits.

    Args:
        upper: the model that learns, up to the logits (b, outputs).
        lower: the frozen model below it, which takes the batch; None if `upper` takes it.
        optimizer: a Keras optimizer, built for the trainable variables of `upper`.
        factors: for each of these variables, the multiple of the optimizer's rate.
        scaled: whether the optimizer scales the loss.
    """
    tf = load_tensorflow()

    variables = upper.trainable_variables
    slowed = [(v, factor) for v, factor in zip(variables, factors, strict=True) if factor != 1]

    def step(inputs: Any, labels: Any) -> tuple[Any, Any]:
        x = inputs if lower is None else lower(inputs, training=False)
        with tf.GradientTape() as tape:
            logits = tf.cast(upper(x, training=True), tf.float32)
            loss = tf.reduce_mean(cross_entropy(logits, labels))
            objective = optimizer.scale_loss(loss) if scaled else loss
        gradients = tape.gradient(objective, variables)
        before = [tf.identity(variable) for variable, _ in slowed]
        optimizer.apply(gradients, variables)
        # an update is proportional to the rate, so scaling the update has the effect of scaling it
        for (variable, factor), old in zip(slowed, before, strict=True):
            variable.assign(old + factor * (variable - old))
        return loss, logits

    compiled: Step = tf.function(step, reduce_retracing=True)
    return compiled


def inference(model: Any) -> Any:
    """A compiled function of a batch: the model's float32 output, in inference mode."""
    tf = load_tensorflow()

    def answer(inputs: Any) -> Any:
        return tf.cast(model(inputs, training=False), tf.float32)

    return tf.function(answer, reduce_retracing=True)


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Losses (b,) of logits (b, classes), or (b, 1) of a sigmoid unit."""
    tf = load_tensorflow()

    if logits.shape[-1] == 1:
        targets = tf.cast(labels, tf.float32)[:, None]
        return tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)[:, 0]
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)

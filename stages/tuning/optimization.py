"""One optimizer step of a partly frozen model, with a rate of its own for every layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cryobase.stages.backbones.frameworks import load_keras, load_tensorflow

Step = Callable[[Any, Any], tuple[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Keras' optimizers with their defaults, but for what stands here.

    Attributes:
        name: `adam`, `adamw`, `sgd` or `rmsprop`.
        learning_rate: of the head, after the warm-up.
        momentum: of `sgd`.
        weight_decay: decoupled; None means Keras' default.
        layer_decay: from the head down, each layer with weights learns at this multiple of the rate
            of the one above it; 1 means one rate for all.
        warmup: epochs in which the rate rises from 0, in steps; a fraction is allowed.
    """

    name: str
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float | None = None
    layer_decay: float = 1.0
    warmup: float = 0.0

    def build(self, *, scaled: bool) -> Any:
        """The optimizer; `scaled` wraps it for float16, whose small gradients vanish otherwise."""
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
    """A function of a batch and its labels that learns, and gives the mean loss and the logits.

    Args:
        upper: the model that learns, up to the logits (b, outputs).
        lower: the frozen model below it, which then takes the batch; or None.
        optimizer: a Keras optimizer, built for the trainable variables of `upper`.
        factors: for each of these, the multiple of the optimizer's rate.
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
        # an update is proportional to its rate, so a share of the update is a share of the rate
        for (variable, factor), old in zip(slowed, before, strict=True):
            variable.assign(old + factor * (variable - old))
        return loss, logits

    compiled: Step = tf.function(step, reduce_retracing=True)
    return compiled


def inference(model: Any) -> Any:
    """A compiled function of a batch: the model's float32 output, nothing dropped."""
    tf = load_tensorflow()

    def answer(inputs: Any) -> Any:
        return tf.cast(model(inputs, training=False), tf.float32)

    return tf.function(answer, reduce_retracing=True)


def cross_entropy(logits: Any, labels: Any) -> Any:
    """(b,) losses of logits (b, classes), or (b, 1) of a sigmoid unit."""
    tf = load_tensorflow()

    if logits.shape[-1] == 1:
        targets = tf.cast(labels, tf.float32)[:, None]
        return tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)[:, 0]
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)

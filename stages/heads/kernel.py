"""The compiled inner loop: many steps of a stack of heads on rows that are already in memory.

The optimizers' update steps have the formulas and defaults of `keras.optimizers`, on tensors. Each
takes the weights, their gradient, their slots, the step (from 1) and the learning rate and momentum
of the column. It returns new weights and slots. Weight decay is decoupled and the same for all
optimizers. Reading rows and ending epochs is the task of `sweep.py`.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from cryobase.stages.backbones.frameworks import load_tensorflow
from cryobase.stages.heads.stack import StackShape

tf = load_tensorflow()

Update = Callable[..., tuple[Any, list[Any]]]

EPSILON = 1e-7
BETA_1, BETA_2 = 0.9, 0.999
RHO = 0.9


def adam(w: Any, g: Any, slots: Sequence[Any], *, step: Any, rate: Any, momentum: Any) -> Any:
    """Kingma and Ba, 2015, in the efficient order of section 2, as `keras.optimizers.Adam`."""
    m, v = slots
    m = m + (g - m) * (1 - BETA_1)
    v = v + (g * g - v) * (1 - BETA_2)
    alpha = rate * (tf.sqrt(1 - tf.pow(BETA_2, step)) / (1 - tf.pow(BETA_1, step)))
    return w - m * alpha / (tf.sqrt(v) + EPSILON), [m, v]


def sgd(w: Any, g: Any, slots: Sequence[Any], *, step: Any, rate: Any, momentum: Any) -> Any:
    """Gradient descent with momentum, as `keras.optimizers.SGD`."""
    velocity = momentum * slots[0] - rate * g
    return w + velocity, [velocity]


def rmsprop(w: Any, g: Any, slots: Sequence[Any], *, step: Any, rate: Any, momentum: Any) -> Any:
    """Hinton's RMSprop, not centred and without momentum, as `keras.optimizers.RMSprop`."""
    v = RHO * slots[0] + (1 - RHO) * g * g
    return w - rate * g / tf.sqrt(v + EPSILON), [v]


UPDATES: dict[str, tuple[Update, int]] = {  # with the number of slots per weight
    "adam": (adam, 2),
    "adamw": (adam, 2),
    "sgd": (sgd, 1),
    "rmsprop": (rmsprop, 1),
}


@lru_cache(maxsize=64)
def trainer(shape: StackShape) -> Callable[..., tuple[Any, ...]]:
    """The programme `train(batch, step, knobs, state)`.

    `batch` is x (steps * batch size, width), the labels, and how many of these rows are real, not
    padding. `knobs` are the per-head vectors. `state` is (weights, slots). Returns the step, the
    state and the sums (heads,) of loss and right answers.
    """

    def train(batch: Any, step: Any, knobs: Any, state: Any) -> Any:
        x, labels, rows = batch
        x = tf.reshape(x, (shape.steps, shape.batch_size, shape.width))
        labels = tf.reshape(labels, (shape.steps, shape.batch_size))

        def body(k: Any, sums: Any, state: Any) -> Any:
            real = tf.clip_by_value(rows - k * shape.batch_size, 0, shape.batch_size)
            some = (x[k], labels[k], real)
            losses, right, gradients = _gradients(shape, some, step + k, knobs, state[0])
            state = _update(shape, gradients, state, step + k + 1, knobs)
            return k + 1, (sums[0] + losses, sums[1] + right), state

        steps = (rows + shape.batch_size - 1) // shape.batch_size
        zeros = (tf.zeros(shape.heads), tf.zeros(shape.heads))
        _, sums, state = tf.while_loop(lambda k, *_: k < steps, body, (0, zeros, state))
        return step + steps, state, sums

    return _compiled(train)


@lru_cache(maxsize=64)
def judge(shape: StackShape) -> Callable[..., tuple[Any, Any]]:
    """The programme `judge(batch, weights)`: sums (heads,) of log loss and right answers."""

    def sums(batch: Any, weights: Any) -> tuple[Any, Any]:
        x, labels, rows = batch
        logits = _logits(shape, weights, x)
        real = tf.cast(tf.range(x.shape[0]) < rows, tf.float32)[:, None]
        losses = tf.where(real > 0, _losses(shape, logits, labels), 0.0)
        return tf.reduce_sum(losses, 0), _right(shape, logits, labels, real)

    return _compiled(sums)


def _compiled(programme: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = tf.function(programme, jit_compile=True, autograph=False)
    return compiled


def _gradients(
    shape: StackShape, batch: Any, step: Any, knobs: Any, weights: Any
) -> tuple[Any, Any, Any]:
    """Sums of loss and right answers, and the gradients of the mean loss over the real rows."""
    x, labels, real = batch
    mask = tf.cast(tf.range(shape.batch_size) < real, tf.float32)[:, None]
    per_row = mask * tf.gather(knobs["class_weights"], labels)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        drop = (knobs["dropout"], knobs["seed"], step) if shape.dropout else None
        logits = _logits(shape, weights, x, drop)
        losses = tf.reduce_sum(per_row * _losses(shape, logits, labels), 0)
        loss = tf.reduce_sum(losses) / tf.cast(real, tf.float32)
    return losses, _right(shape, logits, labels, mask), tape.gradient(loss, weights)


def _logits(shape: StackShape, weights: Sequence[Any], x: Any, drop: Any = None) -> Any:
    """Logits (rows, heads, outputs)."""
    if drop is not None and not shape.hidden:
        x = _dropped(x, 0, *drop)
    for layer in range(len(shape.hidden)):
        x = tf.matmul(x, weights[2 * layer]) + weights[2 * layer + 1]
        x = tf.nn.relu(x) if shape.activation == "relu" else x
        x = x if drop is None else _dropped(x, layer, *drop)
    columns = tf.matmul(x, weights[-2]) + weights[-1]
    taken = columns[:, : shape.heads * shape.outputs]
    return tf.reshape(taken, (-1, shape.heads, shape.outputs))


def _dropped(x: Any, layer: int, rate: Any, seed: Any, step: Any) -> Any:
    """Inverted dropout from a counter: it depends on (seed, step, layer, position) alone.

    The mixing function is Chris Wellons' `lowbias32`.
    """
    key = _mixed(seed[0] ^ _mixed(tf.cast(step, tf.uint32) * 16 + layer))
    counters = np.arange(x.shape[0] * x.shape[1], dtype=np.uint32).reshape(x.shape)
    bits = _mixed(tf.constant(counters) ^ key)
    keep = tf.cast(bits, tf.float32) * 2.0**-32 >= rate[0]
    return tf.where(keep, x / (1 - rate[0]), 0.0)


def _mixed(x: Any) -> Any:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32))) * tf.constant(
            factor, tf.uint32
        )
    return x ^ tf.bitwise.right_shift(x, tf.constant(16, tf.uint32))


def _losses(shape: StackShape, logits: Any, labels: Any) -> Any:
    """Cross-entropy (rows, heads)."""
    target = tf.repeat(labels[:, None], shape.heads, axis=1)
    if shape.sigmoid:
        return tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(target, tf.float32), logits[..., 0])
    return tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits)


def _right(shape: StackShape, logits: Any, labels: Any, mask: Any) -> Any:
    """How many of the masked rows each head (heads,) gets right."""
    if shape.sigmoid:
        predicted = tf.cast(logits[..., 0] > 0, tf.int32)
    else:
        predicted = tf.argmax(logits, -1, output_type=tf.int32)
    return tf.reduce_sum(mask * tf.cast(predicted == labels[:, None], tf.float32), 0)


def _update(
    shape: StackShape, gradients: Any, state: Any, step: Any, knobs: Any
) -> tuple[Any, Any]:
    """One optimizer step for the heads that still learn."""
    update, _ = UPDATES[shape.optimizer]
    weights, slots = [], []
    for k, (weight, slot) in enumerate(zip(*state, strict=True)):
        last = k >= len(gradients) - 2
        rate, decay, momentum, active = (
            _per_column(shape, knobs[name]) if last else knobs[name][0]
            for name in ("learning_rate", "weight_decay", "momentum", "active")
        )
        decayed = weight - weight * decay * rate
        count = tf.cast(step, tf.float32)
        new, moved = update(decayed, gradients[k], slot, step=count, rate=rate, momentum=momentum)
        weights.append(tf.where(active > 0, new, weight))
        slots.append(moved)
    return tuple(weights), tuple(slots)


def _per_column(shape: StackShape, per_head: Any) -> Any:
    taken = tf.repeat(per_head, shape.outputs)
    return tf.pad(taken, [[0, shape.columns - shape.heads * shape.outputs]])

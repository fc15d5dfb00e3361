"""Update steps with the formulas and defaults of `keras.optimizers`, on tensors.

Each takes the weights, their gradient, their slots, the step (from 1) and the rate, momentum of the
column, and gives new weights and slots. Weight decay is decoupled and the same for all of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from cryobase.stages.backbones.frameworks import load_tensorflow

Update = Callable[..., tuple[Any, list[Any]]]

EPSILON = 1e-7
BETA_1, BETA_2 = 0.9, 0.999
RHO = 0.9


def adam(w: Any, g: Any, slots: Sequence[Any], *, step: Any, rate: Any, momentum: Any) -> Any:
    """Kingma and Ba, 2015, in the efficient order of section 2, as `keras.optimizers.Adam`."""
    tf = load_tensorflow()

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
    """Hinton's RMSprop, neither centred nor with momentum, as `keras.optimizers.RMSprop`."""
    tf = load_tensorflow()

    v = RHO * slots[0] + (1 - RHO) * g * g
    return w - rate * g / tf.sqrt(v + EPSILON), [v]


UPDATES: dict[str, tuple[Update, int]] = {  # with the number of slots per weight
    "adam": (adam, 2),
    "adamw": (adam, 2),
    "sgd": (sgd, 1),
    "rmsprop": (rmsprop, 1),
}

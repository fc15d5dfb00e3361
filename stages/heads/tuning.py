"""Training a grafted model end to end: which layers learn, and the epochs."""

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from stages.errors import ConfigError

logger = logging.getLogger(__name__)


def unfreeze(base: Any, rule: str | Mapping[Any, Any]) -> list[str]:
    """Let some layers of a base learn; the others, and every BatchNormalization, stay frozen.

    Frozen BatchNormalization runs in inference mode, so its moving statistics do not change.

    Args:
        base: the backbone, a `keras.Model`.
        rule: `none`, `all`, `{"from": layer's name}` or `{"last": n}`.

    Returns:
        The names of the layers that learn and have weights.

    Raises:
        ConfigError: no layer has that name.
    """
    import keras

    chosen = {layer.name for layer in _chosen(base, rule)}
    base.trainable = True
    for layer in base.layers:
        normalises = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = layer.name in chosen and not normalises
    return [layer.name for layer in base.layers if layer.trainable and layer.weights]


def _chosen(base: Any, rule: str | Mapping[Any, Any]) -> list[Any]:
    layers = list(base.layers)
    if isinstance(rule, str):
        return layers if rule == "all" else []
    if "last" in rule:
        return layers[max(0, len(layers) - int(rule["last"])) :]
    names = [layer.name for layer in layers]
    if rule["from"] not in names:
        known = ", ".join(name for name, layer in zip(names, layers, strict=True) if layer.weights)
        raise ConfigError(f"unfreeze: no layer {rule['from']!r}; layers with weights: {known}")
    return layers[names.index(rule["from"]) :]


def fit(model: Any, train: Any, validation: Any, *, epochs: int) -> Iterator[dict[str, float]]:
    """Train a compiled model; it ends with the weights of the best validation loss.

    The model as it comes counts as epoch 0, so tuning never makes it worse on validation.

    Args:
        model: a compiled `keras.Model` with the metric `accuracy`.
        train: batches to learn from.
        validation: batches to judge by.
        epochs: passes over `train`.

    Yields:
        One row per epoch: epoch, loss, accuracy (none for epoch 0), val_loss, val_accuracy.
    """
    start = model.evaluate(validation, return_dict=True, verbose=0)
    row = {"epoch": 0, "loss": math.nan, "accuracy": math.nan}
    row |= {"val_loss": start["loss"], "val_accuracy": start["accuracy"]}
    best, kept = row["val_loss"], model.get_weights()
    yield row
    for epoch in range(1, epochs + 1):
        told = model.fit(
            train,
            validation_data=validation,
            initial_epoch=epoch - 1,
            epochs=epoch,
            verbose=0,
        ).history
        row = {"epoch": epoch, **{key: float(values[0]) for key, values in told.items()}}
        logger.info(
            "epoch %d of %d: loss %.4f, validation loss %.4f, validation accuracy %.4f",
            epoch,
            epochs,
            row["loss"],
            row["val_loss"],
            row["val_accuracy"],
        )
        if row["val_loss"] < best:
            best, kept = row["val_loss"], model.get_weights()
        yield row
    model.set_weights(kept)

"""Which layers of a base learn."""

from collections.abc import Mapping
from typing import Any

from cryobase.stages.backbones.frameworks import load_keras
from cryobase.stages.errors import ConfigError


def unfreeze(
    base: Any, rule: str | Mapping[Any, Any], *, batch_normalization: bool = False
) -> list[str]:
    """Let some layers of a base learn; the others stay frozen.

    A frozen BatchNormalization runs in inference mode, so its moving statistics do not change.

    Args:
        base: the backbone, a `keras.Model`.
        rule: `none`, `all`, `{"from": a layer's name or number}` (that layer and those after it, as
            `base.layers` counts from 0, the input) or `{"last": n}`.
        batch_normalization: whether BatchNormalization layers that the rule names learn too.

    Returns:
        The names of the layers that learn and have weights.

    Raises:
        ConfigError: there is no such layer.
    """
    keras = load_keras()

    chosen = {layer.name for layer in _chosen(base, rule)}
    base.trainable = True
    for layer in base.layers:
        normalises = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = layer.name in chosen and (batch_normalization or not normalises)
    return [layer.name for layer in base.layers if layer.trainable and layer.weights]


def _chosen(base: Any, rule: str | Mapping[Any, Any]) -> list[Any]:
    layers = list(base.layers)
    if isinstance(rule, str):
        return layers if rule == "all" else []
    if "last" in rule:
        return layers[max(0, len(layers) - int(rule["last"])) :]
    first = rule["from"]
    if isinstance(first, int):
        if not 0 <= first < len(layers):
            raise ConfigError(f"unfreeze: no layer {first}; the base has 0 to {len(layers) - 1}")
        return layers[first:]
    names = [layer.name for layer in layers]
    if first not in names:
        known = ", ".join(layer.name for layer in layers if layer.weights)
        raise ConfigError(f"unfreeze: no layer {first!r}; layers with weights: {known}")
    return layers[names.index(first) :]

"""Which layers of a model are frozen, and where it can be cut above them.

A cut is valid where only one tensor is live: everything that the output needs goes through it. If
nothing below a cut learns, that part may run once per image instead of once per epoch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cryobase.stages.backbones.frameworks import load_keras
from cryobase.stages.errors import ConfigError


def unfreeze(
    base: Any, rule: str | Mapping[Any, Any], *, batch_normalization: bool = False
) -> list[str]:
    """Unfreeze some layers of a base; the others stay frozen.

    A frozen BatchNormalization runs in inference mode, so its moving statistics do not change.

    Args:
        base: the backbone, a `keras.Model`.
        rule: `none`, `all`, `{"from": a layer's name or number}` (that layer and all later ones,
            counted in `base.layers` from 0, the input) or `{"last": n}`.
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


@dataclass(frozen=True, eq=False)
class Cut:
    """A place to cut.

    Attributes:
        layer: the layer whose output is the only live tensor; "" means the model's input.
        tensor: the output of that layer, a `KerasTensor`.
        below: names of the layers that the output needs, including `layer`.
    """

    layer: str
    tensor: Any
    below: frozenset[str]

    @property
    def values(self) -> int:
        """Numbers per image."""
        size = 1
        for length in self.tensor.shape[1:]:
            size *= int(length)
        return size


def cuts(model: Any) -> list[Cut]:
    """Every valid cut of a functional model with one input and one output, from the input up.

    Only outputs of layers are offered. The names of bare operations change from build to build.
    """
    keras = load_keras()

    valid = []
    below: set[str] = set()
    live: dict[int, int] = {}  # tensor -> how many operations still need it
    uses = _uses(model)
    for operation, inputs, output in _operations(model):
        for tensor in inputs:
            live[id(tensor)] -= 1
            if not live[id(tensor)]:
                del live[id(tensor)]
        live[id(output)] = uses.get(id(output), 0)
        layer = isinstance(operation, keras.layers.Layer)
        if layer:
            below.add(operation.name)
        if layer and len(live) == 1 and output is not model.outputs[0]:
            name = "" if isinstance(operation, keras.layers.InputLayer) else operation.name
            valid.append(Cut(name, output, frozenset(below)))
    return valid


def deepest(model: Any, learning: set[str]) -> Cut:
    """The last cut with no learning layer below it; the input if the first layer learns."""
    return [cut for cut in cuts(model) if not cut.below & learning][-1]


def at(model: Any, layer: str, learning: set[str]) -> Cut:
    """The cut at a layer's output.

    Raises:
        ConfigError: the layer is not a valid cut, or a layer below it learns; the message lists
            the places.
    """
    known = {cut.layer: cut for cut in cuts(model) if cut.layer and not cut.below & learning}
    if layer not in known:
        raise ConfigError(
            f"trunk: {layer!r} is not a place to cut: either later layers need more than its"
            f" output, or a layer below it learns; places: {', '.join(known) or 'none'}"
        )
    return known[layer]


def split(model: Any, cut: Cut) -> tuple[Any, Any]:
    """The models below and above a cut, with the same layers as `model`.

    The model below is None if the cut is at the input.
    """
    keras = load_keras()

    if not cut.layer:
        return None, model
    lower = keras.Model(model.inputs[0], cut.tensor, name="trunk")
    upper = keras.Model(cut.tensor, model.outputs[0], name="upper")
    return lower, upper


def logits_model(model: Any) -> Any:
    """The same model up to its logits."""
    keras = load_keras()

    return keras.Model(model.inputs[0], model.get_layer("logits").output)


def learning_layers(whole: Any, base: Any) -> set[str]:
    """Names of the layers that learn: the layers of the head, and the unfrozen ones of the base."""
    below = {layer.name for layer in base.layers}
    learning = {layer.name for layer in whole.layers if layer.name not in below}
    return learning | {layer.name for layer in base.layers if layer.trainable_variables}


def place_of_cut(whole: Any, base: Any, layer: str | None) -> Cut:
    """Where to cut a model below everything that learns: the deepest place, or the layer named.

    Raises:
        ConfigError: the named layer is not a valid cut, or a layer below it learns.
    """
    learning = learning_layers(whole, base)
    return deepest(whole, learning) if layer is None else at(whole, layer, learning)


def _operations(model: Any) -> Iterator[tuple[Any, list[Any], Any]]:
    """Operation, inputs and output of every node; a node comes after all nodes that it needs."""
    keras = load_keras()

    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            inputs = [] if node.is_input else keras.tree.flatten(node.arguments.keras_tensors)
            yield node.operation, inputs, node.outputs[0]


def _uses(model: Any) -> dict[int, int]:
    uses: dict[int, int] = {}
    for _, inputs, _ in _operations(model):
        for tensor in inputs:
            uses[id(tensor)] = uses.get(id(tensor), 0) + 1
    return uses

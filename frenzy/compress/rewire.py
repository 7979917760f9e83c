"""A functional network with layers put in, taken out or read in place of others: its config edited, its weights kept."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras


@dataclasses.dataclass(frozen=True)
class Added:
    """A new layer, the names of the layers that it reads, and its weights if they are not to be fresh."""

    layer: keras.layers.Layer
    reads: tuple[str, ...]
    weights: tuple[np.ndarray, ...] = ()


def producers(layer: keras.layers.Layer) -> list[str]:
    """The names of the layers that a layer reads, in the order of its arguments."""
    return [parent.name for node in layer.inbound_nodes for parent in tf.nest.flatten(node.inbound_layers)]


def _redirected(value, renamed: Mapping[str, str]):
    """A config's references [layer, node, tensor, ...], wherever in it, to layers under their new names."""
    if isinstance(value, Mapping):
        return {key: _redirected(each, renamed) for key, each in value.items()}
    if not isinstance(value, list | tuple):
        return value
    if len(value) >= 3 and isinstance(value[0], str) and all(isinstance(number, int) for number in value[1:3]):
        return [renamed.get(value[0], value[0]), *(_redirected(each, renamed) for each in value[1:])]
    return [_redirected(each, renamed) for each in value]


def _entry(added: Added) -> dict:
    reads = [[name, 0, 0, {}] for name in added.reads]
    return {**keras.layers.serialize(added.layer), "name": added.layer.name, "inbound_nodes": [reads]}


def rewired(
    model: keras.Model, added: Sequence[Added], renamed: Mapping[str, str], dropped: Collection[str] = ()
) -> keras.Model:
    """A new network in which layers and outputs that read a key of `renamed` read its value instead; layers are called once."""
    config = model.get_config()
    kept = [entry for entry in config["layers"] if entry["name"] not in dropped]
    kept = [{**entry, "inbound_nodes": _redirected(entry["inbound_nodes"], renamed)} for entry in kept]
    outputs = _redirected(config["output_layers"], renamed)
    new = keras.Model.from_config({**config, "layers": [*kept, *map(_entry, added)], "output_layers": outputs})
    for layer in model.layers:
        if layer.name not in dropped:
            new.get_layer(layer.name).set_weights(layer.get_weights())
    for each in added:
        if each.weights:
            new.get_layer(each.layer.name).set_weights(each.weights)
    return new

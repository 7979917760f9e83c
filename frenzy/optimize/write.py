"""Rewritten graphs -> SavedModel: the signatures as they were, weights that several of them read stored once."""

import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from frenzy.optimize.network import Network, ref_of, text_of


class _Weights(tf.Module):
    """The variables of all signatures, by name."""

    def __init__(self) -> None:
        super().__init__(name="network")
        self.weights: dict[str, tf.Variable] = {}

    def add(self, name: str, value: np.ndarray, own: set[str]) -> tf.Variable:
        """The variable of this name and value that the signature does not use yet under `own`; a new one if there is none."""
        number, key = 0, name
        while key in self.weights:
            known = self.weights[key]
            if key not in own and known.dtype == value.dtype and np.array_equal(known.numpy(), value):
                break
            number += 1
            key = f"{name}_{number}"
        else:
            self.weights[key] = tf.Variable(value, trainable=False, name=key)
        own.add(key)
        return self.weights[key]


def _function(network: Network, weights: _Weights):
    """The concrete function of a signature: its inputs by their keys, its outputs by theirs."""
    own: set[str] = set()
    held = {holder: weights.add(network.names[holder], value, own) for holder, value in network.weights.items()}
    reads = {name: held[ref_of(node.input[0])[0]] for name, node in network.nodes.items() if node.op == "ReadVariableOp"}
    definition, keys = network.definition(), list(network.outputs)

    def serve(*inputs):
        values = {f"{each.node}:0": tensor for each, tensor in zip(network.inputs.values(), inputs, strict=True)}
        for read, variable in reads.items():
            with tf.name_scope(f"{variable.name.split(':')[0]}/"):
                values[f"{read}:0"] = tf.convert_to_tensor(variable)
        fetches = [text_of(network.outputs[key]) for key in keys]
        return dict(zip(keys, tf.graph_util.import_graph_def(definition, values, fetches, name=""), strict=True))

    specs = [tf.TensorSpec(each.shape, each.dtype, name=key) for key, each in network.inputs.items()]
    return tf.function(serve).get_concrete_function(*specs)


def write_networks(networks: Sequence[Network], folder: pathlib.Path) -> None:
    """Writes signatures into an empty folder."""
    weights = _Weights()
    signatures = {network.entry: _function(network, weights) for network in networks}
    tf.saved_model.save(weights, str(folder), signatures=signatures)

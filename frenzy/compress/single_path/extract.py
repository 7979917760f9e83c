"""Decisions -> the small network: plain layers, cut to what is live, with the weights that the masked network computes with.

Sums keep their channels aligned: a map of fewer channels is padded with zeros in front of an Add, so a trunk is as wide as the
widest of what was added to it so far.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tf_keras as keras

from frenzy.compress.single_path import cost
from frenzy.compress.single_path.decisions import Decision, Decisions, check_decisions, choices
from frenzy.compress.single_path.graph import CONVS, Network, Op, network_of
from frenzy.compress.tensors import CompressError, short_name
from frenzy.layers.channels import ZeroPadChannels


def kept_channels(network: Network, decisions: Decisions) -> dict[str, np.ndarray]:
    """Layer -> which channels of its output stay, as indices."""
    return {name: np.flatnonzero(live) for name, live in cost.live_vectors(network, choices(network, decisions)).items()}


def extract(
    model: keras.Model, decisions: Decisions, source: keras.Model | None = None, name: str | None = None
) -> keras.Model:
    """A plain network cut down by decisions -> the small one, of the weights of `source`: the network itself or its supernet.

    Without a source the weights are fresh. Layers keep their names. Raises CompressError.
    """
    network = network_of(model)
    check_decisions(network, decisions)
    kept = kept_channels(network, decisions)
    builder = _Builder(network, decisions, kept)
    small = builder.build(name or model.name)
    if source is not None:
        _copy_weights(network, decisions, kept, source, small)
    return small


class _Builder:
    """The small network's layers, one after the other."""

    def __init__(self, network: Network, decisions: Decisions, kept: Mapping[str, np.ndarray]):
        self.network, self.decisions, self.kept = network, decisions, kept
        self.maps: dict[str, keras.KerasTensor] = {}

    def build(self, name: str) -> keras.Model:
        inputs = None
        for op in self.network.ops.values():
            if op.kind == "source":
                inputs = self.maps[op.name] = keras.Input(op.shape, name=op.name)
            else:
                self.maps[op.name] = self._call(op, [self.maps[read] for read in op.reads])
        return keras.Model(inputs, self.maps[self.network.output], name=name)

    def _call(self, op: Op, maps: list):
        if op.kind in CONVS:
            return self._convolution(op, maps[0])
        if op.kind == "pad_channels":
            return maps[0]  # what it adds is zero; a sum behind it is padded anew
        if op.kind == "add":
            maps = [self._aligned(op, number, read, x) for number, (read, x) in enumerate(zip(op.reads, maps, strict=True))]
            return _again(op.layer)(maps)
        if op.kind == "dense":
            return _again(op.layer)(maps[0])
        return _again(op.layer, **self._target(op))(maps if op.kind == "concat" else maps[0])

    def _target(self, op: Op) -> dict:
        """A Reshape's new target: its last axis is the channels."""
        if isinstance(op.layer, keras.layers.Reshape):
            return {"target_shape": (*op.layer.target_shape[:-1], len(self.kept[op.name]))}
        return {}

    def _aligned(self, op: Op, number: int, read: str, x):
        """A summand, padded with zeros to the sum's channels."""
        own, whole = self.kept[read], self.kept[op.name]
        if not np.array_equal(own, whole[: len(own)]):
            raise CompressError(f"{self.network.name}: '{op.name}' adds channels that do not lie side by side")
        missing = len(whole) - len(own)
        if not missing:
            return x
        before = self.network.ops[read]
        name = read if before.kind == "pad_channels" else f"{op.name}_pad{number}"
        return ZeroPadChannels(missing, name=name)(x)

    def _convolution(self, op: Op, x):
        decision = self.decisions.get(op.name, Decision(op.kernel, op.channels))
        own: dict[str, Any] = {"kernel_size": decision.kernel} | ({"filters": decision.width} if op.kind == "conv" else {})
        symmetric = op.padding == "symmetric" or (op.name in self.decisions and op.padding == "same" and op.stride != (1, 1))
        if symmetric:
            own["padding"] = "valid"
            rows, columns = ((side - 1) // 2 for side in decision.kernel)
            if rows or columns:
                x = keras.layers.ZeroPadding2D((rows, columns), name=f"{op.name}_space")(x)
        return _again(op.layer, **own)(x)


def _again(layer: keras.layers.Layer, **changed) -> keras.layers.Layer:
    """A fresh layer of the same class, name and config but for what is changed."""
    return type(layer).from_config({**layer.get_config(), **changed})


def _middle(size: int, side: int) -> slice:
    return slice((size - side) // 2, (size - side) // 2 + side)


def _cut(op: Op, name: str, value: np.ndarray, decision: Decision | None, read: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The part of a weight that stays; `read` and `own` are the channels that stay of input and output."""
    if name.endswith("kernel"):
        if op.kind in CONVS and decision is not None:
            rows, columns = (_middle(*each) for each in zip(op.kernel, decision.kernel, strict=True))
            value = value[rows, columns]
        if op.kind == "depthwise":
            return value[:, :, read]
        return value[..., read, :][..., own]
    return value[..., own]


def _copy_weights(network: Network, decisions: Decisions, kept, source: keras.Model, small: keras.Model) -> None:
    for op in network.ops.values():
        if not op.layer.weights:
            continue
        values = {short_name(variable): variable.numpy() for variable in source.get_layer(op.name).weights}
        layer, decision = small.get_layer(op.name), decisions.get(op.name)
        names = [short_name(variable) for variable in layer.weights]
        layer.set_weights([_cut(op, each, values[each], decision, kept[op.reads[0]], kept[op.name]) for each in names])

"""A plain network -> its supernet: searched convolutions become superkernels, and what stands between them knows what is live.

A convolution that a batch normalisation alone reads leaves its mask to that: its channels keep their statistics while they are
cut off. All others mask their kernels. Layers keep their names and weights.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from frenzy.compress.single_path.cost import Choice
from frenzy.compress.single_path.decisions import Decision, Decisions, whole
from frenzy.compress.single_path.graph import CONVS, Network, Op, network_of
from frenzy.compress.tensors import CompressError, short_name
from frenzy.layers.indicators import Indicators, by_group, decide_alike, groups, nested, times, widths_of
from frenzy.layers.live import LiveJoin, LiveUnion, MaskedBatchNormalization, MaskedReLU
from frenzy.layers.superkernel import SuperKernelConv2D, SuperKernelDepthwiseConv2D

FRACTIONS = (0.1, 0.25, 0.5, 1.0)  # what Frenzy's search chose from


@dataclasses.dataclass(frozen=True)
class Supernet:
    """A network to train: its plain form, and the layers that decide, by name."""

    model: keras.Model
    plain: keras.Model
    network: Network
    layers: Mapping[str, Any]

    def choices(self) -> dict[str, Choice]:
        """What the indicators choose now, as float64 tensors that can be differentiated."""
        return choices_of(self.layers)

    def decisions(self) -> dict[str, Decision]:
        """What the indicators choose now, as numbers."""
        return {name: Decision(*layer.decision()) for name, layer in self.layers.items()}

    def margins(self) -> dict[str, Indicators]:
        """How far every norm stands above its threshold, as arrays."""
        return {name: Indicators(*(each.numpy() for each in layer.decide()[0])) for name, layer in self.layers.items()}

    def impose(self, decisions: Decisions) -> None:
        """Moves thresholds until the indicators choose this."""
        for name, decision in decisions.items():
            self.layers[name].impose(decision.kernel, decision.width)

    def set_dropout(self, rate: float) -> None:
        """The rate at which indicators are dropped in training."""
        for layer in self.layers.values():
            layer.drop_rate.assign(rate)

    def whole(self) -> dict[str, Decision]:
        """The decisions that cut nothing."""
        return whole(self.network, self.layers)

    def smallest(self) -> dict[str, Decision]:
        """The decisions that cut all that can be cut."""
        return {
            name: Decision((1, 1) if layer.search_kernel else layer.kernel_size, layer.widths[0])
            for name, layer in self.layers.items()
        }


def _alike(layers: Mapping[str, Any]) -> list[list[str]]:
    """Names of layers, those together that have the same options."""
    found: dict[tuple, list[str]] = {}
    for name, layer in layers.items():
        found.setdefault((layer.kernel_size, layer.search_kernel, layer.widths), []).append(name)
    return list(found.values())


def choices_of(layers: Mapping[str, Any]) -> dict[str, Choice]:
    """What the indicators of layers choose now, in a few operations for all that have the same options."""
    found: dict[str, Choice] = {}
    for names in _alike(layers):
        own = [layers[name] for name in names]
        given = [layer.given() for layer in own]
        sums = tf.stack([by_group(squares, layer.widths) for (squares, _), layer in zip(given, own, strict=True)])
        thresholds = Indicators(*map(tf.stack, zip(*(each for _, each in given), strict=True)))
        inputs = [layer.inputs for layer in own]
        _, indicators = decide_alike(sums, own[0].kernel_size, inputs, own[0].widths, thresholds)
        found.update(zip(names, _choices(own[0], indicators), strict=True))
    return {name: found[name] for name in layers}


def _choices(layer, indicators: Indicators) -> list[Choice]:
    """Of layers like this one whose indicators are (layers, n), as the cost takes them, in float64."""
    heights, columns = (
        {
            side: tf.unstack(share) if tf.is_tensor(share) else [share] * indicators.width.shape[0]
            for side, share in shares.items()
        }
        for shares in (_shares(own, side) for own, side in zip(indicators, layer.kernel_size, strict=False))
    )
    live = tf.unstack(times(groups(layer.widths), tf.cast(nested(indicators.width), tf.float64)))
    return [
        Choice(
            {side: each[at] for side, each in heights.items()},
            {side: each[at] for side, each in columns.items()},
            own,
            layer.widths,
        )
        for at, own in enumerate(live)
    ]


def _shares(indicators: tf.Tensor, whole: int) -> dict[int, Any]:
    """(layers, n) -> {side: how much it is chosen, (layers,)}: P_d - P_(d+1) of the nested products P."""
    if not indicators.shape[1]:
        return {whole: 1}
    reached = tf.unstack(tf.cast(nested(indicators), tf.float64), axis=1)
    return {1 + 2 * at: here - further for at, (here, further) in enumerate(itertools.pairwise([*reached, 0]))}


def choice_of(layer, indicators: Indicators) -> Choice:
    """A layer's indicators (n,) as the cost takes them, in float64."""
    return _choices(layer, Indicators(*(each[None] for each in indicators)))[0]


def searchable(network: Network, marked: str | None = None, fractions: Sequence[float] = FRACTIONS) -> list[str]:
    """The convolutions to search: those whose name the regular expression is found in; None: all that can be.

    Raises CompressError that names each marked layer that cannot be searched, and why.
    """
    names = [op.name for op in network.ops.values() if op.kind in CONVS]
    if marked is None:
        names = [name for name in names if network.why_not(name) is None]
    else:
        try:
            names = [op.name for op in network.ops.values() if op.kind != "source" and re.search(marked, op.name)]
        except re.error as e:
            raise CompressError(f"marked {marked!r} is no regular expression: {e}; 'block.*conv' is one") from None
    refused = {name: why for name in names if (why := network.why_not(name))}
    if refused:
        reasons = "; ".join(f"'{name}': {why}" for name, why in refused.items())
        raise CompressError(f"{network.name}: marked layers that cannot be searched: {reasons}")
    names = [name for name in names if _options(network, name, fractions) > 1]
    if not names:
        raise CompressError(f"{network.name}: nothing to search; mark convolutions by a pattern that their names match")
    return names


def _fractions(network: Network, name: str, fractions: Sequence[float]) -> tuple[float, ...]:
    return (1.0,) if network.why_not_width(name) else tuple(fractions)


def _options(network: Network, name: str, fractions: Sequence[float]) -> int:
    op = network.ops[name]
    sides = 1 if network.why_not_kernel(name) else (op.kernel[0] // 2 + 1) * (op.kernel[1] // 2 + 1)
    return sides * len(widths_of(op.channels, _fractions(network, name, fractions)))


@dataclasses.dataclass(frozen=True)
class _Map:
    """A map of the supernet, and the vector of what is live in it; None where its first `static` channels are, always.

    Channels behind the vector's end are zeros that were padded. lifted: those of the vector that are cut off are a little above 0.
    """

    x: Any
    live: Any
    static: int
    lifted: bool = False

    @property
    def channels(self) -> int:
        return self.x.shape[-1]

    @property
    def vector(self):
        """The vector, over all channels."""
        if self.live is None or self.live.shape[0] == self.channels:
            return self.live
        return LiveUnion(self.channels)(self.live)


def supernet(model: keras.Model, marked: str | None = None, fractions: Sequence[float] = FRACTIONS) -> Supernet:
    """The supernet of a plain functional network, with its weights; at first it cuts nothing.

    Convolutions that are strided and padded SAME pad symmetrically in it, as they will in the small network. Raises
    CompressError.
    """
    network = network_of(model)
    names = searchable(network, marked, fractions)
    maps: dict[str, _Map] = {}
    inputs = None
    for op in network.ops.values():
        if op.kind == "source":
            inputs = keras.Input(op.shape, name=op.name)
            maps[op.name] = _Map(inputs, None, op.channels)
        else:
            own = _fractions(network, op.name, fractions) if op.name in names else None
            maps[op.name] = _call(network, op, [maps[read] for read in op.reads], own)
    new = keras.Model(inputs, maps[network.output].x, name=f"{model.name}_supernet")
    for layer in model.layers:
        if layer.weights:
            _take_weights(new.get_layer(layer.name), layer)
    return Supernet(new, model, network, {name: new.get_layer(name) for name in names})


def _take_weights(new: keras.layers.Layer, old: keras.layers.Layer) -> None:
    values = {short_name(variable): variable for variable in old.weights}
    for variable in new.weights:
        if short_name(variable) in values:
            variable.assign(values[short_name(variable)])


def _call(network: Network, op: Op, reads: list[_Map], fractions: tuple[float, ...] | None) -> _Map:
    """The supernet's layer, or layers, in place of one."""
    first = reads[0]
    if op.kind in CONVS:
        return _fixed(op, first) if fractions is None else _superkernel(network, op, first, fractions)
    if op.kind == "dense":
        return _Map(_again(op.layer)(first.x), None, op.channels)
    if op.kind == "add":
        return _sum(op, reads)
    if op.kind == "concat":
        return _concatenation(op, reads)
    if op.kind == "flatten":
        return _flattened(op, first)
    if first.live is not None and (op.kind == "batch_norm" or (op.kind in ("relu", "relu6") and not first.lifted)):
        return _masked(network, op, first)
    if op.kind == "batch_norm" and op.layer.center and first.static < op.channels:
        raise CompressError(
            f"{network.name}: '{op.name}' shifts channels that are zero whatever is searched; cut them off first"
        )
    return dataclasses.replace(first, x=_again(op.layer)(first.x))


def _again(layer: keras.layers.Layer) -> keras.layers.Layer:
    return type(layer).from_config(layer.get_config())


def _fixed(op: Op, read: _Map) -> _Map:
    """A convolution that is not searched."""
    if op.kind == "depthwise" and op.bias and read.live is not None:
        raise CompressError(f"'{op.name}' has a bias and follows channels that are searched; mark it too")
    x = read.x
    if op.padding == "symmetric":
        rows, columns = ((side - 1) // 2 for side in op.kernel)
        x = keras.layers.ZeroPadding2D((rows, columns), name=f"{op.name}_space")(x)
    live = read.live if op.kind == "depthwise" else None
    return _Map(_again(op.layer)(x), live, read.static if op.kind == "depthwise" else op.channels)


def _leaves_mask(network: Network, name: str) -> bool:
    """Whether a batch normalisation alone reads this convolution."""
    reader = network.sole_reader(name)
    return network.ops[name].kind == "conv" and reader is not None and reader.kind == "batch_norm"


def _superkernel(network: Network, op: Op, read: _Map, fractions: tuple[float, ...]) -> _Map:
    layer = op.layer
    initial = layer.kernel_initializer if op.kind == "conv" else layer.depthwise_initializer
    config = {
        "kernel_size": op.kernel,
        "strides": op.stride[0],
        "padding": "valid" if op.padding == "valid" else "same",
        "use_bias": layer.use_bias,
        "search_kernel": network.why_not_kernel(op.name) is None,
        "kernel_initializer": keras.initializers.serialize(initial),
        "name": op.name,
        "dtype": layer.get_config()["dtype"],
    }
    if op.kind == "depthwise":
        x = read.x if read.live is None else [read.x, read.vector]
        return _Map(SuperKernelDepthwiseConv2D(**config)(x), read.vector, read.static)
    if len(widths_of(op.channels, fractions)) == 1:
        return _Map(SuperKernelConv2D(op.channels, **config)(read.x), None, op.channels)
    masks = not _leaves_mask(network, op.name)
    y, live = SuperKernelConv2D(op.channels, fractions=fractions, masks_output=masks, shares_live=True, **config)(read.x)
    return _Map(y, live, 0)


def _masked(network: Network, op: Op, read: _Map) -> _Map:
    """What must know which channels are live."""
    live, config = read.vector, op.layer.get_config()
    if op.kind == "batch_norm":
        layer = MaskedBatchNormalization.from_config({**config, "gates": _leaves_mask(network, op.reads[0]), "lifts": True})
    else:
        layer = MaskedReLU(6 if op.kind == "relu6" else None, name=op.name, dtype=config["dtype"])
    return _Map(layer([read.x, live]), live, 0, op.kind == "batch_norm")


def _sum(op: Op, reads: list[_Map]) -> _Map:
    x = _again(op.layer)([read.x for read in reads])
    static = max((read.static for read in reads if read.live is None), default=0)
    vectors = [read.live for read in reads if read.live is not None]
    if not vectors or static == op.channels:
        return _Map(x, None, static)
    lifted = any(read.lifted and read.live.shape[0] == op.channels for read in reads)
    return _Map(x, LiveUnion(op.channels, static, name=f"{op.name}_live")(vectors), 0, lifted)


def _concatenation(op: Op, reads: list[_Map]) -> _Map:
    x = _again(op.layer)([read.x for read in reads])
    if all(read.live is None for read in reads):
        return _Map(x, None, op.channels)
    static = [read.channels if read.live is None else 0 for read in reads]
    vectors = [read.vector for read in reads if read.live is not None]
    lifted = all(read.lifted for read in reads if read.live is not None)
    return _Map(x, LiveJoin(static, name=f"{op.name}_live")(vectors), 0, lifted)


def _flattened(op: Op, read: _Map) -> _Map:
    x = _again(op.layer)(read.x)
    if read.live is None:
        return _Map(x, None, op.channels)
    return _Map(x, LiveJoin(name=f"{op.name}_live")([read.vector] * (op.channels // read.channels)), 0, read.lifted)

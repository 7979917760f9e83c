"""What every kind of layer does with the channels of the last axis, and which axes of its weights go with them.

The table is by exact class: a layer that is not there reads and makes channels that stay as they are.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tf_keras as keras

from frenzy.layers.activations import HardSigmoid, HardSwish
from frenzy.layers.channels import ZeroPadChannels
from frenzy.layers.cond_conv import CondConv2D, CondDepthwiseConv2D, Routing
from frenzy.layers.depthwise import DepthwiseConv2D
from frenzy.layers.dropout import Dropout
from frenzy.layers.squeeze_excite import SqueezeExcite
from frenzy.layers.subsample import Subsample

IN, OUT = "in", "out"
Numbers = np.ndarray  # int64, one a channel


class Book(Protocol):
    """Where channels get their numbers."""

    def fresh(self, count: int, maker: str) -> Numbers: ...

    def tie(self, some: Numbers, others: Numbers) -> None: ...

    def lock(self, numbers: Numbers, reason: str) -> None: ...


@dataclasses.dataclass(frozen=True)
class Kind:
    """flow(book, layer, numbers of its inputs) -> numbers of its output; weight -> {axis: IN or OUT}; widths(layer, channels in,
    channels out) -> what of its config they decide; the kernel whose last axis makes channels; refuses(layer) -> why not, or None.
    """

    flow: Callable[[Book, Any, Sequence[Numbers]], Numbers]
    axes: Mapping[str, Mapping[int, str]] = dataclasses.field(default_factory=dict)
    widths: Callable[[Any, int, int], dict[str, Any]] = lambda layer, inputs, outputs: {}
    kernel: str | None = None
    refuses: Callable[[Any], str | None] = lambda layer: None


def _made(book, layer, inputs):
    return book.fresh(layer.output_shape[-1], layer.name)


def _same(book, layer, inputs):
    return inputs[0]


def _tied(book, layer, inputs):
    widest = max(inputs, key=len)
    for each in inputs:
        if len(each) == len(widest):
            book.tie(widest, each)
        else:
            book.lock(each, f"{layer.name} spreads it over {len(widest)} channels")
    return widest


def _joined(book, layer, inputs):
    return np.concatenate(inputs)


def _flattened(book, layer, inputs):
    """(h, w, c) -> element s c_all + c at place s: every channel comes once a place."""
    return np.tile(inputs[0], math.prod(layer.input_shape[1:-1]))


def _reshaped(book, layer, inputs):
    if layer.output_shape[-1] == len(inputs[0]):
        return inputs[0]
    return closed(book, layer, inputs, f"{layer.name} (Reshape) mixes channels with places")


def _padded(book, layer, inputs):
    return np.concatenate([inputs[0], book.fresh(layer.after, layer.name)])


def _multiplied(book, layer, inputs):
    return np.repeat(inputs[0], layer.depth_multiplier)


def _routing(book, layer, inputs):
    made = book.fresh(layer.output_shape[-1], layer.name)
    book.lock(made, f"{layer.name} has an output for every expert")
    return made


def closed(book, layer, inputs, reason: str | None = None) -> Numbers:
    """A layer of which nothing is known: what it reads and what it makes stays."""
    reason = reason or f"{layer.name} ({type(layer).__name__}) is no layer that channels can be followed through"
    for each in inputs:
        book.lock(each, reason)
    made = book.fresh(layer.output_shape[-1], layer.name)
    book.lock(made, reason)
    return made


def _last_axis(layer) -> str | None:
    axis, rank = layer.axis, len(layer.output_shape)
    axis = axis[0] if isinstance(axis, list | tuple) and len(axis) == 1 else axis
    return None if axis in (-1, rank - 1) else f"it works along axis {axis}"


def _plain_conv(layer) -> str | None:
    if layer.groups != 1:
        return f"it has {layer.groups} groups"
    return None if layer.data_format == "channels_last" else "its channels come first"


def _channels_last(layer) -> str | None:
    return None if layer.data_format == "channels_last" else "its channels come first"


def _shapes_alone(layer) -> str | None:
    return "its softmax sums over channels" if layer.activation is keras.activations.softmax else None


def _reshape_width(layer, inputs: int, outputs: int) -> dict[str, Any]:
    *front, last = layer.target_shape
    return {"target_shape": (*front, last if last == -1 else outputs)}


MERGE = Kind(_tied)
PASS = Kind(_same)
POOL = Kind(_same, refuses=_channels_last)
DEPTHWISE = Kind(_multiplied, {"depthwise_kernel": {2: IN}, "bias": {0: OUT}}, refuses=_channels_last)

KINDS: dict[type, Kind] = {
    CondConv2D: Kind(_made, {"kernel": {3: IN, 4: OUT}}, lambda layer, i, o: {"filters": o}, "kernel"),
    CondDepthwiseConv2D: Kind(_same, {"kernel": {3: IN}}),
    DepthwiseConv2D: DEPTHWISE,
    Dropout: PASS,
    HardSigmoid: PASS,
    HardSwish: PASS,
    Routing: Kind(_routing, {"kernel": {0: IN}}),
    SqueezeExcite: Kind(
        _same,
        {"reduce_kernel": {0: IN}, "expand_kernel": {1: IN}, "expand_bias": {0: IN}},
        lambda layer, i, o: {"hidden": int(layer.reduce_kernel.shape[-1])},
    ),
    Subsample: PASS,
    ZeroPadChannels: Kind(_padded, widths=lambda layer, i, o: {"after": o - i}),
    keras.layers.Activation: Kind(_same, refuses=_shapes_alone),
    keras.layers.Add: MERGE,
    keras.layers.Average: MERGE,
    keras.layers.AveragePooling2D: POOL,
    keras.layers.BatchNormalization: Kind(
        _same, {name: {0: IN} for name in ("beta", "gamma", "moving_mean", "moving_variance")}, refuses=_last_axis
    ),
    keras.layers.Concatenate: Kind(_joined, refuses=_last_axis),
    keras.layers.Conv2D: Kind(
        _made, {"kernel": {2: IN, 3: OUT}, "bias": {0: OUT}}, lambda layer, i, o: {"filters": o}, "kernel", _plain_conv
    ),
    keras.layers.Dense: Kind(_made, {"kernel": {0: IN, 1: OUT}, "bias": {0: OUT}}, lambda layer, i, o: {"units": o}, "kernel"),
    keras.layers.DepthwiseConv2D: DEPTHWISE,
    keras.layers.Dropout: PASS,
    keras.layers.Flatten: Kind(_flattened, refuses=_channels_last),
    keras.layers.GlobalAveragePooling2D: POOL,
    keras.layers.GlobalMaxPooling2D: POOL,
    keras.layers.LeakyReLU: PASS,
    keras.layers.MaxPooling2D: POOL,
    keras.layers.Maximum: MERGE,
    keras.layers.Multiply: MERGE,
    keras.layers.ReLU: PASS,
    keras.layers.Rescaling: PASS,
    keras.layers.Reshape: Kind(_reshaped, widths=_reshape_width),
    keras.layers.Subtract: MERGE,
    keras.layers.ZeroPadding2D: POOL,
}


def kind_of(layer: keras.layers.Layer) -> tuple[Kind | None, str | None]:
    """The layer's row of KINDS, or None and why it has none."""
    kind = KINDS.get(type(layer))
    if kind is None:
        return None, None
    if len(layer.inbound_nodes) != 1:
        return None, f"{layer.name} is called {len(layer.inbound_nodes)} times"
    reason = kind.refuses(layer)
    return (None, f"{layer.name} ({type(layer).__name__}) is left alone: {reason}") if reason else (kind, None)

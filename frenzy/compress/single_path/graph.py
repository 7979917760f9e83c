"""A network as the search sees it: its layers in order, who reads whom, and which convolutions can be searched.

Everything that depends on the number of live channels is followed from layer to layer; what cannot be followed is named.
"""

import dataclasses
import functools
from collections.abc import Mapping

import tf_keras as keras

from frenzy.compress.rewire import producers
from frenzy.compress.tensors import CompressError
from frenzy.layers import activations, channels, depthwise, dropout, subsample

Shape = tuple[int, int, int]

# what a layer is, by its exact type: a subclass may compute something else
KINDS: dict[type, str] = {
    activations.HardSwish: "hard_swish",
    channels.ZeroPadChannels: "pad_channels",
    depthwise.DepthwiseConv2D: "depthwise",
    dropout.Dropout: "copy",
    keras.layers.Add: "add",
    keras.layers.AveragePooling2D: "average_pool",
    keras.layers.BatchNormalization: "batch_norm",
    keras.layers.Concatenate: "concat",
    keras.layers.Conv2D: "conv",
    keras.layers.Dense: "dense",
    keras.layers.DepthwiseConv2D: "depthwise",
    keras.layers.Dropout: "copy",
    keras.layers.Flatten: "flatten",
    keras.layers.GlobalAveragePooling2D: "average_pool",
    keras.layers.InputLayer: "source",
    keras.layers.MaxPooling2D: "max_pool",
    keras.layers.ReLU: "relu",
    keras.layers.Reshape: "copy",
    keras.layers.ZeroPadding2D: "copy",
    subsample.Subsample: "copy",
}
CONVS = frozenset({"conv", "depthwise"})
LINEAR = CONVS | {"dense"}
OWN_CHANNELS = frozenset({"conv", "dense"})  # whose channels are their own, not those of what they read


@dataclasses.dataclass(frozen=True)
class Op:
    """One layer: what it reads, its output (height, width, channels) of one image, and its window.

    padding: "same", "valid" or "symmetric", (k - 1) / 2 on every side. `pad`: rows and columns that padding adds in all.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    shape: Shape
    layer: keras.layers.Layer
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: str = "same"
    pad: tuple[int, int] = (0, 0)

    @property
    def places(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def channels(self) -> int:
        return self.shape[2]

    @property
    def bias(self) -> bool:
        return self.kind in LINEAR and self.layer.use_bias


@dataclasses.dataclass(frozen=True)
class Fold:
    """Where a batch normalisation goes at inference: into the linear layer `into` before it, or (`after`) behind it.

    `biased`: that layer has a bias already.
    """

    into: str
    after: bool
    biased: bool


@dataclasses.dataclass(frozen=True)
class Network:
    """The layers of a plain tf_keras network, every one behind those that it reads."""

    name: str
    ops: Mapping[str, Op]
    output: str

    @functools.cached_property
    def readers(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = dict.fromkeys(self.ops, ())
        for op in self.ops.values():
            for name in op.reads:
                found[name] += (op.name,)
        return found

    def sole_reader(self, name: str) -> Op | None:
        readers = self.readers[name]
        return self.ops[readers[0]] if len(readers) == 1 and name != self.output else None

    @functools.cached_property
    def folds(self) -> dict[str, Fold]:
        """The batch normalisations that can disappear; the layer before is preferred."""
        norms = [op for op in self.ops.values() if op.kind == "batch_norm"]
        before = {op.name: op.reads[0] for op in norms if self._folds_back(op)}
        found = {name: Fold(into, False, self.ops[into].bias) for name, into in before.items()}
        for op in norms:
            behind = self.sole_reader(op.name)
            if op.name not in found and behind is not None and behind.kind in LINEAR:
                found[op.name] = Fold(behind.name, True, behind.bias or behind.name in before.values())
        return found

    def _folds_back(self, op: Op) -> bool:
        source = self.ops[op.reads[0]]
        return source.kind in LINEAR and self.sole_reader(source.name) == op

    def followers(self, name: str) -> list[Op]:
        """The layers that the channels of a convolution reach, itself left out: up to those that have channels of their own."""
        found: dict[str, Op] = {}
        waiting = list(self.readers[name])
        while waiting:
            op = self.ops[waiting.pop()]
            if op.name not in found:
                found[op.name] = op
                if op.kind not in OWN_CHANNELS:
                    waiting += self.readers[op.name]
        return list(found.values())

    def why_not_width(self, name: str) -> str | None:
        """Why the channels of a convolution cannot be searched; None where they can."""
        if self.ops[name].kind == "depthwise":
            return "it follows its producer's channels"
        followers = self.followers(name)
        kept = [op.name for op in followers if op.kind not in OWN_CHANNELS]
        if self.output in (name, *kept):
            return "its channels are the network's answers"
        joined = next((op for op in followers if op.kind == "concat"), None)
        added = next((op for op in followers if op.kind == "add"), None)
        if joined and added:
            return f"its channels are joined with others in '{joined.name}' and added to others in '{added.name}'"
        return None

    def why_not_kernel(self, name: str) -> str | None:
        """Why the kernel's sides cannot be searched; None where they can."""
        op = self.ops[name]
        if op.kernel == (1, 1):
            return "its kernel is 1x1"
        if any(side % 2 == 0 for side in op.kernel):
            return f"its kernel of {op.kernel[0]}x{op.kernel[1]} has an even side"
        if op.padding == "valid":
            return "it pads nothing, so a smaller kernel would have a larger output"
        return None

    def why_not(self, name: str) -> str | None:
        """Why a convolution cannot be searched at all; None where it can."""
        op = self.ops[name]
        if op.kind not in CONVS:
            return f"it is a {type(op.layer).__name__}, no convolution"
        if op.layer.activation is not keras.activations.linear:
            return "it has an activation of its own; give that a layer of its own"
        if op.kind == "conv" and op.layer.groups != 1:
            return f"it has {op.layer.groups} groups"
        if op.kind == "depthwise" and op.layer.depth_multiplier != 1:
            return f"it makes {op.layer.depth_multiplier} channels of one"
        if tuple(op.layer.dilation_rate) != (1, 1) or op.layer.data_format != "channels_last" or len(set(op.stride)) != 1:
            return "its dilation, its data format or its strides are none that the search knows"
        width, kernel = self.why_not_width(name), self.why_not_kernel(name)
        return f"{width}, and {kernel}" if width and kernel else None


def _shape(layer: keras.layers.Layer, name: str) -> Shape:
    shape = layer.output_shape[0] if isinstance(layer.output_shape, list) else layer.output_shape
    _, *sides, count = shape
    if None in (*sides, count) or len(sides) not in (0, 2):
        raise CompressError(f"{name}: the output of '{layer.name}' is {shape}; a network of images of one known size is needed")
    height, width = sides or (1, 1)
    return height, width, count


def _pad(size: int, kernel: int, stride: int, out: int) -> int:
    return max((out - 1) * stride + kernel - size, 0)


def _window(layer, kind: str, before: Shape, after: Shape) -> dict:
    """Kernel, stride and padding of a layer that has such."""
    if kind not in (*CONVS, "average_pool", "max_pool"):
        return {}
    if isinstance(layer, keras.layers.GlobalAveragePooling2D):
        return {"kernel": before[:2], "padding": "valid"}
    kernel, stride = tuple(layer.kernel_size if kind in CONVS else layer.pool_size), tuple(layer.strides)
    pad: tuple[int, ...] = (0, 0)
    if layer.padding == "same":
        pad = tuple(_pad(*each) for each in zip(before[:2], kernel, stride, after[:2], strict=True))
    return {"kernel": kernel, "stride": stride, "padding": layer.padding, "pad": pad}


def _kind(layer: keras.layers.Layer, name: str) -> str:
    kind = KINDS.get(type(layer))
    if kind == "relu":
        if layer.negative_slope or layer.threshold or layer.max_value not in (None, 6):
            kind = None
        elif layer.max_value is not None:
            kind = "relu6"
    if kind is None:
        known = ", ".join(sorted({each.__name__ for each in KINDS}))
        raise CompressError(f"{name}: the search cannot follow '{layer.name}', a {type(layer).__name__}; it knows {known}")
    return kind


def _without_padding_layers(network: Network) -> Network:
    """Zeros around a map that one convolution alone reads, (k - 1) / 2 on every side, become that convolution's padding."""
    ops = dict(network.ops)
    for op in network.ops.values():
        reader = network.sole_reader(op.name)
        if not isinstance(op.layer, keras.layers.ZeroPadding2D) or reader is None or reader.kind not in CONVS:
            continue
        half = tuple((side - 1) // 2 for side in reader.kernel)
        if reader.padding == "valid" and op.layer.padding == tuple((side, side) for side in half):
            ops[reader.name] = dataclasses.replace(reader, reads=op.reads, padding="symmetric")
            del ops[op.name]
    return dataclasses.replace(network, ops=ops)


def network_of(model: keras.Model) -> Network:
    """The layers of a functional tf_keras network. Raises CompressError for what the search cannot follow."""
    if not isinstance(model, keras.Model) or not model._is_graph_network or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise CompressError(f"{getattr(model, 'name', model)}: a functional network of one input and one output is needed")
    ops: dict[str, Op] = {}
    for layer in model.layers:
        if len(layer.inbound_nodes) != 1:
            raise CompressError(f"{model.name}: '{layer.name}' is called {len(layer.inbound_nodes)} times; once is needed")
        kind, reads, shape = _kind(layer, model.name), tuple(producers(layer)), _shape(layer, model.name)
        before = ops[reads[0]].shape if reads else shape
        ops[layer.name] = Op(layer.name, kind, reads, shape, layer, **_window(layer, kind, before, shape))
    return _without_padding_layers(Network(model.name, ops, model.outputs[0].node.layer.name))

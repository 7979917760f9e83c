"""A tf_keras network rebuilt in PyTorch from the same arrays, the way PyTorch code of it is written: a peer to measure against.

Every layer becomes the module that PyTorch has for it. Zeros around a picture become the next convolution's own padding, and
activations work in place where nothing else reads what they read. Pictures lie channels last. CondConv has no form here: its
convolutions, grouped by the image, are no module of PyTorch's. Needs PyTorch, which the project does not.
"""

import functools
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
import tf_keras as keras
import torch
from torch import nn

from frenzy.layers.activations import HardSigmoid, HardSwish
from frenzy.layers.channels import ZeroPadChannels
from frenzy.layers.dropout import Dropout
from frenzy.layers.squeeze_excite import SqueezeExcite
from frenzy.layers.subsample import Subsample
from frenzy.models.arrays import named_weights, ordered_layers

TOLERANCE = 1e-4  # of the largest logit, or of 1
CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
Arrays = Mapping[str, np.ndarray]  # a layer's own: {"kernel": array}


class PeerError(ValueError):
    """A network that cannot be rebuilt, or that computes something else there; the message names the layer."""


def layer_inputs(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer reads, in order. Raises PeerError for a layer that is used twice."""
    if len(layer.inbound_nodes) != 1:
        raise PeerError(f"'{layer.name}' is used {len(layer.inbound_nodes)} times; give every use a layer of its own")
    return [tensor.node.layer for tensor in layer.inbound_nodes[0].keras_inputs]


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros that TensorFlow's SAME puts before and behind: ceil(size / stride) windows, the odd one behind."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _is_taken(zeros: keras.layers.Layer) -> bool:
    """Whether these zeros are nothing but a convolution's padding."""
    readers = [node.layer for node in zeros.outbound_nodes]
    return len(readers) == 1 and isinstance(readers[0], CONVOLUTIONS) and readers[0].padding == "valid"


def _padding(layer: keras.layers.Layer) -> list[tuple[int, int]]:
    """(before, behind) of rows and of columns."""
    if layer.padding == "valid":
        (before,) = layer_inputs(layer)
        return (
            list(before.padding) if isinstance(before, keras.layers.ZeroPadding2D) and _is_taken(before) else [(0, 0), (0, 0)]
        )
    kernel = layer.pool_size if hasattr(layer, "pool_size") else layer.kernel_size
    return [same_padding(*each) for each in zip(layer.input_shape[1:3], kernel, layer.strides, strict=True)]


# modules that PyTorch lacks


class Sum(nn.Module):
    """Tensors of one shape -> their sum."""

    def forward(self, *inputs):
        return functools.reduce(torch.add, inputs)


class Join(nn.Module):
    """Tensors -> one, joined along the channels."""

    def forward(self, *inputs):
        return torch.cat(inputs, 1)


class Excite(nn.Module):
    """(n, c, h, w) -> the same: x gate(expand(relu(reduce(mean(x)))))."""

    def __init__(self, reduce: nn.Module, expand: nn.Module, gate: nn.Module):
        super().__init__()
        self.reduce, self.expand, self.gate = reduce, expand, gate

    def forward(self, x):
        means = nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
        gates = self.gate(self.expand(nn.functional.relu(self.reduce(means), inplace=True)))
        return x * gates[:, :, None, None]


class Lines(nn.Module):
    """(n, c, h, w) -> (n, h w c): the order in which tf_keras flattens; no copy where channels lie last."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


class PadChannels(nn.Module):
    """(n, c, h, w) -> (n, c + after, h, w): zeros behind the last channel."""

    def __init__(self, after: int):
        super().__init__()
        self.after = after

    def forward(self, x):
        return nn.functional.pad(x, (0, 0, 0, 0, 0, self.after))


class Scale(nn.Module):
    """x scale + offset, any shape."""

    def __init__(self, scale: float, offset: float):
        super().__init__()
        self.scale, self.offset = scale, offset

    def forward(self, x):
        return x * self.scale + self.offset if self.offset else x * self.scale


class Every(nn.Module):
    """(n, c, h, w) -> every stride-th row and column."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return x[:, :, :: self.stride, :: self.stride]


# a rule a layer: rule(layer, arrays, alone) -> module; alone: nothing else reads what it reads


def _set(parameter: torch.Tensor, value: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))


def _linear(kernel: np.ndarray, bias: np.ndarray | None) -> nn.Linear:
    module = nn.Linear(*kernel.shape, bias=bias is not None)
    _set(module.weight, kernel.T)
    if bias is not None:
        _set(module.bias, bias)
    return module


def _plain(layer: keras.layers.Layer) -> None:
    """Raises PeerError where a layer holds an activation of its own."""
    if layer.activation is not keras.activations.linear:
        raise PeerError(f"'{layer.name}' holds an activation; give that a layer of its own")


def _conv(layer, kernel: np.ndarray, bias: np.ndarray | None, groups: int) -> nn.Module:
    """kernel (o, i / groups, h, w)."""
    _plain(layer)
    (top, bottom), (left, right) = _padding(layer)
    even = (top, left) == (bottom, right)
    module = nn.Conv2d(
        kernel.shape[1] * groups, kernel.shape[0], kernel.shape[2:], layer.strides, (top, left) if even else 0,
        layer.dilation_rate, groups, bias is not None,
    )  # fmt: skip
    _set(module.weight, kernel)
    if bias is not None:
        _set(module.bias, bias)
    return module if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), module)


def _conv2d(layer, arrays: Arrays, alone: bool) -> nn.Module:
    return _conv(layer, arrays["kernel"].transpose(3, 2, 0, 1), arrays.get("bias"), layer.groups)


def _depthwise(layer, arrays: Arrays, alone: bool) -> nn.Module:
    height, width, channels, each = arrays["depthwise_kernel"].shape
    kernel = arrays["depthwise_kernel"].transpose(2, 3, 0, 1).reshape(channels * each, 1, height, width)
    return _conv(layer, kernel, arrays.get("bias"), channels)


def _dense(layer, arrays: Arrays, alone: bool) -> nn.Module:
    _plain(layer)
    return _linear(arrays["kernel"], arrays.get("bias"))


def _batch_norm(layer, arrays: Arrays, alone: bool) -> nn.Module:
    kind = nn.BatchNorm2d if len(layer.input_shape) == 4 else nn.BatchNorm1d
    channels, learned = layer.input_shape[-1], layer.center or layer.scale
    module = kind(channels, layer.epsilon, 1 - layer.momentum, affine=learned)
    _set(module.running_mean, arrays["moving_mean"])
    _set(module.running_var, arrays["moving_variance"])
    for parameter, name, there in ((module.weight, "gamma", layer.scale), (module.bias, "beta", layer.center)):
        if there:
            _set(parameter, arrays[name])
        elif learned:
            parameter.requires_grad_(False)
    return module


def _excite(layer, arrays: Arrays, alone: bool) -> nn.Module:
    reduce, expand = (_linear(arrays[f"{part}_kernel"], arrays.get(f"{part}_bias")) for part in ("reduce", "expand"))
    return Excite(reduce, expand, _activation(layer, layer.gate, False))


def _pool(kind: Callable[..., nn.Module], layer: keras.layers.Layer, **options) -> nn.Module:
    """PyTorch's ceil_mode adds the window that SAME gets by one more zero behind."""
    edges = _padding(layer)
    if any(behind - before > (1 if stride > 1 else 0) for (before, behind), stride in zip(edges, layer.strides, strict=True)):
        raise PeerError(f"'{layer.name}' pads {edges}; PyTorch pools with as many before as behind, or one less")
    padding = tuple(before for before, _ in edges)
    return kind(layer.pool_size, layer.strides, padding, ceil_mode=layer.padding == "same", **options)


def _average_pool(layer, arrays: Arrays, alone: bool) -> nn.Module:
    return _pool(nn.AvgPool2d, layer, count_include_pad=False)


def _max_pool(layer, arrays: Arrays, alone: bool) -> nn.Module:
    return _pool(nn.MaxPool2d, layer)


def _global_pool(layer, arrays: Arrays, alone: bool) -> nn.Module:
    pool = nn.AdaptiveAvgPool2d(1)
    return pool if layer.keepdims else nn.Sequential(pool, nn.Flatten())


def _join(layer, arrays: Arrays, alone: bool) -> nn.Module:
    if layer.axis not in (-1, len(layer.output_shape) - 1):
        raise PeerError(f"'{layer.name}' joins along axis {layer.axis}; only along the channels, -1, is known here")
    return Join()


def _relu(layer, arrays: Arrays, alone: bool) -> nn.Module:
    if layer.negative_slope or layer.threshold or layer.max_value not in (None, 6):
        raise PeerError(f"'{layer.name}' is a ReLU of slope, threshold or an unusual limit; ReLU and ReLU6 are known here")
    return nn.ReLU(inplace=alone) if layer.max_value is None else nn.ReLU6(inplace=alone)


ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "hard_sigmoid": nn.Hardsigmoid,
    "hard_swish": nn.Hardswish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "sigmoid": lambda inplace: nn.Sigmoid(),
}


def _activation(layer: keras.layers.Layer, name: str, alone: bool) -> nn.Module:
    if name not in ACTIVATIONS:
        raise PeerError(f"'{layer.name}' is the activation {name!r}; known here: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name](inplace=alone)


def _named_activation(layer, arrays: Arrays, alone: bool) -> nn.Module:
    name = layer.activation.__name__
    if name == "hard_sigmoid":
        raise PeerError(f"'{layer.name}' is tf_keras's own hard_sigmoid, which PyTorch lacks; HardSigmoid is known here")
    return _activation(layer, name, alone)


def _lines(layer, arrays: Arrays, alone: bool) -> nn.Module:
    if len(layer.output_shape) != 2:
        raise PeerError(f"'{layer.name}' makes {layer.output_shape}; only lines, (n, features), are known here")
    return Lines() if len(layer.input_shape) == 4 else nn.Identity()


def _zeros(layer, arrays: Arrays, alone: bool) -> nn.Module:
    (top, bottom), (left, right) = layer.padding
    return nn.Identity() if _is_taken(layer) else nn.ZeroPad2d((left, right, top, bottom))


Rule = Callable[[keras.layers.Layer, Arrays, bool], nn.Module]
RULES: dict[type, Rule] = {
    HardSigmoid: lambda layer, arrays, alone: nn.Hardsigmoid(inplace=alone),
    HardSwish: lambda layer, arrays, alone: nn.Hardswish(inplace=alone),
    SqueezeExcite: _excite,
    Subsample: lambda layer, arrays, alone: Every(layer.stride),
    ZeroPadChannels: lambda layer, arrays, alone: PadChannels(layer.after),
    Dropout: lambda layer, arrays, alone: nn.Dropout(layer.rate),
    keras.layers.Activation: _named_activation,
    keras.layers.Add: lambda layer, arrays, alone: Sum(),
    keras.layers.AveragePooling2D: _average_pool,
    keras.layers.BatchNormalization: _batch_norm,
    keras.layers.Concatenate: _join,
    keras.layers.Conv2D: _conv2d,
    keras.layers.Dense: _dense,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.Dropout: lambda layer, arrays, alone: nn.Dropout(layer.rate),
    keras.layers.Flatten: _lines,
    keras.layers.GlobalAveragePooling2D: _global_pool,
    keras.layers.MaxPooling2D: _max_pool,
    keras.layers.ReLU: _relu,
    keras.layers.Rescaling: lambda layer, arrays, alone: Scale(layer.scale, layer.offset),
    keras.layers.Reshape: _lines,
    keras.layers.ZeroPadding2D: _zeros,
}


def _module(layer: keras.layers.Layer, arrays: Arrays, alone: bool) -> nn.Module:
    rule = next((RULES[kind] for kind in type(layer).__mro__ if kind in RULES), None)
    if rule is None:
        known = ", ".join(sorted({kind.__name__ for kind in RULES}))
        raise PeerError(f"'{layer.name}' is a {type(layer).__name__}, which has no rule here; known: {known}")
    return rule(layer, arrays, alone)


def _arrays(model: keras.Model) -> dict[str, dict[str, np.ndarray]]:
    """{layer: {"kernel": array}}."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, variable in named_weights(model).items():
        layer, role = name.split("/", 1)
        found.setdefault(layer, {})[role] = variable.numpy()
    return found


class Network(nn.Module):
    """(n, 3, h, w) -> (n, classes) logits: the layers of a functional network in its order. Raises PeerError."""

    def __init__(self, model: keras.Model):
        super().__init__()
        order = [layer for layer in ordered_layers(model) if not isinstance(layer, keras.layers.InputLayer)]
        arrays = _arrays(model)
        reads = {layer.name: [each.name for each in layer_inputs(layer)] for layer in order}
        readers: dict[str, list[str]] = {}
        for name, inputs in reads.items():
            for each in inputs:
                readers.setdefault(each, []).append(name)
        self.first, self.last = model.inputs[0].node.layer.name, model.outputs[0].node.layer.name
        self.layers = nn.ModuleList()
        self.steps: list[tuple[str, list[str], list[str]]] = []  # a layer, what it reads, and what nothing reads thereafter
        for layer in order:
            inputs = reads[layer.name]
            alone = all(readers[each] == [layer.name] and each != self.first for each in inputs)
            self.layers.append(_module(layer, arrays.get(layer.name, {}), alone))
            self.steps.append((layer.name, inputs, [each for each in set(inputs) if readers[each][-1] == layer.name]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = {self.first: images}
        for module, (name, inputs, done) in zip(self.layers, self.steps, strict=True):
            values[name] = module(*[values[each] for each in inputs])
            for each in done:
                del values[each]
        return values[self.last]


def pictures(images: np.ndarray) -> torch.Tensor:
    """(n, h, w, c) -> (n, c, h, w), channels last in memory: no copy."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def convert(model: keras.Model, images: np.ndarray) -> Network:
    """The same network with the same arrays, channels last. Raises PeerError, and where the logits of `images`, normalised
    float32 (n, h, w, 3), differ by more than TOLERANCE."""
    network = Network(model).to(memory_format=torch.channels_last).eval()
    ours = model(tf.constant(images), training=False).numpy()
    with torch.no_grad():
        theirs = network(pictures(images)).numpy()
    if theirs.shape != ours.shape:
        raise PeerError(f"{model.name} makes {ours.shape}, and {theirs.shape} in PyTorch")
    apart, allowed = float(np.abs(theirs - ours).max()), TOLERANCE * max(1.0, float(np.abs(ours).max()))
    if not apart <= allowed:
        raise PeerError(f"{model.name}: logits in PyTorch are {apart:.2g} off; at most {allowed:.2g} is allowed")
    return network

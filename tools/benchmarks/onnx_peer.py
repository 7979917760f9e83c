"""A tf_keras network rebuilt as an ONNX graph from the same arrays, for ONNX Runtime: a peer to measure against.

Every layer becomes the nodes that ONNX has for it, channels first, opset 17; the runtime folds batch norms and fuses by itself.
Needs the package onnx, which the project does not.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import tf_keras as keras
from onnx import TensorProto, helper, numpy_helper

from frenzy.layers.activations import HardSigmoid, HardSwish
from frenzy.layers.channels import ZeroPadChannels
from frenzy.layers.dropout import Dropout
from frenzy.layers.squeeze_excite import SqueezeExcite
from frenzy.layers.subsample import Subsample
from frenzy.models.arrays import named_weights, ordered_layers

OPSET, IR_VERSION = 17, 8
Arrays = Mapping[str, np.ndarray]  # a layer's own: {"kernel": array}


class PeerError(ValueError):
    """A network that has no ONNX form here; the message names the layer."""


class Graph:
    """Nodes and stored arrays of an ONNX graph in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []

    def store(self, value: np.ndarray, kind: type = np.float32) -> str:
        """The name of a stored array."""
        name = f"array{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.ascontiguousarray(value, kind), name))
        return name

    def add(self, op: str, *inputs: str, **attributes) -> str:
        """The name of a new node's output."""
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name


# a rule a layer: rule(graph, layer, arrays, inputs) -> the name of its output; inputs name what it reads


def _linear(graph: Graph, layer) -> None:
    if layer.activation is not keras.activations.linear:
        raise PeerError(f"'{layer.name}' holds an activation; give that a layer of its own")


def _conv(graph: Graph, layer, kernel: np.ndarray, bias: np.ndarray | None, groups: int, x: str) -> str:
    """kernel (o, i / groups, h, w)."""
    _linear(graph, layer)
    more = [] if bias is None else [graph.store(bias)]
    padding = {"same": "SAME_UPPER", "valid": "VALID"}[layer.padding]
    return graph.add(
        "Conv", x, graph.store(kernel), *more, strides=list(layer.strides), dilations=list(layer.dilation_rate), group=groups,
        kernel_shape=list(kernel.shape[2:]), auto_pad=padding,
    )  # fmt: skip


def _conv2d(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
    return _conv(graph, layer, arrays["kernel"].transpose(3, 2, 0, 1), arrays.get("bias"), layer.groups, inputs[0])


def _depthwise(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
    height, width, channels, each = arrays["depthwise_kernel"].shape
    kernel = arrays["depthwise_kernel"].transpose(2, 3, 0, 1).reshape(channels * each, 1, height, width)
    return _conv(graph, layer, kernel, arrays.get("bias"), channels, inputs[0])


def _dense(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
    _linear(graph, layer)
    more = [graph.store(arrays["bias"])] if "bias" in arrays else []
    return graph.add("Gemm", *inputs, graph.store(arrays["kernel"]), *more)


def _batch_norm(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
    ones = np.ones_like(arrays["moving_mean"])
    values = (arrays.get("gamma", ones), arrays.get("beta", 0 * ones), arrays["moving_mean"], arrays["moving_variance"])
    return graph.add("BatchNormalization", *inputs, *map(graph.store, values), epsilon=layer.epsilon)


def _excite(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
    (x,) = inputs
    found = graph.add("GlobalAveragePool", x)
    for part in ("reduce", "expand"):
        kernel = arrays[f"{part}_kernel"].T[:, :, None, None]
        more = [graph.store(arrays[f"{part}_bias"])] if f"{part}_bias" in arrays else []
        found = graph.add("Conv", found, graph.store(kernel), *more)
        found = graph.add("Relu", found) if part == "reduce" else _activation(graph, layer, layer.gate, found)
    return graph.add("Mul", x, found)


def _pool(op: str, **options) -> "Rule":
    def rule(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
        padding = {"same": "SAME_UPPER", "valid": "VALID"}[layer.padding]
        sizes = {"kernel_shape": list(layer.pool_size), "strides": list(layer.strides)}
        return graph.add(op, *inputs, auto_pad=padding, **sizes, **options)

    return rule


def _global_pool(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
    pooled = graph.add("GlobalAveragePool", *inputs)
    return pooled if layer.keepdims else graph.add("Flatten", pooled)


def _sum(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
    found = inputs[0]
    for each in inputs[1:]:
        found = graph.add("Add", found, each)
    return found


def _join(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
    if layer.axis not in (-1, len(layer.output_shape) - 1):
        raise PeerError(f"'{layer.name}' joins along axis {layer.axis}; only along the channels, -1, is known here")
    return graph.add("Concat", *inputs, axis=1)


def _clip(graph: Graph, x: str, most: float) -> str:
    return graph.add("Clip", x, graph.store(np.array(0.0)), graph.store(np.array(most)))


def _hard_sigmoid(graph: Graph, x: str) -> str:
    return graph.add("HardSigmoid", x, alpha=1 / 6, beta=0.5)


ACTIVATIONS: dict[str, Callable[[Graph, str], str]] = {
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda graph, x: graph.add("HardSwish", x),
    "relu": lambda graph, x: graph.add("Relu", x),
    "relu6": lambda graph, x: _clip(graph, x, 6.0),
    "sigmoid": lambda graph, x: graph.add("Sigmoid", x),
}


def _activation(graph: Graph, layer, name: str, x: str) -> str:
    if name not in ACTIVATIONS:
        raise PeerError(f"'{layer.name}' is the activation {name!r}; known here: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name](graph, x)


def _named_activation(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
    name = layer.activation.__name__
    if name == "hard_sigmoid":
        raise PeerError(f"'{layer.name}' is tf_keras's own hard_sigmoid, another function than ONNX's; use HardSigmoid")
    return _activation(graph, layer, name, inputs[0])


def _relu(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
    if layer.negative_slope or layer.threshold:
        raise PeerError(f"'{layer.name}' is a ReLU of slope or threshold; ReLU with or without a limit is known here")
    return graph.add("Relu", *inputs) if layer.max_value is None else _clip(graph, inputs[0], float(layer.max_value))


def _lines(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
    """tf_keras flattens (h, w, c)."""
    if len(layer.output_shape) != 2:
        raise PeerError(f"'{layer.name}' makes {layer.output_shape}; only lines, (n, features), are known here")
    last = graph.add("Transpose", *inputs, perm=[0, 2, 3, 1]) if len(layer.input_shape) == 4 else inputs[0]
    return graph.add("Flatten", last)


def _pads(graph: Graph, x: str, before: Sequence[int], behind: Sequence[int]) -> str:
    return graph.add("Pad", x, graph.store(np.array([*before, *behind]), np.int64))


def _zeros(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
    (top, bottom), (left, right) = layer.padding
    return _pads(graph, inputs[0], (0, 0, top, left), (0, 0, bottom, right))


def _more_channels(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
    return _pads(graph, inputs[0], (0, 0, 0, 0), (0, layer.after, 0, 0))


def _every(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
    values = ([0, 0], layer.input_shape[1:3], [2, 3], [layer.stride, layer.stride])
    return graph.add("Slice", *inputs, *(graph.store(np.array(value), np.int64) for value in values))


def _scale(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
    scaled = graph.add("Mul", *inputs, graph.store(np.array(layer.scale)))
    return graph.add("Add", scaled, graph.store(np.array(layer.offset)))


def _nothing(graph: Graph, layer, arrays: Arrays, inputs: Sequence[str]) -> str:
    return inputs[0]


Rule = Callable[[Graph, keras.layers.Layer, Arrays, Sequence[str]], str]
RULES: dict[type, Rule] = {
    HardSigmoid: lambda graph, layer, arrays, inputs: _hard_sigmoid(graph, inputs[0]),
    HardSwish: lambda graph, layer, arrays, inputs: graph.add("HardSwish", *inputs),
    SqueezeExcite: _excite,
    Subsample: _every,
    ZeroPadChannels: _more_channels,
    Dropout: _nothing,
    keras.layers.Activation: _named_activation,
    keras.layers.Add: _sum,
    keras.layers.AveragePooling2D: _pool("AveragePool", count_include_pad=0),
    keras.layers.BatchNormalization: _batch_norm,
    keras.layers.Concatenate: _join,
    keras.layers.Conv2D: _conv2d,
    keras.layers.Dense: _dense,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.Dropout: _nothing,
    keras.layers.Flatten: _lines,
    keras.layers.GlobalAveragePooling2D: _global_pool,
    keras.layers.MaxPooling2D: _pool("MaxPool"),
    keras.layers.ReLU: _relu,
    keras.layers.Rescaling: _scale,
    keras.layers.Reshape: _lines,
    keras.layers.ZeroPadding2D: _zeros,
}


def _rule(layer: keras.layers.Layer) -> Rule:
    found = next((RULES[kind] for kind in type(layer).__mro__ if kind in RULES), None)
    if found is None:
        known = ", ".join(sorted({kind.__name__ for kind in RULES}))
        raise PeerError(f"'{layer.name}' is a {type(layer).__name__}, which has no rule here; known: {known}")
    return found


def convert(model: keras.Model) -> bytes:
    """The content of an ONNX file: images float32 (n, c, h, w) -> logits (n, classes). Raises PeerError."""
    graph, outputs = Graph(), {}
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for name, variable in named_weights(model).items():
        layer, role = name.split("/", 1)
        arrays.setdefault(layer, {})[role] = variable.numpy()
    for layer in ordered_layers(model):
        if isinstance(layer, keras.layers.InputLayer):
            outputs[layer.name] = "images"
            continue
        if len(layer.inbound_nodes) != 1:
            raise PeerError(f"'{layer.name}' is used {len(layer.inbound_nodes)} times; give every use a layer of its own")
        inputs = [outputs[tensor.node.layer.name] for tensor in layer.inbound_nodes[0].keras_inputs]
        outputs[layer.name] = _rule(layer)(graph, layer, arrays.get(layer.name, {}), inputs)
    height, width, channels = model.input_shape[1:]
    taken = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", channels, height, width])
    last = outputs[model.outputs[0].node.layer.name]
    given = helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", model.output_shape[-1]])
    made = helper.make_graph(graph.nodes, "network", [taken], [given], graph.stored)
    file = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(file)
    return file.SerializeToString()

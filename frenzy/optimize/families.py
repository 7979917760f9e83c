"""Which nodes channels can be taken out of, and by which rule of channels.py; what is not listed keeps all of its channels."""

import numpy as np

from frenzy.accounting.graph import Graph, Node
from frenzy.accounting.live_channels import BATCH_NORMS, KEEPS_ZERO, MAKES_CONST
from frenzy.accounting.states import channels_last, width
from frenzy.optimize.linear import KERNEL
from frenzy.optimize.network import Network

POOLS = frozenset({"AvgPool", "MaxPool"})
REDUCTIONS = frozenset({"Max", "Mean", "Min", "Sum"})
EACH = (KEEPS_ZERO | MAKES_CONST | POOLS | {"Identity", "Snapshot", "StopGradient"}) - {"Cast"}
SUMS = frozenset({"Add", "AddV2", "Sub"})
VECTORS = SUMS | {"BiasAdd", "Maximum", "Minimum", "Mul", "RealDiv"}
DOTS = frozenset({"Conv2D", "DepthwiseConv2dNative", "MatMul"})

Family = tuple[str, str]  # (family, ""), or ("", why there is none)


def family_of(network: Network, graph: Graph, node: Node) -> Family:
    """concat, depthwise, dot, each, pad, product, sum or vector; else "" and the reason."""
    data = [ref for ref in node.inputs if graph.depends(ref)]
    ranks = [len(graph.shape(ref) or ()) for ref in (*data, (node.name, 0))]
    if not channels_last(node):
        return "", "its channels come first"
    if min(ranks) < 2 or (len(node.shapes) > 1 and node.op not in BATCH_NORMS):
        return "", "it has no axis of channels behind one of images"
    if node.attrs.get("T", "DT_FLOAT") != "DT_FLOAT":
        return "", f"it computes in {node.attrs['T']}"
    if node.op in EACH and len(node.inputs) == 1:
        return "each", ""
    if node.op in REDUCTIONS:
        return _reduction(graph, node)
    if node.op in BATCH_NORMS or (node.op in VECTORS and len(data) == 1):
        return _vector(network, graph, node)
    if node.op in SUMS | {"Mul"} and len(data) == 2:
        alike = ranks[0] == ranks[1] and width(graph, data[0]) == width(graph, data[1])
        return ("product" if node.op == "Mul" else "sum", "") if alike else ("", "its operands differ in shape")
    if node.op == "Pad":
        return ("pad", "") if graph.constant(node.inputs[1]) is not None else ("", "its pads are computed")
    if node.op == "ConcatV2":
        return _concat(graph, node)
    return _dot(network, graph, node)


def data_index(graph: Graph, node: Node) -> int:
    """Which input is the first that changes with the image."""
    return next(i for i, ref in enumerate(node.inputs) if graph.depends(ref))


def _reduction(graph: Graph, node: Node) -> Family:
    axes, rank = graph.constant(node.inputs[1]), len(graph.shape(node.inputs[0]) or ())
    if axes is None or rank - 1 in {int(axis) % rank for axis in np.ravel(axes)}:
        return "", "it reduces the channels"
    return "each", ""


def _vector(network: Network, graph: Graph, node: Node) -> Family:
    """Whether every constant beside the data is stored as it is read, by this node alone: one number, or one a channel."""
    data = data_index(graph, node)
    channels = width(graph, node.inputs[data])
    if node.attrs.get("is_training"):
        return "", "it takes its statistics from the batch"
    if graph.shape(node.inputs[data]) != node.shapes[0]:
        return "", "its constant makes the image larger"
    for ref in (*node.inputs[:data], *node.inputs[data + 1 :]):
        operand = network.operand(ref)
        if operand is None:
            return "", "its constants are computed"
        shape, size = operand.value.shape, operand.value.size
        if size != 1 and not (size == channels and shape[-1] == channels):
            return "", "its constant is not one value a channel"
        if size != 1 and not operand.literal and network.uses(operand.holder) > 1:
            return "", "its constants are read elsewhere too"
    return "vector", ""


def _concat(graph: Graph, node: Node) -> Family:
    axis, rank = graph.constant(node.inputs[-1]), len(node.shapes[0] or ())
    if axis is None or int(axis) % rank != rank - 1 or not all(graph.depends(ref) for ref in node.inputs[:-1]):
        return "", "it joins more than the channels of images"
    return "concat", ""


def _dot(network: Network, graph: Graph, node: Node) -> Family:
    """Convs and dense layers whose kernel can be sliced."""
    if node.op not in DOTS:
        return "", f"{node.op} has no rule here"
    kernel = network.operand(node.inputs[KERNEL]) if not graph.depends(node.inputs[KERNEL]) else None
    if kernel is None:
        return "", "its kernel is computed, not stored as it is read"
    if network.uses(kernel.holder) > 1:
        return "", "its kernel is read elsewhere too"
    if node.op == "DepthwiseConv2dNative":
        return "depthwise", ""
    if node.attrs.get("transpose_a") or (node.op == "Conv2D" and kernel.value.shape[2] != width(graph, node.inputs[0])):
        return "", "it is grouped or transposed"
    return "dot", ""

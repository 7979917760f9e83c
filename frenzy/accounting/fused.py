"""Nodes that a graph optimiser fused, taken apart again: they are counted as what they stand for."""

from collections.abc import Iterator, Sequence

from tensorflow.core.framework.node_def_pb2 import NodeDef

from frenzy.accounting.graph import Ref

LINEAR = {"_FusedConv2D": "Conv2D", "_FusedDepthwiseConv2dNative": "DepthwiseConv2dNative", "_FusedMatMul": "MatMul"}
ACTIVATIONS = frozenset({"Elu", "LeakyRelu", "Relu", "Relu6", "Sigmoid", "Tanh"})
ARGUMENTS = {"Add": 1, "BiasAdd": 1, "FusedBatchNorm": 4}  # inputs beside the data that a step takes
OWN_ATTRS = {
    "Conv2D": ("strides", "padding", "explicit_paddings", "data_format", "dilations"),
    "DepthwiseConv2dNative": ("strides", "padding", "explicit_paddings", "data_format", "dilations"),
    "MatMul": ("transpose_a", "transpose_b"),
    "FusedBatchNorm": ("epsilon", "data_format"),
    "FusedBatchNormV3": ("epsilon", "data_format", "is_training"),
    "BiasAdd": ("data_format",),
}


def _part(node: NodeDef, op: str, last: bool) -> NodeDef:
    """One step under the node's name, the last of them under exactly this name."""
    part = NodeDef(name=node.name if last else f"{node.name}/{op}", op=op)
    part.attr["T"].CopyFrom(node.attr["T"])
    for key in OWN_ATTRS.get(op, ()):
        if key in node.attr:
            part.attr[key].CopyFrom(node.attr[key])
    if op == "FusedBatchNorm":
        part.attr["is_training"].b = False
    if op == "FusedBatchNormV3":
        part.attr["U"].CopyFrom(node.attr["U"])
    if op == "LeakyRelu" and "leakyrelu_alpha" in node.attr:
        part.attr["alpha"].CopyFrom(node.attr["leakyrelu_alpha"])
    return part


def _steps(node: NodeDef) -> list[tuple[str, int]] | None:
    """(op, inputs that it takes beside the data) for every step of a fused node; None for one that is not known in full."""
    if node.op in LINEAR:
        names = [name.decode() for name in node.attr["fused_ops"].list.s]
        if not all(name in ARGUMENTS or name in ACTIVATIONS for name in names):
            return None
        return [(LINEAR[node.op], 1), *((name, ARGUMENTS.get(name, 0)) for name in names)]
    if node.op == "_FusedBatchNormEx":
        activation = node.attr["activation_mode"].s.decode()
        side = [("Add", 1)] if node.attr["num_side_inputs"].i else []
        after = [] if activation == "Identity" else [(activation, 0)]
        return [("FusedBatchNormV3", 4), *side, *after] if activation in ACTIVATIONS | {"Identity"} else None
    return None


def parts(node: NodeDef, inputs: Sequence[Ref]) -> Iterator[tuple[NodeDef, Sequence[Ref]]]:
    """(node, inputs) for every node that a fused one stands for, in order; a node that is not fused is its own only part.

    The first input of every part but the first is the part before it: a placeholder for it, the node's first input, is given.
    """
    steps = _steps(node)
    if not steps or sum(taken for _, taken in steps) + 1 > len(inputs):
        yield node, inputs
        return
    position = 1
    for number, (op, taken) in enumerate(steps):
        yield _part(node, op, number == len(steps) - 1), (inputs[0], *inputs[position : position + taken])
        position += taken

"""Which channels carry data: an abstract run of the graph over three states a channel, from the file's structure alone.

ZERO    known to be zero everywhere (padding, and whatever keeps zeros zero).
CONST   the same known-to-be-constant value at every position of every image: it folds into a later bias.
LIVE    everything else, including constants that differ from position to position (as a padded conv makes at borders).

A state vector runs along a tensor's last axis. What a rule does not understand becomes LIVE: counts are never too low.
"""

from collections.abc import Callable, Mapping

import numpy as np

from frenzy.accounting import moved_channels
from frenzy.accounting.graph import PASSES_ON, Graph, Node, Ref
from frenzy.accounting.states import (
    CONST,
    LIVE,
    ZERO,
    States,
    all_live,
    borders_matter,
    channels_last,
    of_constant,
    read_by_conv,
    spread,
    width,
)

__all__ = [
    "BATCH_NORMS",
    "CONST",
    "LIVE",
    "ZERO",
    "States",
    "all_live",
    "borders_matter",
    "channels_last",
    "live_channels",
    "read_by_conv",
]

# f(0) = 0: zeros stay zeros.
KEEPS_ZERO = frozenset(
    "Abs Cast Ceil Elu Erf Expm1 Floor LeakyRelu Log1p Neg Relu Relu6 Rint Round Selu Sign Sin Sinh Softsign Sqrt Square Tan Tanh".split()
)  # fmt: skip
# Zeros become some other constant.
MAKES_CONST = frozenset("Cos Erfc Exp Inv Log LogicalNot Reciprocal Rsqrt Sigmoid Softplus".split())
# Functions of several values, whatever they give for zeros; so is any op of constants in its other operands.
COMBINES = frozenset(
    "ClipByValue Equal FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel FloorMod Greater "
    "GreaterEqual Less LessEqual LogicalAnd LogicalOr NotEqual Pow QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 "
    "QuantizeAndDequantizeV4".split()
)
PLACE_ONLY = frozenset(
    "AvgPool AvgPool3D ExpandDims Max MaxPool MaxPool3D Mean Min ResizeBicubic ResizeBilinear ResizeNearestNeighbor ReverseV2 "
    "Squeeze Sum".split()
)
ADDS = frozenset({"Add", "AddV2", "Sub", "AddN", "BiasAdd", "BiasAddV1"})
MULTIPLIES = frozenset({"Mul", "MulNoNan"})
CHOOSES = frozenset({"Maximum", "Minimum", "SquaredDifference"})
DIVIDES = frozenset({"RealDiv", "Div", "DivNoNan", "FloorDiv"})
BATCH_NORMS = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})
CONVS = frozenset({"Conv2D", "DepthwiseConv2dNative"})


class _Walk:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.states: dict[Ref, States] = {}

    def of(self, ref: Ref) -> States:
        if ref not in self.states:
            self.states[ref] = all_live(self.graph, ref) if self.graph.depends(ref) else of_constant(self.graph, ref)
        return self.states[ref]

    def run(self) -> Mapping[Ref, States]:
        for node in self.graph.nodes.values():
            if node.name in self.graph.data_nodes and node.name not in self.graph.inputs:
                self._visit(node)
        return self.states

    def _visit(self, node: Node) -> None:
        for index in range(len(node.shapes)):
            ref = (node.name, index)
            channels = width(self.graph, ref)
            states = self._transfer(node, ref) if channels is not None else None
            if states is None or len(states) != channels:
                states = all_live(self.graph, ref)
            self.states[ref] = states.astype(np.uint8)

    def _transfer(self, node: Node, ref: Ref) -> States | None:
        if not channels_last(node):
            return None
        if node.op in PASSES_ON:
            return self.of(node.inputs[ref[1] if node.op == "IdentityN" else 0])
        for ops, rule in RULES:
            if node.op in ops:
                return rule(self, node, ref)
        return None

    def operands(self, node: Node, ref: Ref) -> list[States]:
        channels = width(self.graph, ref) or 1
        return [spread(self.of(source), channels) for source in node.inputs]

    def keeps_zero(self, node: Node, ref: Ref) -> States:
        return self.of(node.inputs[0])

    def makes_const(self, node: Node, ref: Ref) -> States:
        return np.maximum(self.of(node.inputs[0]), CONST)

    def place_only(self, node: Node, ref: Ref) -> States | None:
        """Ops that mix positions within a channel (a padded average does not count its padding), if the last axis stays."""
        states = self.of(node.inputs[0])
        if node.op in ("Mean", "Sum", "Max", "Min", "ReverseV2"):
            axes = self.graph.constant(node.inputs[1])
            rank = len(self.graph.shape(node.inputs[0]) or ())
            if axes is None or rank - 1 in {int(axis) % rank for axis in np.ravel(axes)}:
                return None
        return states

    def add(self, node: Node, ref: Ref) -> States:
        return np.maximum.reduce(self.operands(node, ref))

    def multiply(self, node: Node, ref: Ref) -> States:
        operands = self.operands(node, ref)
        zero = np.minimum.reduce(operands) == ZERO
        return np.where(zero, ZERO, np.maximum.reduce(operands))

    def divide(self, node: Node, ref: Ref) -> States:
        over, under = self.operands(node, ref)
        return np.where(over == ZERO, ZERO, np.maximum(over, np.maximum(under, CONST)))

    def choose(self, node: Node, ref: Ref) -> States:
        """Zero only where every operand is; else at most as live as the liveliest."""
        return np.maximum.reduce(self.operands(node, ref))

    def select(self, node: Node, ref: Ref) -> States | None:
        """As choose; but the first version of the op takes rows by a vector over the batch, which is no vector of channels."""
        condition, *values = node.inputs
        if node.op == "Select" and self.graph.shape(condition) != self.graph.shape(values[0]):
            both = np.maximum.reduce([spread(self.of(value), width(self.graph, ref) or 1) for value in values])
            return np.where(both == ZERO, ZERO, LIVE)
        return self.choose(node, ref)

    def combine(self, node: Node, ref: Ref) -> States | None:
        """Constants of constants, unless a quantizer takes its range from the whole tensor."""
        if node.attrs.get("range_given") is False:
            return None
        return np.maximum(self.choose(node, ref), CONST)

    def batch_norm(self, node: Node, ref: Ref) -> States | None:
        return np.maximum(self.of(node.inputs[0]), CONST) if ref[1] == 0 and not node.attrs.get("is_training") else None

    def conv(self, node: Node, ref: Ref) -> States | None:
        kernel = self.graph.shape(node.inputs[1])
        states = self.of(node.inputs[0])
        if not kernel or None in kernel or self.graph.depends(node.inputs[1]):
            return None
        depthwise = node.op == "DepthwiseConv2dNative"
        group_in = 1 if depthwise else int(kernel[2] or 1)
        groups = len(states) // group_in
        best = states.reshape(groups, group_in).max(1)
        if borders_matter(node, self.graph):
            best = np.where(best == CONST, LIVE, best)
        outputs = int(kernel[3] or 1) if depthwise else int(kernel[3] or 1) // groups
        return np.repeat(best, outputs)

    def mat_mul(self, node: Node, ref: Ref) -> States | None:
        if self.graph.depends(node.inputs[1]) or node.attrs.get("transpose_a") or node.attrs.get("adj_x"):
            return None
        best = self.of(node.inputs[0]).max()
        if best == CONST and len(self.graph.shape(node.inputs[1]) or ()) != 2:
            best = LIVE  # a kernel for each place makes other constants at each
        return np.full(width(self.graph, ref) or 1, best, np.uint8)

    def transposed_conv(self, node: Node, ref: Ref) -> States:
        """Zero if every input is; constants differ at borders, and between outputs where strides leave gaps."""
        return np.full(width(self.graph, ref) or 1, ZERO if (self.of(node.inputs[2]) == ZERO).all() else LIVE, np.uint8)

    def volume_conv(self, node: Node, ref: Ref) -> States:
        return np.full(width(self.graph, ref) or 1, ZERO if (self.of(node.inputs[0]) == ZERO).all() else LIVE, np.uint8)

    def like(self, node: Node, ref: Ref) -> States:
        return np.full(width(self.graph, ref) or 1, ZERO if node.op == "ZerosLike" else CONST, np.uint8)


Rule = Callable[[_Walk, Node, Ref], "States | None"]

RULES: tuple[tuple[frozenset[str], Rule], ...] = (
    (ADDS, _Walk.add),
    (BATCH_NORMS, _Walk.batch_norm),
    (CHOOSES, _Walk.choose),
    (COMBINES, _Walk.combine),
    (CONVS, _Walk.conv),
    (DIVIDES, _Walk.divide),
    (KEEPS_ZERO, _Walk.keeps_zero),
    (MAKES_CONST, _Walk.makes_const),
    (MULTIPLIES, _Walk.multiply),
    (PLACE_ONLY, _Walk.place_only),
    (frozenset({"BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "MatMul"}), _Walk.mat_mul),
    (frozenset({"BatchToSpaceND", "BroadcastTo"}), moved_channels.stays),
    (frozenset({"Concat", "ConcatV2"}), moved_channels.concat),
    (frozenset({"Conv2DBackpropInput", "Conv3DBackpropInputV2"}), _Walk.transposed_conv),
    (frozenset({"Conv3D"}), _Walk.volume_conv),
    (frozenset({"DepthToSpace"}), moved_channels.depth_to_space),
    (frozenset({"GatherV2"}), moved_channels.gather),
    (frozenset({"LRN", "SpaceToBatchND"}), moved_channels.padded_with_zeros),
    (frozenset({"MirrorPad", "Pad", "PadV2"}), moved_channels.pad),
    (frozenset({"OnesLike", "ZerosLike"}), _Walk.like),
    (frozenset({"Pack"}), moved_channels.pack),
    (frozenset({"Reshape"}), moved_channels.reshape),
    (frozenset({"Select", "SelectV2"}), _Walk.select),
    (frozenset({"Slice"}), moved_channels.cut),
    (frozenset({"SpaceToDepth"}), moved_channels.space_to_depth),
    (frozenset({"Split", "SplitV"}), moved_channels.split),
    (frozenset({"StridedSlice"}), moved_channels.strided_slice),
    (frozenset({"Tile"}), moved_channels.tile),
    (frozenset({"Transpose"}), moved_channels.transpose),
    (frozenset({"Unpack"}), moved_channels.unpack),
)


def live_channels(graph: Graph) -> Callable[[Ref], States]:
    """The states of every tensor, by reference."""
    walk = _Walk(graph)
    walk.run()
    return walk.of

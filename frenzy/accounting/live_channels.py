"""Which channels carry data: an abstract run of the graph over three states a channel, from the file's structure alone.

ZERO    known to be zero everywhere (padding, and whatever keeps zeros zero).
CONST   the same known-to-be-constant value at every position of every image: it folds into a later bias.
LIVE    everything else, including constants that differ from position to position (as a padded conv makes at borders).

A state vector runs along a tensor's last axis. What a rule does not understand becomes LIVE: counts are never too low.
"""

from collections.abc import Callable, Mapping

import numpy as np

from frenzy.accounting.graph import PASSES_ON, Graph, Node, Ref

ZERO, CONST, LIVE = 0, 1, 2

States = np.ndarray  # uint8, one state a channel

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


def width(graph: Graph, ref: Ref) -> int | None:
    """The length of a tensor's last axis; 1 for a scalar, None where it is not known."""
    shape = graph.shape(ref)
    if shape is None:
        return None
    return shape[-1] if shape else 1


def all_live(graph: Graph, ref: Ref) -> States:
    return np.full(width(graph, ref) or 1, LIVE, np.uint8)


def _of_constant(graph: Graph, ref: Ref) -> States:
    """States of a tensor that no image changes: by its value if it is a literal, by its shape if it is a variable."""
    channels = width(graph, ref)
    shape = graph.shape(ref)
    if channels is None or shape is None:
        return all_live(graph, ref)
    value = graph.constant(ref)
    if value is not None and value.dtype.kind in "fiub" and value.size:
        rows = value.reshape(-1, channels)
        same = (rows == rows[0]).all(0)
        return np.where(same, np.where(rows[0] == 0, ZERO, CONST), LIVE).astype(np.uint8)
    uniform = all(dim == 1 for dim in shape[:-1])
    return np.full(channels, CONST if uniform else LIVE, np.uint8)


def _spread(states: States, channels: int) -> States:
    """Broadcasting along the last axis."""
    return np.broadcast_to(states, (channels,)) if len(states) in (1, channels) else np.full(channels, LIVE, np.uint8)


def _zero_or_live(rows: States) -> States:
    """One state for every column: zero where all rows are, else live."""
    return np.where((rows == ZERO).all(0), ZERO, LIVE).astype(np.uint8)


def borders_matter(node: Node, graph: Graph) -> bool:
    """Whether a conv pads: then a constant channel does not give a constant, because the padding is zero and not that constant."""
    padding = node.attrs.get("padding", "VALID")
    kernel = graph.shape(node.inputs[1])
    image, output = graph.shape(node.inputs[0]), node.shapes[0]
    if padding == "VALID":
        return False
    if padding == "EXPLICIT":
        return any(node.attrs.get("explicit_paddings", ()))
    if not kernel or not image or not output or None in (*kernel, *image, *output):
        return True
    for axis in (0, 1):
        dilation = (node.attrs.get("dilations") or [1, 1, 1, 1])[axis + 1]
        stride = node.attrs["strides"][axis + 1]
        reach = (int(kernel[axis] or 0) - 1) * dilation + 1
        if (int(output[axis + 1] or 0) - 1) * stride + reach > int(image[axis + 1] or 0):
            return True
    return False


def channels_last(node: Node) -> bool:
    return node.attrs.get("data_format", "NHWC") in ("NHWC", "NDHWC")


def read_by_conv(graph: Graph, node: Node, states: States) -> np.ndarray:
    """Which input channels a conv has to read: live ones, and constants where its padding makes them differ at the borders."""
    return states >= (CONST if borders_matter(node, graph) else LIVE)


class _Walk:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.states: dict[Ref, States] = {}

    def of(self, ref: Ref) -> States:
        if ref not in self.states:
            self.states[ref] = all_live(self.graph, ref) if self.graph.depends(ref) else _of_constant(self.graph, ref)
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
        return [_spread(self.of(source), channels) for source in node.inputs]

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
            both = np.maximum.reduce([_spread(self.of(value), width(self.graph, ref) or 1) for value in values])
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
        return np.full(width(self.graph, ref) or 1, self.of(node.inputs[0]).max(), np.uint8)

    def pad(self, node: Node, ref: Ref) -> States | None:
        """Zeros behind the channels are ZERO; a border around the image keeps zeros alone from becoming LIVE."""
        pads = self.graph.constant(node.inputs[1])
        if pads is None:
            return None
        filler = ZERO
        if node.op == "PadV2":
            value = self.graph.constant(node.inputs[2])
            filler = LIVE if value is None else CONST if np.any(value != 0) else ZERO
        states = self.of(node.inputs[0])
        if pads[:-1].any() and node.op != "MirrorPad":
            states = np.where((states == ZERO) & (filler == ZERO), ZERO, LIVE)
        if node.op == "MirrorPad":
            return states if not pads[-1].any() else None
        return np.pad(states, tuple(int(n) for n in pads[-1]), constant_values=filler)

    def concat(self, node: Node, ref: Ref) -> States | None:
        axis = self.graph.constant(node.inputs[-1] if node.op == "ConcatV2" else node.inputs[0])
        parts = node.inputs[:-1] if node.op == "ConcatV2" else node.inputs[1:]
        rank = len(self.graph.shape(parts[0]) or ())
        if axis is None or not rank:
            return None
        if int(axis) % rank == rank - 1:
            return np.concatenate([self.of(part) for part in parts])
        joined = np.stack([self.of(part) for part in parts])
        return np.where((joined == joined[0]).all(0) & (joined[0] == ZERO), ZERO, LIVE)

    def reshape(self, node: Node, ref: Ref) -> States | None:
        """The last axis kept, merged with others (flatten: the states repeat) or split (a channel of several is zero if all are)."""
        before, after = self.graph.shape(node.inputs[0]), self.graph.shape(ref)
        states = self.of(node.inputs[0])
        if not before or not after or None in before or after[-1] is None or not before[-1] or not after[-1]:
            return None
        if (shuffled := self._shuffled(node, ref)) is not None:
            return shuffled
        if after[-1] % before[-1] == 0:
            return np.tile(states, after[-1] // before[-1])
        return _zero_or_live(states.reshape(-1, after[-1])) if before[-1] % after[-1] == 0 else None

    def _shuffled(self, node: Node, ref: Ref) -> States | None:
        """Channels split into axes, these exchanged, and joined again: a channel shuffle moves the states as it moves channels."""
        swap = self.graph.nodes[self.graph.source(node.inputs[0])[0]]
        split = self.graph.nodes[self.graph.source(swap.inputs[0])[0]] if swap.op == "Transpose" else None
        if split is None or split.op != "Reshape":
            return None
        start, middle, end = (self.graph.shape(tensor) for tensor in (split.inputs[0], swap.inputs[0], ref))
        order = self.graph.constant(swap.inputs[1])
        if not start or not middle or not end or order is None or start[-1] is None or None in middle:
            return None
        kept = len(start) - 1
        if start[:kept] != middle[:kept] or end[-1] != start[-1] or list(order[:kept]) != list(range(kept)) or end != start:
            return None
        axes = tuple(int(axis) - kept for axis in order[kept:])
        return self.of(split.inputs[0]).reshape(tuple(dim or 0 for dim in middle[kept:])).transpose(axes).ravel()

    def transpose(self, node: Node, ref: Ref) -> States | None:
        order = self.graph.constant(node.inputs[1])
        states = self.of(node.inputs[0])
        return states if order is not None and order[-1] == len(order) - 1 else None

    def space_to_depth(self, node: Node, ref: Ref) -> States:
        """A block of b x b positions becomes b x b times the channels."""
        return np.tile(self.of(node.inputs[0]), int(node.attrs["block_size"]) ** 2)

    def depth_to_space(self, node: Node, ref: Ref) -> States:
        return _zero_or_live(self.of(node.inputs[0]).reshape(int(node.attrs["block_size"]) ** 2, -1))

    def padded_with_zeros(self, node: Node, ref: Ref) -> States:
        """Constants are joined by zeros at borders, or by their neighbours: they are no constants then."""
        return _zero_or_live(self.of(node.inputs[0])[None])

    def stays(self, node: Node, ref: Ref) -> States:
        """Positions leave or repeat; channels stay, or one becomes all."""
        return _spread(self.of(node.inputs[0]), width(self.graph, ref) or 1)

    def tile(self, node: Node, ref: Ref) -> States | None:
        times = self.graph.constant(node.inputs[1])
        return np.tile(self.of(node.inputs[0]), int(times[-1])) if times is not None and times.size else None

    def gather(self, node: Node, ref: Ref) -> States | None:
        """Channels by constant indices, or other positions by any."""
        axis, indices = self.graph.constant(node.inputs[2]), self.graph.constant(node.inputs[1])
        rank, states = len(self.graph.shape(node.inputs[0]) or ()), self.of(node.inputs[0])
        if axis is None or indices is None or not rank or node.attrs.get("batch_dims"):
            return None
        if int(axis) % rank != rank - 1:
            return states
        return states[indices] if indices.ndim == 1 else None

    def unpack(self, node: Node, ref: Ref) -> States | None:
        rank = len(self.graph.shape(node.inputs[0]) or ())
        return self.of(node.inputs[0]) if rank and int(node.attrs.get("axis", 0)) % rank != rank - 1 else None

    def pack(self, node: Node, ref: Ref) -> States | None:
        """A new axis in front of the channels; a new last axis has the joined tensors as its channels."""
        rank = len(self.graph.shape(ref) or ())
        states = [self.of(source) for source in node.inputs]
        if rank < 2 or int(node.attrs.get("axis", 0)) % rank == rank - 1:
            return None
        return _zero_or_live(np.stack(states))

    def transposed_conv(self, node: Node, ref: Ref) -> States:
        """Zero if every input is; constants differ at borders, and between outputs where strides leave gaps."""
        return np.full(width(self.graph, ref) or 1, ZERO if (self.of(node.inputs[2]) == ZERO).all() else LIVE, np.uint8)

    def volume_conv(self, node: Node, ref: Ref) -> States:
        return np.full(width(self.graph, ref) or 1, ZERO if (self.of(node.inputs[0]) == ZERO).all() else LIVE, np.uint8)

    def like(self, node: Node, ref: Ref) -> States:
        return np.full(width(self.graph, ref) or 1, ZERO if node.op == "ZerosLike" else CONST, np.uint8)

    def slice(self, node: Node, ref: Ref) -> States | None:
        begin, size = (self.graph.constant(source) for source in node.inputs[1:3])
        if begin is None or size is None:
            return None
        states = self.of(node.inputs[0])
        start, count = int(begin[-1]), int(size[-1])
        return states[start:] if count < 0 else states[start : start + count]

    def strided_slice(self, node: Node, ref: Ref) -> States | None:
        """x[a:b, None, 0, ..., c:d:e]: what the last axis keeps; LIVE where the last axis is taken away or stands before a new one."""
        masks = {
            key: int(node.attrs.get(f"{key}_mask") or 0) for key in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
        }
        source = self.graph.shape(node.inputs[0])
        begin, end, step = (self.graph.constant(bound) for bound in node.inputs[1:4])
        if not source or begin is None or end is None or step is None:
            return None
        consuming = [i for i in range(len(begin)) if not masks["new_axis"] >> i & 1 or masks["ellipsis"] >> i & 1]
        states = self.of(node.inputs[0])
        if not masks["ellipsis"] and len(consuming) < len(source):
            return states
        last = consuming[-1]
        if last != len(begin) - 1 or masks["shrink_axis"] >> last & 1:
            return None
        if masks["ellipsis"] >> last & 1:
            return states
        low = None if masks["begin"] >> last & 1 else int(begin[last])
        high = None if masks["end"] >> last & 1 else int(end[last])
        return states[slice(low, high, int(step[last]))]

    def split(self, node: Node, ref: Ref) -> States | None:
        axis = self.graph.constant(node.inputs[2] if node.op == "SplitV" else node.inputs[0])
        source = node.inputs[0] if node.op == "SplitV" else node.inputs[1]
        rank = len(self.graph.shape(source) or ())
        if axis is None or not rank:
            return None
        states = self.of(source)
        if int(axis) % rank != rank - 1:
            return states
        sizes = [width(self.graph, (node.name, i)) or 0 for i in range(len(node.shapes))]
        start = sum(sizes[: ref[1]])
        return states[start : start + sizes[ref[1]]]


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
    (frozenset({"Concat", "ConcatV2"}), _Walk.concat),
    (frozenset({"BatchMatMul", "BatchMatMulV2", "MatMul"}), _Walk.mat_mul),
    (frozenset({"MirrorPad", "Pad", "PadV2"}), _Walk.pad),
    (frozenset({"Reshape"}), _Walk.reshape),
    (frozenset({"Slice"}), _Walk.slice),
    (frozenset({"Split", "SplitV"}), _Walk.split),
    (frozenset({"StridedSlice"}), _Walk.strided_slice),
    (frozenset({"Transpose"}), _Walk.transpose),
    (frozenset({"BatchToSpaceND", "BroadcastTo"}), _Walk.stays),
    (frozenset({"Conv2DBackpropInput", "Conv3DBackpropInputV2"}), _Walk.transposed_conv),
    (frozenset({"Conv3D"}), _Walk.volume_conv),
    (frozenset({"DepthToSpace"}), _Walk.depth_to_space),
    (frozenset({"GatherV2"}), _Walk.gather),
    (frozenset({"LRN", "SpaceToBatchND"}), _Walk.padded_with_zeros),
    (frozenset({"OnesLike", "ZerosLike"}), _Walk.like),
    (frozenset({"Pack"}), _Walk.pack),
    (frozenset({"Select", "SelectV2"}), _Walk.select),
    (frozenset({"SpaceToDepth"}), _Walk.space_to_depth),
    (frozenset({"Tile"}), _Walk.tile),
    (frozenset({"Unpack"}), _Walk.unpack),
)


def live_channels(graph: Graph) -> Callable[[Ref], States]:
    """The states of every tensor, by reference."""
    walk = _Walk(graph)
    walk.run()
    return walk.of

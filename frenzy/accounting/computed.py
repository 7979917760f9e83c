"""The values that inference reads where a file computes them from what it stores: codes that are unpacked, scaled, looked up.

Nothing of a network is run but this arithmetic between constants, by TensorFlow's own kernels, and of it only the ops named here.
"""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from frenzy.accounting.graph import VARIABLES, Node, Ref

PURE = frozenset(
    "Abs Add AddN AddV2 All Any ArgMax ArgMin BiasAdd Bitcast BitwiseAnd BitwiseOr BitwiseXor BroadcastTo Cast Ceil ClipByValue "
    "Concat ConcatV2 Const Cumsum DepthToSpace Dequantize Div DivNoNan Einsum EnsureShape Equal Exp ExpandDims "
    "FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel Fill Floor FloorDiv FloorMod Gather "
    "GatherNd GatherV2 Greater GreaterEqual Identity IdentityN Invert LeftShift Less LessEqual Log LogicalAnd LogicalNot "
    "LogicalOr MatMul Max Maximum Mean Min Minimum Mod Mul MulNoNan Neg NotEqual OneHot OnesLike Pack Pad PadV2 Pow "
    "PreventGradient Prod QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeV2 Range Rank "
    "RealDiv Reciprocal Relu Relu6 Reshape ReverseV2 RightShift Rint Roll Round Rsqrt ScatterNd Select SelectV2 "
    "Shape ShapeN Sigmoid Sign Size Slice Snapshot SparseToDense Split SplitV Sqrt Square SquaredDifference Squeeze "
    "StopGradient StridedSlice Sub Sum Tanh Tile Transpose TruncateDiv TruncateMod UnravelIndex Unpack Where ZerosLike".split()
)


GATHERS = frozenset({"ResourceGather"})  # a look-up in a variable, without a node that reads it
READS = GATHERS | {"ReadVariableOp"}


def _reads(nodes: Mapping[str, Node], ref: Ref) -> dict[str, str] | None:
    """The nodes that read a variable on the way to a tensor, and the node that holds it; None if an op on the way is not pure."""
    found: dict[str, str] = {}
    seen, waiting = {ref[0]}, [ref[0]]
    while waiting:
        node = nodes[waiting.pop()]
        sources = [name for name, _ in node.inputs]
        if node.op in READS:
            holder = nodes[sources[0]]
            while holder.op == "Identity":
                holder = nodes[holder.inputs[0][0]]
            if holder.op not in VARIABLES or node.attrs.get("batch_dims"):
                return None
            found[node.name] = holder.name
        elif node.op not in PURE:
            return None
        else:
            waiting += [name for name in sources if name not in seen]
            seen.update(sources)
    return found


def computer(
    imported: Callable[[], tf.Graph], nodes: Mapping[str, Node]
) -> Callable[[Ref, Mapping[str, np.ndarray]], np.ndarray | None]:
    """The function computed(ref, values): a constant tensor's value, None where an op is not pure or a value is missing.

    `imported` makes the graph, when it is first needed; `values` are the variables', by the node that holds them.
    """
    sessions: list[tf.compat.v1.Session] = []

    def computed(ref: Ref, values: Mapping[str, np.ndarray]) -> np.ndarray | None:
        reads = _reads(nodes, ref)
        if reads is None or not set(reads.values()) <= set(values):
            return None
        feed = {}
        for reader, holder in reads.items():
            value = values[holder]
            if nodes[reader].op in GATHERS:
                rows = computed(nodes[reader].inputs[1], values)
                if rows is None or (rows.size and not 0 <= rows.min() <= rows.max() < len(value)):
                    return None
                value = value[rows]
            feed[f"{reader}:0"] = value
        if not sessions:
            sessions.append(tf.compat.v1.Session(graph=imported()))
        try:
            return np.asarray(sessions[0].run(f"{ref[0]}:{ref[1]}", feed))
        except (tf.errors.OpError, TypeError, ValueError):
            return None

    return computed

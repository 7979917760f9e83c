"""How wide the numbers are that flow through a graph: by quantizers where there are any, else by their types.

A quantizer of b bits puts a map on a grid of 2^b values. What moves values, chooses among them or cuts them off keeps them on
it; what computes gives numbers of its type again, until the next quantizer.
"""

import dataclasses
from collections.abc import Callable, Iterable

from frenzy.accounting.graph import PASSES_ON, Graph, Node, Ref

DEFAULT_BITS = 8  # of a quantizer that does not say


@dataclasses.dataclass(frozen=True, order=True)
class Width:
    """Bits, and whether the number is a floating one; a number on a quantizer's grid is a whole one."""

    bits: int
    real: bool = True


FLOAT = Width(32)
KEEPS = PASSES_ON | frozenset(
    "Abs BatchToSpaceND BroadcastTo CheckNumerics ClipByValue Concat ConcatV2 DepthToSpace ExpandDims ExtractImagePatches Gather "
    "GatherNd GatherV2 Max MaxPool MaxPool3D MaxPoolWithArgmax Maximum Min Minimum MirrorPad Neg Pack Pad PadV2 Relu Relu6 Reshape "
    "ResizeNearestNeighbor ReverseV2 Roll Slice SpaceToBatchND SpaceToDepth Split SplitV Squeeze StridedSlice Tile TopKV2 "
    "Transpose Unpack".split()
)
DECIDES = frozenset(
    "All Any Equal Greater GreaterEqual Less LessEqual LogicalAnd LogicalNot LogicalOr NotEqual".split()
)  # one bit, whatever they look at
JOINS = frozenset({"Concat", "ConcatV2", "Pack"})


def is_quantizer(node: Node) -> bool:
    return node.op.startswith(("FakeQuant", "QuantizeAndDequantize"))


def quantizer_bits(graph: Graph, node: Node) -> int:
    """What a quantizer says: an attribute, or the fourth input of a QuantizeAndDequantizeV3."""
    bits = node.attrs.get("num_bits")
    if bits is None and len(node.inputs) > 3 and (given := graph.constant(node.inputs[3])) is not None:
        bits = int(given)
    return int(bits or DEFAULT_BITS)


def quantizer_ranges(graph: Graph, node: Node) -> int:
    """The constants that a quantizer's range takes: two, or two a channel."""
    if node.op == "FakeQuantWithMinMaxVarsPerChannel" or node.attrs.get("axis", -1) >= 0:
        shape = graph.shape((node.name, 0)) or (1,)
        return 2 * (shape[int(node.attrs.get("axis", -1))] or 1)
    return 2


def widest(widths: Iterable[Width]) -> Width:
    """The widest of several: of as many bits as any, floating if one is."""
    found = tuple(widths)
    return Width(max((w.bits for w in found), default=0), any(w.real for w in found))


def map_widths(graph: Graph) -> Callable[[Ref], Width]:
    """The width of every tensor, by reference."""
    found: dict[str, Width] = {}

    def of(ref: Ref) -> Width:
        node = graph.nodes[ref[0]]
        return found.get(ref[0]) or Width(node.bits, node.real)

    for node in graph.nodes.values():
        if node.name in graph.data_nodes:
            found[node.name] = _width(graph, node, of)
    return of


def _width(graph: Graph, node: Node, of: Callable[[Ref], Width]) -> Width:
    own = Width(node.bits, node.real)
    data = [of(ref) for ref in node.inputs if graph.depends(ref)]
    if is_quantizer(node):
        return Width(quantizer_bits(graph, node), False)
    if node.op in DECIDES:
        return Width(1, False)
    if node.op == "Sign":
        return Width(2, False)
    if node.op == "Cast":
        return min(data[0], own, key=lambda width: width.bits)
    if node.op not in KEEPS or not data:
        return own
    literals = [graph.constant(ref) for ref in node.inputs if not graph.depends(ref)]
    if node.op in JOINS and any(value is None or (value.dtype.kind == "f" and value.any()) for value in literals):
        return own  # what is joined on lies on no grid that is known, unless it is zero
    if node.op == "PadV2" and (literals[-1] is None or literals[-1].any()):
        return own
    return min(widest(data), own, key=lambda width: width.bits)

"""Batch normalisation that is written out: a scale and a shift by constants, as exporters leave it where they do not fuse it."""

import dataclasses
from collections.abc import Mapping

from frenzy.accounting.graph import PASSES_ON, Graph, Node, Ref

SHIFTS = frozenset({"Add", "AddV2", "BiasAdd", "Sub"})


@dataclasses.dataclass(frozen=True)
class Norm:
    """x * scale + shift for constants of one value a channel, in two nodes; `last` makes the output."""

    first: str
    last: str
    source: Ref
    scale: Ref
    shift: Ref


def sole_reader(graph: Graph, ref: Ref) -> str | None:
    """The one node that reads a tensor, seen through identities; None if there are several, or the tensor is an output."""
    while True:
        readers = graph.consumers.get(ref, ())
        if len(readers) != 1 or not readers[0]:
            return None
        if graph.nodes[readers[0]].op not in PASSES_ON:
            return readers[0]
        ref = (readers[0], 0)


def a_value_a_channel(graph: Graph, ref: Ref, channels: int) -> bool:
    """Whether a tensor is constant and of shape (channels,), or (1, ..., 1, channels)."""
    shape = graph.shape(ref) or ()
    return not graph.depends(ref) and shape[-1:] == (channels,) and all(dim == 1 for dim in shape[:-1])


def _by_channel(graph: Graph, node: Node) -> tuple[Ref, Ref] | None:
    """(what changes with the image, the constant) of a node that takes one of each and whose constant is one a channel."""
    shape = node.shapes[0] if node.shapes else None
    data = [ref for ref in node.inputs if graph.depends(ref)]
    constants = [ref for ref in node.inputs if not graph.depends(ref)]
    if not shape or not shape[-1] or len(data) != 1 or len(constants) != 1 or graph.shape(data[0]) != shape:
        return None
    if node.op == "Sub" and node.inputs[0] != data[0]:
        return None
    if node.attrs.get("data_format", "NHWC") != "NHWC":
        return None
    return (data[0], constants[0]) if a_value_a_channel(graph, constants[0], shape[-1]) else None


def unfused_norms(graph: Graph) -> Mapping[str, Norm]:
    """Every written-out normalisation, under the name of its first node and of its last.

    Exactly: a Mul of the data by a constant of one value a channel, read by nothing but an Add, AddV2, BiasAdd or Sub of a
    constant of one value a channel (data minus constant, not the reverse), identities aside. However the
    file computes the two - from scale, shift, mean, variance and epsilon, as tf.nn.batch_normalization does - inference needs
    two numbers a channel.
    """
    found: dict[str, Norm] = {}
    for node in graph.nodes.values():
        if node.op != "Mul" or node.name not in graph.data_nodes:
            continue
        scaled = _by_channel(graph, node)
        reader = sole_reader(graph, (node.name, 0)) if scaled else None
        if scaled is None or reader is None or graph.nodes[reader].op not in SHIFTS:
            continue
        shifted = _by_channel(graph, graph.nodes[reader])
        if shifted and graph.source(shifted[0]) == (node.name, 0):
            norm = Norm(node.name, reader, scaled[0], scaled[1], shifted[1])
            found[norm.first] = found[norm.last] = norm
    return found

"""Where batch normalisation disappears into a conv or dense layer beside it, and where it cannot."""

import dataclasses
from collections.abc import Mapping

from frenzy.accounting.graph import Graph, Node
from frenzy.accounting.live_channels import borders_matter
from frenzy.accounting.patterns import sole_reader
from frenzy.accounting.rules import Count, Facts

LINEAR = frozenset({"Conv2D", "Conv2DBackpropInput", "Conv3D", "DepthwiseConv2dNative", "Einsum", "MatMul"})
BIASES = frozenset({"BiasAdd", "Add", "AddV2"})


@dataclasses.dataclass(frozen=True)
class Folding:
    """For a BN: the linear node that it folds `into`, and whether that has a bias already. For a linear node: whether it has one.

    For a bias: whether it is a conv's (`behind_conv`) or a dense layer's. For a linear node: whether a BN stands behind it
    that could fold (`scaled`). `target`: the facts of the node folded into.
    `bias_elements` and `bias_channels` are those of the node folded into, where a BN goes into the conv *after* it.
    """

    into: str | None = None
    has_bias: bool = False
    bias_elements: Count | None = None
    bias_channels: int | None = None
    behind_conv: bool = False
    scaled: bool = False
    target: Facts | None = None


NOWHERE = Folding()


def _scalable(graph: Graph, node: Node, outputs: bool) -> bool:
    """Whether a linear node has a constant kernel that can take a factor for every output channel, or for every input channel."""
    if node.op not in LINEAR:
        return False
    if node.op != "Einsum":
        return not graph.depends(node.inputs[1])
    inputs, _, output = str(node.attrs["equation"]).replace(" ", "").partition("->")
    kernels = [text for text, ref in zip(inputs.split(","), node.inputs, strict=True) if not graph.depends(ref)]
    images = [text for text, ref in zip(inputs.split(","), node.inputs, strict=True) if graph.depends(ref)]
    if len(kernels) != 1 or len(images) != 1:
        return False
    channel = (output if outputs else images[0])[-1:]
    return bool(channel) and channel in kernels[0] and (outputs or channel not in output)


def _before(graph: Graph, facts: Mapping[str, Facts], name: str) -> tuple[str | None, bool]:
    """The linear node whose output this node alone reads, directly or behind a bias; and whether there is a bias."""
    reader = facts[name].begins or name
    data = [ref for ref in graph.nodes[reader].inputs if graph.depends(ref)]
    ref, biased = graph.source(data[0]), False
    while True:
        node = graph.nodes[ref[0]]
        if sole_reader(graph, ref) != reader:
            return None, False
        if node.name in facts and _scalable(graph, node, outputs=True):
            return node.name, biased
        if node.op not in BIASES or facts.get(node.name) is None or facts[node.name].kind != "bias":
            return None, False
        data = [source for source in node.inputs if graph.depends(source)]
        ref, reader, biased = graph.source(data[0]), node.name, True


def _after(graph: Graph, facts: Mapping[str, Facts], name: str) -> str | None:
    """The conv without padding, or dense layer, that alone reads this BN with no activation between."""
    reader = sole_reader(graph, (name, 0))
    node = graph.nodes[reader] if reader else None
    if node is None or node.name not in facts or node.op == "Conv2DBackpropInput" or not _scalable(graph, node, outputs=False):
        return None
    return node.name if node.op in ("Einsum", "MatMul") or not borders_matter(node, graph) else None


def _biased(graph: Graph, facts: Mapping[str, Facts], name: str) -> bool:
    reader = sole_reader(graph, (name, 0))
    return bool(reader and graph.nodes[reader].op in BIASES and reader in facts and facts[reader].kind == "bias")


def fold(graph: Graph, facts: Mapping[str, Facts]) -> dict[str, Folding]:
    """What becomes of every BN, and which linear nodes end with a bias. A BN prefers the conv before it."""
    found: dict[str, Folding] = {}
    biased = {name for name, f in facts.items() if f.kind == "dot" and _biased(graph, facts, name)}
    scaled: set[str] = set()
    norms = [name for name, f in facts.items() if f.kind == "batch_norm"]
    for name in norms:
        into, has_bias = _before(graph, facts, name)
        if into is not None:
            found[name] = Folding(into, has_bias or into in biased, target=facts[into])
            biased.add(into)
            scaled.add(into)
    for name in norms:
        into = _after(graph, facts, name) if name not in found else None
        if into is not None:
            target = facts[into]
            channels = target.live_out if target.live_out is not None else target.width
            found[name] = Folding(into, into in biased, target.elements, channels, target=target)
            biased.add(into)
    for name, f in facts.items():
        if f.kind == "dot":
            found[name] = Folding(has_bias=name in biased, scaled=name in scaled)
        elif f.kind == "bias":
            into, _ = _before(graph, facts, name)
            found[name] = Folding(into, behind_conv=into is not None and facts[into].kernel is not None)
    return found

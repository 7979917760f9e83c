"""The graph that is judged: flat, shaped, in topological order. No TensorFlow here; frenzy/accounting/shapes.py makes it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Ref = tuple[str, int]  # a tensor: the node that makes it, and which of its outputs
PartialShape = tuple[int | None, ...]

VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})
READS_SHAPE = frozenset({"Shape", "ShapeN", "Size", "Rank"})  # known once the shapes are, whatever the data
PASSES_ON = frozenset({"Identity", "IdentityN", "StopGradient", "PreventGradient", "Snapshot", "ReadVariableOp", "EnsureShape"})


class AccountingError(Exception):
    """A graph that cannot be read or counted; the message is one line: what, where, what is allowed, what to do next."""


@dataclasses.dataclass(frozen=True)
class Variable:
    """A stored tensor: its name, shape, bits an element, and its key in the checkpoint beside the graph (None: not known)."""

    name: str
    shape: tuple[int, ...]
    bits: int
    key: str | None = None


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation. `shapes` are its outputs', None where the rank is not known.

    `bits` is the width of its first output's type, `real` whether that is a floating one.
    """

    name: str
    op: str
    inputs: tuple[Ref, ...]
    attrs: Mapping[str, Any]
    shapes: tuple[PartialShape | None, ...]
    bits: int
    real: bool = True


@dataclasses.dataclass(frozen=True)
class Graph:
    """A network from its inputs to its outputs; nodes in topological order by name, variables by the node that holds them.

    `batch` images go through at once: every count of a data node is divided by it. `constant(ref)` is the value of a tensor
    that the graph file alone determines (literals, and shapes computed from shapes), else None; `computed(ref, values)` that
    of a constant tensor, given the values of the variables, by the nodes that hold them, that it is computed from.
    """

    folder: str
    entry: str
    nodes: Mapping[str, Node]
    inputs: tuple[str, ...]
    outputs: tuple[Ref, ...]
    batch: int
    variables: Mapping[str, Variable]
    constant: Callable[[Ref], np.ndarray | None]
    computed: Callable[[Ref, Mapping[str, np.ndarray]], np.ndarray | None]

    def shape(self, ref: Ref) -> PartialShape | None:
        shapes = self.nodes[ref[0]].shapes
        return shapes[ref[1]] if ref[1] < len(shapes) else None

    def image_shape(self, ref: Ref) -> PartialShape | None:
        """The shape for one image: a leading dimension that is the batch becomes 1."""
        shape = self.shape(ref)
        if shape and shape[0] == self.batch and self.depends(ref):
            return (1, *shape[1:])
        return shape

    def depends(self, ref: Ref) -> bool:
        """Whether the tensor changes with the images."""
        return ref[0] in self.data_nodes

    @functools.cached_property
    def data_nodes(self) -> frozenset[str]:
        """The nodes whose value depends on the inputs; all others are constants that a compiler folds away."""
        found = set(self.inputs)
        for node in self.nodes.values():
            if node.op not in READS_SHAPE and any(source in found for source, _ in node.inputs):
                found.add(node.name)
        return frozenset(found)

    @functools.cached_property
    def consumers(self) -> Mapping[Ref, tuple[str, ...]]:
        """For every tensor the nodes that read it; an output of the network is read by ''."""
        found: dict[Ref, list[str]] = {}
        for node in self.nodes.values():
            for ref in node.inputs:
                found.setdefault(ref, []).append(node.name)
        for ref in self.outputs:
            found.setdefault(ref, []).append("")
        return {ref: tuple(names) for ref, names in found.items()}

    def source(self, ref: Ref) -> Ref:
        """The tensor behind identities."""
        while (node := self.nodes[ref[0]]).op in PASSES_ON and node.inputs:
            ref = node.inputs[ref[1] if node.op == "IdentityN" else 0]
        return ref

    def roots(self, ref: Ref) -> tuple[str, ...]:
        """The variables and literals that a constant tensor is computed from, each once."""
        found: dict[str, None] = {}
        seen, waiting = {ref[0]}, [ref[0]]
        while waiting:
            node = self.nodes[waiting.pop()]
            if node.op in VARIABLES or node.op == "Const":
                found[node.name] = None
            for source, _ in node.inputs if node.op not in READS_SHAPE else ():
                if source not in seen:
                    seen.add(source)
                    waiting.append(source)
        return tuple(found)

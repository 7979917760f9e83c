"""What the weights of a node take: which stored tensors they come from, how wide these are, how many values are not zero."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from frenzy.accounting.graph import PASSES_ON, VARIABLES, Graph, Ref

SEE_THROUGH = PASSES_ON | {"Cast"}


@dataclasses.dataclass(frozen=True)
class Stored:
    """The part of a stored tensor that inference needs and no node before it has counted.

    `nonzero` of the `elements` are not zero, in `columns` of the outputs (the last axis of a kernel); None: values not known.
    """

    name: str
    elements: int
    bits: int
    nonzero: int | None = None
    columns: int | None = None


class Ledger:
    """Every stored tensor counts once, where it is first needed; `value(key)` gives a variable's value or None."""

    def __init__(self, graph: Graph, value: Callable[[str | None], np.ndarray | None]):
        self.graph, self.value = graph, value
        self.taken: dict[str, np.ndarray] = {}

    def take(self, ref: Ref, needed: np.ndarray | None = None) -> tuple[Stored, ...]:
        """What a constant operand is stored as. `needed` is a mask over the operand (all of it by default): channels that
        nobody reads are not counted. The tensor of the operand's own size comes first, then scales and codebooks."""
        shape = self.graph.shape(ref) or ()
        size = math.prod(dim or 0 for dim in shape)
        found = []
        for root in self.graph.roots(ref):
            stored = self._root(root, size, needed, self._direct(ref) == root)
            if stored is not None:
                found.append((stored, self._elements(root) == size))
        return tuple(stored for stored, main in sorted(found, key=lambda pair: not pair[1]))

    def _elements(self, root: str) -> int:
        return math.prod(self.graph.variables[root].shape if root in self.graph.variables else self._literal_shape(root))

    def _literal_shape(self, root: str) -> tuple[int, ...]:
        return tuple(dim or 0 for dim in self.graph.nodes[root].shapes[0] or ())

    def _direct(self, ref: Ref) -> str | None:
        """The variable or literal that the operand is, but for casts."""
        while (node := self.graph.nodes[ref[0]]).op in SEE_THROUGH and node.inputs:
            ref = node.inputs[0]
        return node.name if node.op in VARIABLES or node.op == "Const" else None

    def _root(self, root: str, size: int, needed: np.ndarray | None, direct: bool) -> Stored | None:
        node = self.graph.nodes[root]
        variable = self.graph.variables.get(root)
        if variable is None and (self._elements(root) < 2 or node.attrs.get("dtype") in ("DT_INT32", "DT_INT64", "DT_STRING")):
            return None  # a number or an axis that belongs to the op, not a weight
        elements = self._elements(root)
        mask = needed.ravel() if needed is not None and elements == size else np.ones(elements, bool)
        fresh = mask & ~self.taken.get(root, np.zeros(elements, bool))
        self.taken[root] = mask | ~fresh & self.taken.get(root, mask)
        value = self.value(variable.key) if variable else self.graph.constant((root, 0))
        nonzero = columns = None
        if value is not None and value.size == elements and (direct or needed is None):
            kept = (value.ravel() != 0) & fresh
            nonzero = int(kept.sum())
            columns = int(kept.reshape(-1, value.shape[-1]).any(0).sum()) if value.ndim else nonzero
        return Stored(
            variable.name if variable else root, int(fresh.sum()), variable.bits if variable else node.bits, nonzero, columns
        )

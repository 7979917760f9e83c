"""What the weights of a node take: which stored tensors they come from, how wide these are, how many values are not zero."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from frenzy.accounting.contents import Content, Values, content, count_nonzero, distinct, grid_bits
from frenzy.accounting.graph import PASSES_ON, VARIABLES, Graph, Node, Ref
from frenzy.accounting.widths import is_quantizer, quantizer_bits, quantizer_ranges

SEE_THROUGH = PASSES_ON | {"Cast"}
MOVES = frozenset({"ExpandDims", "Reshape", "Squeeze", "Transpose"})
SCALES = frozenset({"Mul", "RealDiv", "Div"})
WHOLE = ("DT_INT", "DT_UINT", "DT_QINT", "DT_QUINT")
NO_INDEX = np.zeros(0, np.intp)
FLOAT_BITS = 32
LAST = (-1,)


@dataclasses.dataclass(frozen=True)
class Stored:
    """The part of a stored tensor that inference needs and no node before it has counted.

    `nonzero` of the `elements` are not zero; `values`: the distinct ones and their counts, looked for in weights of dot
    products. None: not known, or more than 256.
    """

    name: str
    elements: int
    bits: int
    nonzero: int | None = None
    values: Values | None = None


@dataclasses.dataclass(frozen=True)
class Weights:
    """One way to hold the constant operand of a dot product: the tensor of its size (or its codes) first, then scales.

    content: the numbers that are multiplied, None where the data is missing. grid: the width of these as whole numbers,
    None where they are no multiples of a step.
    """

    stored: tuple[Stored, ...]
    content: Content | None = None
    grid: int | None = None


class Ledger:
    """Every stored tensor counts once, where it is first needed; `value(key)` gives a variable's value or None."""

    def __init__(self, graph: Graph, value: Callable[[str | None], np.ndarray | None]):
        self.graph, self.value = graph, value
        self.taken: dict[str, np.ndarray | None] = {}  # None: all of it
        self.last: tuple[str, np.ndarray | None] = ("", None)  # a kernel is looked at several times in a row

    def take(self, ref: Ref, needed: np.ndarray | None = None) -> tuple[Stored, ...]:
        """What a constant operand is stored as. `needed` is a mask over the operand (all of it by default): channels that
        nobody reads are not counted. The tensor of the operand's own size comes first, then scales and codebooks."""
        size = self._size(ref)
        found = []
        for root in self.graph.roots(ref):
            stored = self._root(root, size, needed, self._direct(ref) == root)
            if stored is not None:
                found.append((stored, self._elements(root) == size))
        return tuple(stored for stored, main in sorted(found, key=lambda pair: not pair[1]))

    def weights(self, ref: Ref, needed: np.ndarray | None = None, outputs: Sequence[int] = LAST) -> tuple[Weights, ...]:
        """The ways to hold a dot product's constant operand: as the file stores it, then as codes and scales.

        Codes are found where the graph computes the operand: behind products with a smaller tensor, in front of a
        quantizer, or as the few values of the result. `outputs` are the axes, from the end, that make an output's number.
        """
        before = {root for root in self.graph.roots(ref) if root in self.taken}
        stored = self.take(ref, needed)
        root = self._direct(ref)
        array = self._value(root) if root else self._computed(ref)
        if array is not None and array.shape != self._shape(ref):
            array = None
        nonzero = stored[0].nonzero if root and stored and stored[0].elements == self._size(ref) else None
        found = content(array, needed, outputs, nonzero) if array is not None else None
        main = stored[0] if stored else Stored(ref[0], 0, FLOAT_BITS)
        if root:
            if found is not None:
                main = dataclasses.replace(main, values=found.values)
            return (Weights((main, *stored[1:]), found, self._grid(root, found)),)
        count = main.elements if stored and self._is_main(stored[0], ref) else 0 if before else self._size(ref)
        ways = [Weights(stored, found, self._stored_grid(ref))]
        return (*ways, *self._codes(ref, needed, found, count))

    def _codes(self, ref: Ref, needed: np.ndarray | None, found: Content | None, count: int) -> Iterator[Weights]:
        """The operand itself, then what it is a product of, outermost first, until a quantizer or what is stored."""
        scales: tuple[Stored, ...] = ()
        size = self._size(ref)
        while True:
            node = self.graph.nodes[ref[0]]
            if is_quantizer(node):
                ranges = quantizer_ranges(self.graph, node) if count else 0
                bits = quantizer_bits(self.graph, node)
                codes = Stored(node.name, count, bits, _charged(found, count))
                yield Weights((codes, Stored(f"{node.name}/range", ranges, FLOAT_BITS), *scales), found, bits)
                return
            if found is not None and (way := self._few(ref, needed, found, count, scales)):
                yield way
            following = self._factor(node, size)
            if following is None:
                return
            ref, smaller = following
            if smaller is not None:
                scale = self.graph.nodes[smaller[0]]
                scales = (Stored(scale.name, self._size(smaller) if count else 0, scale.bits), *scales)

    def _few(
        self, ref: Ref, needed: np.ndarray | None, found: Content, count: int, scales: tuple[Stored, ...]
    ) -> Weights | None:
        """The tensor as codes, if it is of the operand's size and its values are few, or some of them zero."""
        root = self._direct(ref)
        array = self._value(root) if root else self._computed(ref)
        if array is None:
            return None
        part = array[needed] if needed is not None and needed.shape == array.shape else array
        own = dataclasses.replace(found, values=distinct(part))
        if own.values is None and own.nonzero == own.size:
            return None
        bits = self._bits(root) if root else self.graph.nodes[ref[0]].bits
        codes = Stored(root or ref[0], count, bits, _charged(found, count), own.values)
        return Weights((codes, *scales), own, self._grid(root, own))

    def _factor(self, node: Node, size: int) -> tuple[Ref, Ref | None] | None:
        """One step back from a tensor of the operand's size: (tensor of that size, what it is scaled by or None)."""
        if (node.op in SEE_THROUGH or node.op in MOVES) and node.inputs and self._size(node.inputs[0]) == size:
            return (node.inputs[0], None) if node.op != "ReadVariableOp" else None
        if node.op not in SCALES:
            return None
        sizes = [self._size(source) for source in node.inputs]
        if sizes[0] == size and sizes[1] < size:
            return node.inputs[0], node.inputs[1]
        return (node.inputs[1], node.inputs[0]) if node.op == "Mul" and sizes[1] == size and sizes[0] < size else None

    def _grid(self, root: str | None, found: Content | None) -> int | None:
        """The width of the values as whole numbers: by their own, or by the type that they are stored in."""
        by_type = self._bits(root) if root and self._is_whole(root) else None
        by_value = grid_bits(found.values) if found is not None and found.values else None
        return min(filter(None, (by_type, by_value)), default=None)

    def _stored_grid(self, ref: Ref) -> int | None:
        """For an operand that is computed: the width of the whole numbers that the file stores and scales."""
        size = self._size(ref)
        while (following := self._factor(self.graph.nodes[ref[0]], size)) is not None:
            ref = following[0]
        root = self._direct(ref)
        return self._bits(root) if root and self._is_whole(root) else None

    def _is_whole(self, root: str) -> bool:
        return str(self.graph.nodes[root].attrs.get("dtype")).startswith(WHOLE)

    def _bits(self, root: str) -> int:
        return self.graph.variables[root].bits if root in self.graph.variables else self.graph.nodes[root].bits

    def _is_main(self, stored: Stored, ref: Ref) -> bool:
        return any(self._elements(r) == self._size(ref) and self._name(r) == stored.name for r in self.graph.roots(ref))

    def _name(self, root: str) -> str:
        return self.graph.variables[root].name if root in self.graph.variables else root

    def _shape(self, ref: Ref) -> tuple[int, ...]:
        return tuple(dim or 0 for dim in self.graph.shape(ref) or ())

    def _size(self, ref: Ref) -> int:
        return math.prod(self._shape(ref))

    def _elements(self, root: str) -> int:
        return math.prod(self.graph.variables[root].shape if root in self.graph.variables else self._shape((root, 0)))

    def _direct(self, ref: Ref) -> str | None:
        """The variable or literal that the operand is, but for casts."""
        while (node := self.graph.nodes[ref[0]]).op in SEE_THROUGH and node.inputs:
            ref = node.inputs[0]
        return node.name if node.op in VARIABLES or node.op == "Const" else None

    def _value(self, root: str) -> np.ndarray | None:
        if self.last[0] != root:
            variable = self.graph.variables.get(root)
            self.last = (root, self.value(variable.key) if variable else self.graph.constant((root, 0)))
        return self.last[1]

    def _computed(self, ref: Ref) -> np.ndarray | None:
        """The value of a tensor that the file computes from stored ones; None where one of these is missing."""
        values = {root: self._value(root) for root in self.graph.roots(ref) if root in self.graph.variables}
        known = {root: value for root, value in values.items() if value is not None}
        return self.graph.computed(ref, known) if len(known) == len(values) else None

    def _root(self, root: str, size: int, needed: np.ndarray | None, direct: bool) -> Stored | None:
        node = self.graph.nodes[root]
        elements = self._elements(root)
        if root not in self.graph.variables and (
            elements < 2 or node.attrs.get("dtype") in ("DT_INT32", "DT_INT64", "DT_STRING")
        ):
            return None  # a number or an axis that belongs to the op, not a weight
        fresh = self._fresh(root, needed.ravel() if needed is not None and elements == size else None)
        value = self._value(root)
        nonzero = None
        if value is not None and value.size == elements and (direct or needed is None):
            nonzero = count_nonzero(value if fresh is None else value.ravel()[fresh])
        count = elements if fresh is None else int(np.count_nonzero(fresh))
        return Stored(self._name(root), count, self._bits(root), nonzero)

    def _fresh(self, root: str, needed: np.ndarray | None) -> np.ndarray | None:
        """The index of what is needed and was not taken before, which is then taken; None: all of it, and no mask is made."""
        touched = root in self.taken
        taken = self.taken.get(root)
        if needed is None:
            self.taken[root] = None
            return None if not touched else NO_INDEX if taken is None else ~taken
        if touched and taken is None:
            return NO_INDEX
        self.taken[root] = needed if taken is None else taken | needed
        return needed if taken is None else needed & ~taken


def _charged(found: Content | None, count: int) -> int | None:
    """The nonzeros among `count` elements that are still to be counted: of all or none of them, else at most so many."""
    return None if found is None else min(found.nonzero, count)

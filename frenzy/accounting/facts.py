"""What a node does to one image, as whole numbers, and what a rule may look at to find it. No formula of any op is here."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping

from frenzy.accounting.graph import Graph, Node, Ref
from frenzy.accounting.live_channels import LIVE, States
from frenzy.accounting.patterns import Norm, unfused_norms
from frenzy.accounting.storage import Ledger, Stored, Weights
from frenzy.accounting.widths import FLOAT, Width


class UnknownFacts(Exception):
    """A node that has a rule, but whose facts the file does not determine; the message says why."""


@dataclasses.dataclass(frozen=True)
class Count:
    """A whole number and the arithmetic that gives it: eval(text) == value."""

    value: int
    text: str

    def minus(self, other: "Count") -> "Count":
        return Count(self.value - other.value, f"{self.text} - {other.text}")

    def plus(self, other: "Count") -> "Count":
        return (
            other
            if not self.value
            else self
            if not other.value
            else Count(self.value + other.value, f"{self.text} + {other.text}")
        )

    def times(self, factor: int) -> "Count":
        return self if factor == 1 else Count(self.value * factor, f"{factor}*{self.text}")


NONE = Count(0, "0")


def product(*groups: Iterable[int]) -> Count:
    """((3, 3, 200, 400), (8, 8)) -> 3*3*200*400 * 8*8."""
    texts = ["*".join(map(str, group)) for group in map(tuple, groups) if group]
    return Count(math.prod(math.prod(group) for group in map(tuple, groups)), " * ".join(texts) or "1")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What one node does to one image.

    kind: what a convention prices. macs: multiply-accumulates; dots: dot products of at least one term. elements: live
    output elements. pairs: additions of two values that are both not known to be zero. window: elements a pool reads for one
    output, `pad` the rows and columns that its padding adds. channels: live channels that carry parameters of a BN.
    drops_constants: the node skips constant inputs, whose share needs a bias. begins: the first node of a normalisation that
    is written out in several. bits: the width that a fake-quantization node gives its values. stored: the weights, and
    `weights` the ways to hold those of a dot product, as they are stored first, `kept` the tensors of a BN before its statistics
    are folded. reads: the widest number that comes in.
    """

    kind: str
    macs: Count = NONE
    dots: Count = NONE
    elements: Count = NONE
    pairs: Count = NONE
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    groups: int | None = None
    width: int | None = None
    live_in: int | None = None
    live_out: int | None = None
    window: int = 0
    pad: tuple[int, int] = (0, 0)
    channels: int = 0
    drops_constants: bool = False
    begins: str | None = None
    bits: int | None = None
    stored: tuple[Stored, ...] = ()
    weights: tuple[Weights, ...] = ()
    kept: tuple[Stored, ...] = ()
    reads: Width = FLOAT


@dataclasses.dataclass(frozen=True)
class Context:
    """What a rule may look at besides its node."""

    graph: Graph
    states: Callable[[Ref], States]
    ledger: Ledger

    @functools.cached_property
    def norms(self) -> Mapping[str, Norm]:
        """Batch normalisations that are written out, by their first node and by their last."""
        return unfused_norms(self.graph)


def known(shape, what: str) -> tuple[int, ...]:
    if shape is None or None in shape:
        raise UnknownFacts(f"the shape of {what} is not known")
    return tuple(shape)


def out_shape(ctx: Context, node: Node) -> tuple[int, ...]:
    """The output's shape, whole batch."""
    return known(node.shapes[0] if node.shapes else None, "its output")


def per_image(ctx: Context, value: int) -> int:
    if value % ctx.graph.batch:
        raise UnknownFacts(f"{value} outputs do not divide by the batch of {ctx.graph.batch}")
    return value // ctx.graph.batch


def places_of(ctx: Context, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions between batch and channels, for one image: (32, 16, 16, 200) of a batch of 32 -> (16, 16)."""
    if not shape or not math.prod(shape):
        return ()
    rest = shape[:-1]
    if rest and rest[0] == ctx.graph.batch:
        return rest[1:]
    return (per_image(ctx, math.prod(rest)),)


def live_count(states: States) -> int:
    return int((states == LIVE).sum())


def elements_of(ctx: Context, node: Node) -> Count:
    """Live output elements; a vector as long as the batch is one number an image."""
    shape = out_shape(ctx, node)
    if shape == (ctx.graph.batch,):
        return product((1,))
    return product((live_count(ctx.states((node.name, 0))),), places_of(ctx, shape))


def operands_of(ctx: Context, node: Node) -> tuple[list[Ref], list[Ref]]:
    """The inputs that change with the image, and the constant ones."""
    data = [ref for ref in node.inputs if ctx.graph.depends(ref)]
    return data, [ref for ref in node.inputs if not ctx.graph.depends(ref)]

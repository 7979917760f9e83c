"""Op -> facts, as whole numbers for one image. Nothing is priced here: see frenzy/accounting/conventions.py."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from frenzy.accounting.elementary import ELEMENTARY
from frenzy.accounting.graph import Graph, Node, Ref
from frenzy.accounting.live_channels import LIVE, ZERO, States, channels_last, read_by_conv
from frenzy.accounting.storage import Ledger, Stored


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
    drops_constants: the node skips constant inputs, whose share needs a bias. stored: the weights.
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
    stored: tuple[Stored, ...] = ()


@dataclasses.dataclass(frozen=True)
class Context:
    """What a rule may look at besides its node."""

    graph: Graph
    states: Callable[[Ref], States]
    ledger: Ledger


def _known(shape, what: str) -> tuple[int, ...]:
    if shape is None or None in shape:
        raise UnknownFacts(f"the shape of {what} is not known")
    return tuple(shape)


def _out(ctx: Context, node: Node) -> tuple[int, ...]:
    """The output's shape, whole batch."""
    return _known(node.shapes[0] if node.shapes else None, "its output")


def _per_image(ctx: Context, value: int) -> int:
    if value % ctx.graph.batch:
        raise UnknownFacts(f"{value} outputs do not divide by the batch of {ctx.graph.batch}")
    return value // ctx.graph.batch


def _places(ctx: Context, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions between batch and channels, for one image: (32, 16, 16, 200) of a batch of 32 -> (16, 16)."""
    if not shape or not math.prod(shape):
        return ()
    rest = shape[:-1]
    if rest and rest[0] == ctx.graph.batch:
        return rest[1:]
    return (_per_image(ctx, math.prod(rest)),)


def _live(states: States) -> int:
    return int((states == LIVE).sum())


def _elements(ctx: Context, node: Node) -> Count:
    """Live output elements."""
    return product((_live(ctx.states((node.name, 0))),), _places(ctx, _out(ctx, node)))


def _operands(ctx: Context, node: Node) -> tuple[list[Ref], list[Ref]]:
    """The inputs that change with the image, and the constant ones."""
    data = [ref for ref in node.inputs if ctx.graph.depends(ref)]
    return data, [ref for ref in node.inputs if not ctx.graph.depends(ref)]


def _same_padding(size: int, kernel: int, stride: int, out: int) -> int:
    return max((out - 1) * stride + kernel - size, 0)


def _axes(node: Node) -> tuple[int, int, int]:
    """Where rows, columns and channels are."""
    return (1, 2, 3) if channels_last(node) else (2, 3, 1)


def conv(ctx: Context, node: Node, depthwise: bool = False) -> Facts:
    """Live inputs x live outputs of a kernel (h, w, in / groups, out), at every output position."""
    image, weights = node.inputs[:2]
    kernel = _known(ctx.graph.shape(weights), "its kernel")
    source, out = _known(ctx.graph.shape(image), "its input"), _out(ctx, node)
    rows, columns, channels = _axes(node)
    places: tuple[int, ...] = (out[rows], out[columns])
    if (images := _per_image(ctx, out[0])) != 1:
        places = (images, *places)
    states = ctx.states(image) if channels_last(node) else np.full(source[channels], LIVE, np.uint8)
    out_states = ctx.states((node.name, 0)) if channels_last(node) else np.full(out[channels], LIVE, np.uint8)
    group_in = 1 if depthwise else kernel[2]
    groups = source[channels] // group_in
    read = read_by_conv(ctx.graph, node, states).reshape(groups, group_in)
    kept = (out_states == LIVE).reshape(groups, -1)
    pairs = int((read.sum(1) * kept.sum(1)).sum())
    dots = int((kept.sum(1) * (read.sum(1) > 0)).sum())
    live_in, live_out = int(read.sum()), int(kept.sum())
    # [groups, in, out] -> the kernel's own order, (h, w, in of a group, all outputs) or (h, w, all inputs, multiplier)
    needed = read[:, :, None] & kept[:, None, :]
    needed = needed.reshape(groups, -1) if depthwise else needed.transpose(1, 0, 2).reshape(group_in, -1)
    mask = np.broadcast_to(needed, kernel)
    terms = (kernel[0], kernel[1], live_in, live_out) if groups == 1 else (kernel[0], kernel[1], pairs)
    strides = node.attrs["strides"]
    return Facts(
        "dot",
        macs=product(terms, places),
        dots=product((dots,), places),
        elements=product((live_out,), places),
        kernel=(kernel[0], kernel[1]),
        stride=(strides[rows], strides[columns]),
        groups=groups,
        width=out[channels],
        live_in=live_in,
        live_out=live_out,
        drops_constants=live_in < int((states != ZERO).sum()),
        stored=() if ctx.graph.depends(weights) else ctx.ledger.take(weights, mask),
    )


def mat_mul(ctx: Context, node: Node) -> Facts:
    """(m, n) x (n, k); a constant right-hand side is a dense layer's kernel, read where its inputs are live."""
    left, right = node.inputs[:2]
    out = _out(ctx, node)
    a, b = _known(ctx.graph.shape(left), "its left side"), _known(ctx.graph.shape(right), "its right side")
    transposed = bool(node.attrs.get("transpose_a") or node.attrs.get("adj_x"))
    flipped = bool(node.attrs.get("transpose_b") or node.attrs.get("adj_y"))
    length = a[-2] if transposed else a[-1]
    places = _places(ctx, out)
    if ctx.graph.depends(right) or transposed or not ctx.graph.depends(left) or len(b) != 2:
        stored = () if ctx.graph.depends(right) else ctx.ledger.take(right)
        stored += () if ctx.graph.depends(left) else ctx.ledger.take(left)
        cells = product((out[-1],), places)
        return Facts("dot", product((length, out[-1]), places), cells, cells, width=out[-1], stored=stored)
    states = ctx.states(left)
    read, kept = states == LIVE, ctx.states((node.name, 0)) == LIVE
    live_in, live_out = int(read.sum()), int(kept.sum())
    mask = kept[:, None] & read[None, :] if flipped else read[:, None] & kept[None, :]
    return Facts(
        "dot",
        macs=product((live_in, live_out), places),
        dots=product((live_out if live_in else 0,), places),
        elements=product((live_out,), places),
        width=out[-1],
        live_in=live_in,
        live_out=live_out,
        drops_constants=live_in < int((states != ZERO).sum()),
        stored=ctx.ledger.take(right, np.broadcast_to(mask, b)),
    )


def batch_norm(ctx: Context, node: Node) -> Facts:
    """Inference needs a scale and a shift for every live channel; moving statistics are folded into these two."""
    if node.attrs.get("is_training"):
        raise UnknownFacts("it takes its statistics from the batch, as in training; export the network for inference")
    live = _live(ctx.states((node.name, 0)))
    stored = [s for ref in node.inputs[1:5] if not ctx.graph.depends(ref) for s in ctx.ledger.take(ref)]
    moving = [s for s in stored[-2:] if s.elements]  # mean and variance; a BN that is called twice is stored once
    fresh = live if moving else 0
    bits = max((s.bits for s in moving), default=32)
    return Facts(
        "batch_norm",
        elements=_elements(ctx, node),
        live_in=live,
        live_out=live,
        width=_out(ctx, node)[-1],
        channels=fresh,
        stored=(Stored(node.name, 2 * fresh, bits),),
    )


def elementwise(ctx: Context, node: Node, kind: str) -> Facts:
    """One kind of operation for every live output element; constant operands that are tensors are weights."""
    live = _live(ctx.states((node.name, 0)))
    _, constants = _operands(ctx, node)
    stored = tuple(s for ref in constants for s in ctx.ledger.take(ref))
    elements = _elements(ctx, node)
    return Facts(kind, elements=elements, pairs=elements, live_out=live, stored=stored)


def add(ctx: Context, node: Node) -> Facts:
    """A sum: `pairs` leaves out what is added to a known zero. The sum with a constant tensor is a bias."""
    out = _out(ctx, node)
    data, constants = _operands(ctx, node)
    stored = tuple(s for ref in constants for s in ctx.ledger.take(ref))
    channels = out[-1] if out else 1
    states = [
        np.broadcast_to(s, (channels,)) if len(s) in (1, channels) else np.full(channels, LIVE)
        for s in map(ctx.states, node.inputs)
    ]
    useful = np.maximum(np.sum([s != ZERO for s in states], axis=0) - 1, 0) * (np.max(states, axis=0) == LIVE)
    live = _live(ctx.states((node.name, 0)))
    kind = "bias" if stored else "add"
    return Facts(
        kind,
        elements=_elements(ctx, node).times(max(len(node.inputs) - 1, 1)),
        pairs=product((int(useful.sum()),), _places(ctx, out)),
        live_in=_live(ctx.states(data[0])) if len(data) == 1 else None,
        live_out=live,
        stored=stored,
    )


def pool(ctx: Context, node: Node, kind: str) -> Facts:
    """A window of k x k for every live output element."""
    rows, columns, _ = _axes(node)
    size, strides = node.attrs["ksize"], node.attrs["strides"]
    kernel, stride = (size[rows], size[columns]), (strides[rows], strides[columns])
    source, out = _known(ctx.graph.shape(node.inputs[0]), "its input"), _out(ctx, node)
    pad = (0, 0)
    if node.attrs.get("padding") == "SAME":
        pad = (
            _same_padding(source[rows], kernel[0], stride[0], out[rows]),
            _same_padding(source[columns], kernel[1], stride[1], out[columns]),
        )
    live = _live(ctx.states((node.name, 0))) if channels_last(node) else out[1]
    elements = _elements(ctx, node) if channels_last(node) else product((live,), (out[rows], out[columns]))
    return Facts(
        kind,
        elements=elements,
        kernel=kernel,
        stride=stride,
        live_in=live,
        live_out=live,
        window=kernel[0] * kernel[1],
        pad=pad,
    )


def reduction(ctx: Context, node: Node, kind: str) -> Facts:
    """A reduction over some axes; over rows and columns a mean is a global average pool."""
    source, out = _known(ctx.graph.shape(node.inputs[0]), "its input"), _out(ctx, node)
    axes = ctx.graph.constant(node.inputs[1])
    if axes is None:
        raise UnknownFacts("the axes that it reduces are not known")
    reduced = sorted({int(axis) % len(source) for axis in np.ravel(axes)}) if len(source) else []
    window = math.prod(source[axis] for axis in reduced)
    live = _live(ctx.states((node.name, 0)))
    places = _places(ctx, out)
    kernel = (source[1], source[2]) if reduced == [1, 2] and len(source) == 4 else None
    return Facts(kind, elements=product((live,), places), kernel=kernel, live_in=live, live_out=live, window=window)


def softmax(ctx: Context, node: Node) -> Facts:
    """Rows of the last axis: `elements` in all, `dots` rows."""
    out = _out(ctx, node)
    return Facts(
        "softmax", elements=product((out[-1],), _places(ctx, out)), dots=product((1,), _places(ctx, out)), live_out=out[-1]
    )


def free(ctx: Context, node: Node) -> Facts:
    """Moves data or renames it. What it moves may be weights: a table that is looked up, a learned token that is joined on."""
    _, constants = _operands(ctx, node)
    stored = tuple(s for ref in constants for s in ctx.ledger.take(ref))
    live = _live(ctx.states((node.name, 0))) if node.shapes and node.shapes[0] else None
    return Facts("free", live_out=live, stored=stored)


Rule = Callable[[Context, Node], Facts]
FREE = free

_elementary = {kind: partial(elementwise, kind=kind) for kind in ELEMENTARY}

RULES: dict[str, Rule] = {
    "Abs": _elementary["compare"],
    "Add": add,
    "AddN": add,
    "AddV2": add,
    "ArgMax": FREE,  # an answer, not arithmetic
    "AvgPool": partial(pool, kind="average_pool"),
    "BatchMatMul": mat_mul,
    "BatchMatMulV2": mat_mul,
    "BatchToSpaceND": FREE,
    "BiasAdd": add,
    "Cast": FREE,
    "ConcatV2": FREE,
    "Conv2D": conv,
    "DepthToSpace": FREE,
    "DepthwiseConv2dNative": partial(conv, depthwise=True),
    "Div": _elementary["divide"],
    "Elu": _elementary["elu"],
    "EnsureShape": FREE,
    "Exp": _elementary["exp"],
    "ExpandDims": FREE,
    "Fill": FREE,
    "FusedBatchNorm": batch_norm,
    "FusedBatchNormV2": batch_norm,
    "FusedBatchNormV3": batch_norm,
    "GatherV2": FREE,
    "Identity": FREE,
    "IdentityN": FREE,
    "LeakyRelu": _elementary["leaky_relu"],
    "Log": _elementary["log"],
    "MatMul": mat_mul,
    "Max": partial(reduction, kind="max_pool"),
    "MaxPool": partial(pool, kind="max_pool"),
    "Maximum": _elementary["compare"],
    "Mean": partial(reduction, kind="average_pool"),
    "Minimum": _elementary["compare"],
    "MirrorPad": FREE,
    "Mul": _elementary["multiply"],
    "Neg": FREE,  # a sign folds into what comes next
    "Pack": FREE,
    "Pad": FREE,
    "PadV2": FREE,
    "Placeholder": FREE,
    "RealDiv": _elementary["divide"],
    "Relu": _elementary["relu"],
    "Relu6": _elementary["relu6"],
    "Reshape": FREE,
    "ResourceGather": FREE,
    "Rsqrt": _elementary["power"],
    "Sigmoid": _elementary["sigmoid"],
    "Slice": FREE,
    "Softmax": softmax,
    "Softplus": _elementary["softplus"],
    "SpaceToBatchND": FREE,
    "SpaceToDepth": FREE,
    "Split": FREE,
    "SplitV": FREE,
    "Sqrt": _elementary["power"],
    "Square": _elementary["multiply"],
    "Squeeze": FREE,
    "StopGradient": FREE,
    "StridedSlice": FREE,
    "Sub": add,
    "Sum": partial(reduction, kind="sum"),
    "Tanh": _elementary["tanh"],
    "Tile": FREE,
    "TopKV2": FREE,  # an answer, not arithmetic
    "Transpose": FREE,
    "Unpack": FREE,
    "ZerosLike": FREE,
}
KINDS = frozenset({"dot", "batch_norm", "bias", "add", "average_pool", "max_pool", "sum", "softmax", "free"} | set(ELEMENTARY))

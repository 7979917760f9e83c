"""Convs, dense layers and products of tensors: facts of what multiplies and sums."""

import math
from collections.abc import Sequence

import numpy as np

from frenzy.accounting.facts import (
    NONE,
    Context,
    Facts,
    UnknownFacts,
    known,
    live_count,
    out_shape,
    per_image,
    places_of,
    product,
)
from frenzy.accounting.graph import Node, Ref
from frenzy.accounting.live_channels import LIVE, ZERO, channels_last, read_by_conv
from frenzy.accounting.storage import LAST, Stored, Weights


def axes_of(node: Node) -> tuple[int, int, int]:
    """Where rows, columns and channels are."""
    return (1, 2, 3) if channels_last(node) else (2, 3, 1)


def weights_of(
    ctx: Context, ref: Ref, needed: np.ndarray | None = None, outputs: Sequence[int] = LAST
) -> tuple[tuple[Stored, ...], tuple[Weights, ...]]:
    """What a constant operand is stored as, and the ways to hold it; `needed` (None: all) spreads over its leading axes."""
    if ctx.graph.depends(ref):
        return (), ()
    mask = None if needed is None else np.broadcast_to(needed, known(ctx.graph.shape(ref), "its kernel"))
    ways = ctx.ledger.weights(ref, mask, outputs)
    return ways[0].stored, ways


def both(rows: np.ndarray, columns: np.ndarray) -> np.ndarray | None:
    """(r,) and (c,) -> (r, c): where both are; None where all are, so that no mask is made of large kernels."""
    return None if rows.all() and columns.all() else rows[:, None] & columns[None, :]


def conv(ctx: Context, node: Node, depthwise: bool = False) -> Facts:
    """Live inputs x live outputs of a kernel (h, w, in / groups, out), at every output position."""
    image, weights = node.inputs[:2]
    kernel = known(ctx.graph.shape(weights), "its kernel")
    source, out = known(ctx.graph.shape(image), "its input"), out_shape(ctx, node)
    rows, columns, channels = axes_of(node)
    places: tuple[int, ...] = (out[rows], out[columns])
    if (images := per_image(ctx, out[0])) != 1:
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
    needed = None
    if not (read.all() and kept.all()):
        # [groups, in, out] -> the kernel's own order, (h, w, in of a group, all outputs) or (h, w, all inputs, multiplier)
        needed = read[:, :, None] & kept[:, None, :]
        needed = needed.reshape(groups, -1) if depthwise else needed.transpose(1, 0, 2).reshape(group_in, -1)
    stored, ways = weights_of(ctx, weights, needed, (-2, -1) if depthwise else LAST)
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
        stored=stored,
        weights=ways,
    )


def mat_mul(ctx: Context, node: Node) -> Facts:
    """(m, n) x (n, k); a constant right-hand side is a dense layer's kernel, read where its inputs are live."""
    left, right = node.inputs[:2]
    out = out_shape(ctx, node)
    a, b = known(ctx.graph.shape(left), "its left side"), known(ctx.graph.shape(right), "its right side")
    transposed = bool(node.attrs.get("transpose_a") or node.attrs.get("adj_x"))
    flipped = bool(node.attrs.get("transpose_b") or node.attrs.get("adj_y"))
    length = a[-2] if transposed else a[-1]
    places = places_of(ctx, out)
    if ctx.graph.depends(right) or transposed or not ctx.graph.depends(left) or len(b) != 2:
        stored, ways = weights_of(ctx, left if ctx.graph.depends(right) else right)
        cells = product((out[-1],), places)
        return Facts("dot", product((length, out[-1]), places), cells, cells, width=out[-1], stored=stored, weights=ways)
    states = ctx.states(left)
    read, kept = states == LIVE, ctx.states((node.name, 0)) == LIVE
    live_in, live_out = int(read.sum()), int(kept.sum())
    needed = both(kept, read) if flipped else both(read, kept)
    stored, ways = weights_of(ctx, right, needed, (-2,) if flipped else LAST)
    return Facts(
        "dot",
        macs=product((live_in, live_out), places),
        dots=product((live_out if live_in else 0,), places),
        elements=product((live_out,), places),
        width=out[-1],
        live_in=live_in,
        live_out=live_out,
        drops_constants=live_in < int((states != ZERO).sum()),
        stored=stored,
        weights=ways,
    )


def volume_conv(ctx: Context, node: Node) -> Facts:
    """Conv3D, a kernel (d, h, w, in, out) at every output position; inputs known to be zero are skipped."""
    image, weights = node.inputs[:2]
    if node.attrs.get("data_format", "NDHWC") != "NDHWC":
        raise UnknownFacts("its channels come first")
    kernel, out = known(ctx.graph.shape(weights), "its kernel"), out_shape(ctx, node)
    source = known(ctx.graph.shape(image), "its input")
    states = ctx.states(image)
    read = (states != ZERO) if source[-1] == kernel[-2] else np.ones(kernel[-2], bool)
    kept = ctx.states((node.name, 0)) == LIVE
    live_in, live_out = int(read.sum()), int(kept.sum())
    places = places_of(ctx, out)
    stored, ways = weights_of(ctx, weights, both(read, kept))
    return Facts(
        "dot",
        macs=product(kernel[:3], (live_in, live_out), places),
        dots=product((live_out if live_in else 0,), places),
        elements=product((live_out,), places),
        groups=source[-1] // kernel[-2],
        width=out[-1],
        live_in=live_in,
        live_out=live_out,
        stored=stored,
        weights=ways,
    )


def transposed_conv(ctx: Context, node: Node) -> Facts:
    """Every input position is multiplied with a whole kernel (..., out, in) and summed into the outputs.

    Products that fall outside the output count too, as everybody counts them. An output that a kernel reaches is one dot
    product; with a stride above the kernel's size fewer are reached than there are.
    """
    weights, image = node.inputs[1:3]
    kernel, out = known(ctx.graph.shape(weights), "its kernel"), out_shape(ctx, node)
    source = known(ctx.graph.shape(image), "its input")
    last = node.attrs.get("data_format", "NHWC") in ("NHWC", "NDHWC")
    read = ctx.states(image) != ZERO if last else np.ones(kernel[-1], bool)
    kept = ctx.states((node.name, 0)) == LIVE if last else np.ones(kernel[-2], bool)
    live_in, live_out = int(read.sum()), int(kept.sum())
    positions = source[1:-1] if last else source[2:]
    reached = (out[1:-1] if last else out[2:], positions + tuple(kernel[:-2]))
    images = (per_image(ctx, out[0]),) if per_image(ctx, out[0]) != 1 else ()
    dots = product((live_out if live_in else 0,), images, min(reached, key=math.prod))
    strides = node.attrs["strides"]
    stored, ways = weights_of(ctx, weights, both(kept, read), (-2,))
    return Facts(
        "dot",
        macs=product(kernel[:-2], (live_in, live_out), images, positions),
        dots=dots,
        elements=product((live_out,), images, reached[0]),
        kernel=(kernel[0], kernel[1]) if len(kernel) == 4 else None,
        stride=((strides[1], strides[2]) if last else (strides[2], strides[3])) if len(kernel) == 4 else None,
        groups=1,
        width=kernel[-2],
        live_in=live_in,
        live_out=live_out,
        stored=stored,
        weights=ways,
    )


def _labels(ctx: Context, node: Node, text: str, ref) -> dict[str, int]:
    """Axis -> length for one operand of an equation; what '...' stands for is numbered from the right."""
    shape = known(ctx.graph.shape(ref), "an operand")
    before, dots, after = text.partition("...")
    hidden = len(shape) - len(before) - len(after)
    if hidden < 0 or (hidden and not dots):
        raise UnknownFacts(f"'{text}' does not fit an operand of shape {shape}")
    return dict(zip([*before, *(str(hidden - i) for i in range(hidden)), *after], shape, strict=True))


def einsum(ctx: Context, node: Node) -> Facts:
    """One multiply-accumulate for every combination of the axes of two operands; a lone operand is moved or summed."""
    equation = str(node.attrs["equation"]).replace(" ", "")
    inputs, _, output = equation.partition("->")
    texts = inputs.split(",")
    out = out_shape(ctx, node)
    if len(texts) != len(node.inputs) or len(texts) > 2:
        raise UnknownFacts(f"'{equation}' is not of one or two operands")
    sizes: dict[str, int] = {}
    for text, ref in zip(texts, node.inputs, strict=True):
        for label, size in _labels(ctx, node, text, ref).items():
            sizes[label] = max(sizes.get(label, 1), size)
    stored: tuple[Stored, ...] = ()
    ways: tuple[Weights, ...] = ()
    for text, ref in zip(texts, node.inputs, strict=True):
        if not ctx.graph.depends(ref):
            kept = tuple(axis - len(text) for axis, label in enumerate(text) if label in output) if "." not in text else LAST
            stored, ways = weights_of(ctx, ref, outputs=kept)
    cells = product((out[-1],) if out else (), places_of(ctx, out))
    length = math.prod(sizes.values()) // max(math.prod(out), 1)
    if len(texts) == 1:
        live = live_count(ctx.states((node.name, 0)))
        return Facts("sum" if length > 1 else "free", elements=cells if length > 1 else NONE, window=length, live_out=live)
    macs = product((length,), (cells.value,))
    return Facts("dot", macs, cells, cells, width=out[-1] if out else 1, stored=stored, weights=ways)

"""Pools, reductions and whatever else reads a window for one output: facts."""

import dataclasses
import math

import numpy as np

from frenzy.accounting.facts import (
    Context,
    Facts,
    UnknownFacts,
    elements_of,
    known,
    live_count,
    out_shape,
    per_image,
    places_of,
    product,
)
from frenzy.accounting.graph import Node
from frenzy.accounting.linear import axes_of
from frenzy.accounting.live_channels import channels_last


def same_padding(size: int, kernel: int, stride: int, out: int) -> int:
    return max((out - 1) * stride + kernel - size, 0)


def pool(ctx: Context, node: Node, kind: str) -> Facts:
    """A window of k x k for every live output element."""
    rows, columns, _ = axes_of(node)
    size, strides = node.attrs["ksize"], node.attrs["strides"]
    kernel, stride = (size[rows], size[columns]), (strides[rows], strides[columns])
    source, out = known(ctx.graph.shape(node.inputs[0]), "its input"), out_shape(ctx, node)
    pad = (0, 0)
    if node.attrs.get("padding") == "SAME":
        pad = (
            same_padding(source[rows], kernel[0], stride[0], out[rows]),
            same_padding(source[columns], kernel[1], stride[1], out[columns]),
        )
    live = live_count(ctx.states((node.name, 0))) if channels_last(node) else out[1]
    elements = elements_of(ctx, node) if channels_last(node) else product((live,), (out[rows], out[columns]))
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
    source = known(ctx.graph.shape(node.inputs[0]), "its input")
    axes = ctx.graph.constant(node.inputs[1])
    if axes is None:
        raise UnknownFacts("the axes that it reduces are not known")
    reduced = sorted({int(axis) % len(source) for axis in np.ravel(axes)}) if len(source) else []
    window = math.prod(source[axis] for axis in reduced)
    live = live_count(ctx.states((node.name, 0)))
    kernel = (source[1], source[2]) if reduced == [1, 2] and len(source) == 4 else None
    return Facts(kind, elements=elements_of(ctx, node), kernel=kernel, live_in=live, live_out=live, window=window)


def softmax(ctx: Context, node: Node) -> Facts:
    """Rows of the last axis: `elements` in all, `dots` rows."""
    out = out_shape(ctx, node)
    return Facts(
        "softmax", elements=product((out[-1],), places_of(ctx, out)), dots=product((1,), places_of(ctx, out)), live_out=out[-1]
    )


def volume_pool(ctx: Context, node: Node, kind: str) -> Facts:
    """A window of d x h x w for every live output element."""
    if node.attrs.get("data_format", "NDHWC") != "NDHWC":
        raise UnknownFacts("its channels come first")
    live = live_count(ctx.states((node.name, 0)))
    return Facts(kind, elements=elements_of(ctx, node), live_in=live, live_out=live, window=math.prod(node.attrs["ksize"]))


def _inner_steps(ctx: Context, node: Node, axis: int) -> tuple[int, int]:
    """(rows, steps): how many rows run along an axis of the input, and how long they are."""
    shape = known(ctx.graph.shape(node.inputs[0]), "its input")
    return per_image(ctx, math.prod(shape)) // shape[axis], shape[axis]


def cumulative(ctx: Context, node: Node, kind: str) -> Facts:
    """n - 1 operations for a row of n: the first value is its own sum."""
    axis = ctx.graph.constant(node.inputs[1])
    if axis is None:
        raise UnknownFacts("the axis that it runs along is not known")
    rows, steps = _inner_steps(ctx, node, int(axis))
    if kind == "sum":
        return Facts(kind, elements=product((rows,)), window=steps)
    return Facts(kind, elements=product((rows,), (steps - 1,)))


def product_of(ctx: Context, node: Node) -> Facts:
    """A product over some axes, n - 1 multiplies for n values."""
    facts = reduction(ctx, node, "multiply")
    return dataclasses.replace(facts, elements=facts.elements.times(max(facts.window - 1, 0)))

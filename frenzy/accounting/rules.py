"""Op -> facts, as whole numbers for one image. Nothing is priced here: see frenzy/accounting/conventions.

The table is total: what costs nothing stands in it as FREE, and what is missing is an unknown op of the report.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np

from frenzy.accounting.elementary import ELEMENTARY
from frenzy.accounting.facts import (
    NONE,
    Context,
    Count,
    Facts,
    UnknownFacts,
    elements_of,
    live_count,
    operands_of,
    out_shape,
    places_of,
    product,
)
from frenzy.accounting.graph import Node
from frenzy.accounting.linear import conv, einsum, mat_mul, transposed_conv, volume_conv
from frenzy.accounting.live_channels import LIVE, ZERO, channels_last
from frenzy.accounting.patterns import Norm
from frenzy.accounting.storage import Stored
from frenzy.accounting.widths import quantizer_bits
from frenzy.accounting.windows import cumulative, pool, product_of, reduction, softmax, volume_pool


def _channels(ctx: Context, node: Node) -> int:
    """Live channels of the output; all of them where the channels come first."""
    return live_count(ctx.states((node.name, 0))) if channels_last(node) else out_shape(ctx, node)[1]


def _normalizes_rows(ctx: Context, node: Node) -> bool:
    """Whether a FusedBatchNorm in training form is a layer normalisation: tf_keras reshapes (..., n) to (1, rows, n, 1), channels
    first, so that a "channel" is a row and its statistics are over the n values of the last axis, never over the batch."""
    if channels_last(node):
        return False
    reshape = ctx.graph.nodes[ctx.graph.source(node.inputs[0])[0]]
    before = ctx.graph.shape(reshape.inputs[0]) if reshape.op == "Reshape" else None
    after = ctx.graph.shape(node.inputs[0])
    if not before or before[-1] is None or after is None or len(after) != 4:
        return False
    return (after[0], after[2], after[3]) == (1, before[-1], 1)


def batch_norm(ctx: Context, node: Node) -> Facts:
    """Inference needs a scale and a shift for every live channel; moving statistics are folded into these two."""
    if node.attrs.get("is_training", True):
        if _normalizes_rows(ctx, node):
            return elementwise(ctx, node, "normalize")
        raise UnknownFacts("it takes its statistics from the batch, as in training; export the network for inference")
    stored = [s for ref in node.inputs[1:5] if not ctx.graph.depends(ref) for s in ctx.ledger.take(ref)]
    moving = [s for s in stored[-2:] if s.elements]  # mean and variance; a BN that is called twice is stored once
    return dataclasses.replace(_norm(ctx, node, moving), kept=tuple(stored))


def _norm(ctx: Context, node: Node, fresh: list[Stored], begins: str | None = None) -> Facts:
    """A scale and a shift of the node's output, stored now if one of the tensors that make them is."""
    live = _channels(ctx, node)
    channels = live if fresh else 0
    bits = max((s.bits for s in fresh), default=32)
    return Facts(
        "batch_norm",
        elements=elements_of(ctx, node),
        live_in=live,
        live_out=live,
        width=out_shape(ctx, node)[-1 if channels_last(node) else 1],
        channels=channels,
        begins=begins,
        stored=(Stored(node.name, 2 * channels, bits),),
    )


def written_out_norm(ctx: Context, node: Node, norm: Norm) -> Facts:
    """The shift of a normalisation written as a Mul and an Add; it carries the whole, and the Mul is free. See patterns.py."""
    stored = [s for ref in (norm.scale, norm.shift) for s in ctx.ledger.take(ref) if s.elements]
    return _norm(ctx, node, stored, norm.first)


def elementwise(ctx: Context, node: Node, kind: str) -> Facts:
    """One kind of operation for every live output element; constant operands that are tensors are weights."""
    live = live_count(ctx.states((node.name, 0)))
    _, constants = operands_of(ctx, node)
    stored = tuple(s for ref in constants for s in ctx.ledger.take(ref))
    elements = elements_of(ctx, node)
    return Facts(kind, elements=elements, pairs=elements, live_out=live, stored=stored)


def multiply(ctx: Context, node: Node) -> Facts:
    """A product of every live output element; the scale of a normalisation that is written out is counted where that ends."""
    if node.name in ctx.norms:
        return Facts("free", live_out=live_count(ctx.states((node.name, 0))))
    return elementwise(ctx, node, "multiply")


def add(ctx: Context, node: Node) -> Facts:
    """A sum: `pairs` leaves out what is added to a known zero. The sum with a constant tensor is a bias."""
    if node.name in ctx.norms:
        return written_out_norm(ctx, node, ctx.norms[node.name])
    out = out_shape(ctx, node)
    data, constants = operands_of(ctx, node)
    stored = tuple(s for ref in constants for s in ctx.ledger.take(ref))
    channels = out[-1] if out else 1
    states = [
        np.broadcast_to(s, (channels,)) if len(s) in (1, channels) and channels_last(node) else np.full(channels, LIVE)
        for s in map(ctx.states, node.inputs)
    ]
    useful = np.maximum(np.sum([s != ZERO for s in states], axis=0) - 1, 0) * (np.max(states, axis=0) == LIVE)
    live = live_count(ctx.states((node.name, 0)))
    kind = "bias" if stored else "add"
    return Facts(
        kind,
        elements=elements_of(ctx, node).times(max(len(node.inputs) - 1, 1)),
        pairs=product((int(useful.sum()),), places_of(ctx, out)),
        live_in=live_count(ctx.states(data[0])) if len(data) == 1 else None,
        live_out=live,
        stored=stored,
    )


def free(ctx: Context, node: Node) -> Facts:
    """Moves data or renames it. What it moves may be weights: a table that is looked up, a learned token that is joined on."""
    _, constants = operands_of(ctx, node)
    stored = tuple(s for ref in constants for s in ctx.ledger.take(ref))
    live = live_count(ctx.states((node.name, 0))) if node.shapes and node.shapes[0] else None
    return Facts("free", live_out=live, stored=stored)


def fake_quantization(ctx: Context, node: Node) -> Facts:
    """Says how wide values are: a network that computes at that width needs no operation to get there."""
    return dataclasses.replace(free(ctx, node), bits=quantizer_bits(ctx.graph, node))


Rule = Callable[[Context, Node], Facts]
FREE = free

_elementary = {kind: partial(elementwise, kind=kind) for kind in ELEMENTARY}

RULES: dict[str, Rule] = {
    "Abs": _elementary["compare"],
    "Add": add,
    "AddN": add,
    "AddV2": add,
    "All": partial(reduction, kind="max_pool"),
    "Any": partial(reduction, kind="max_pool"),
    "ArgMax": FREE,  # an answer, not arithmetic
    "ArgMin": FREE,  # an answer, not arithmetic
    "AvgPool": partial(pool, kind="average_pool"),
    "AvgPool3D": partial(volume_pool, kind="average_pool"),
    "BatchMatMul": mat_mul,
    "BatchMatMulV2": mat_mul,
    "BatchMatMulV3": mat_mul,
    "BatchToSpaceND": FREE,
    "BiasAdd": add,
    "BiasAddV1": add,
    "Bitcast": FREE,
    "BroadcastTo": FREE,
    "Cast": FREE,
    "Ceil": _elementary["compare"],
    "CheckNumerics": FREE,
    "ClipByValue": _elementary["relu6"],
    "Concat": FREE,
    "ConcatV2": FREE,
    "Conv2D": conv,
    "Conv2DBackpropInput": transposed_conv,
    "Conv3D": volume_conv,
    "Conv3DBackpropInputV2": transposed_conv,
    "Cos": _elementary["function"],
    "Cumprod": partial(cumulative, kind="multiply"),
    "Cumsum": partial(cumulative, kind="sum"),
    "DepthToSpace": FREE,
    "DepthwiseConv2dNative": partial(conv, depthwise=True),
    "Div": _elementary["divide"],
    "DivNoNan": _elementary["divide"],
    "Einsum": einsum,
    "Elu": _elementary["elu"],
    "EnsureShape": FREE,
    "Equal": _elementary["compare"],
    "Erf": _elementary["function"],
    "Erfc": _elementary["function"],
    "Exp": _elementary["exp"],
    "ExpandDims": FREE,
    "Expm1": _elementary["expm1"],
    "ExtractImagePatches": FREE,
    "FakeQuantWithMinMaxArgs": fake_quantization,
    "FakeQuantWithMinMaxVars": fake_quantization,
    "FakeQuantWithMinMaxVarsPerChannel": fake_quantization,
    "Fill": FREE,
    "Floor": _elementary["compare"],
    "FloorDiv": _elementary["divide"],
    "FloorMod": _elementary["divide"],
    "FusedBatchNorm": batch_norm,
    "FusedBatchNormV2": batch_norm,
    "FusedBatchNormV3": batch_norm,
    "Gather": FREE,
    "GatherNd": FREE,
    "GatherV2": FREE,
    "Greater": _elementary["compare"],
    "GreaterEqual": _elementary["compare"],
    "Identity": FREE,
    "IdentityN": FREE,
    "Inv": _elementary["divide"],
    "LRN": _elementary["local_response_norm"],
    "LeakyRelu": _elementary["leaky_relu"],
    "Less": _elementary["compare"],
    "LessEqual": _elementary["compare"],
    "Log": _elementary["log"],
    "Log1p": _elementary["log1p"],
    "LogSoftmax": softmax,  # a subtraction in place of the division
    "LogicalAnd": _elementary["compare"],
    "LogicalNot": _elementary["compare"],
    "LogicalOr": _elementary["compare"],
    "MatMul": mat_mul,
    "MatrixBandPart": FREE,
    "Max": partial(reduction, kind="max_pool"),
    "MaxPool": partial(pool, kind="max_pool"),
    "MaxPool3D": partial(volume_pool, kind="max_pool"),
    "MaxPoolWithArgmax": partial(pool, kind="max_pool"),
    "Maximum": _elementary["compare"],
    "Mean": partial(reduction, kind="average_pool"),
    "Min": partial(reduction, kind="max_pool"),
    "Minimum": _elementary["compare"],
    "MirrorPad": FREE,
    "Mul": multiply,
    "MulNoNan": _elementary["multiply"],
    "Neg": FREE,  # a sign folds into what comes next
    "NotEqual": _elementary["compare"],
    "OneHot": FREE,
    "OnesLike": FREE,
    "Pack": FREE,
    "Pad": FREE,
    "PadV2": FREE,
    "Placeholder": FREE,
    "Pow": _elementary["power"],
    "PreventGradient": FREE,
    "Prod": product_of,
    "QuantizeAndDequantizeV2": fake_quantization,
    "QuantizeAndDequantizeV3": fake_quantization,
    "QuantizeAndDequantizeV4": fake_quantization,
    "RealDiv": _elementary["divide"],
    "Reciprocal": _elementary["divide"],
    "Relu": _elementary["relu"],
    "Relu6": _elementary["relu6"],
    "Reshape": FREE,
    "ResizeBicubic": _elementary["bicubic"],
    "ResizeBilinear": _elementary["bilinear"],
    "ResizeNearestNeighbor": FREE,
    "ResourceGather": FREE,
    "ReverseV2": FREE,
    "Rint": _elementary["compare"],
    "Roll": FREE,
    "Round": _elementary["compare"],
    "Rsqrt": _elementary["power"],
    "Select": _elementary["compare"],
    "SelectV2": _elementary["compare"],
    "Selu": _elementary["selu"],
    "Sigmoid": _elementary["sigmoid"],
    "Sign": _elementary["compare"],
    "Sin": _elementary["function"],
    "Slice": FREE,
    "Snapshot": FREE,
    "Softmax": softmax,
    "Softplus": _elementary["softplus"],
    "Softsign": _elementary["softsign"],
    "SpaceToBatchND": FREE,
    "SpaceToDepth": FREE,
    "Split": FREE,
    "SplitV": FREE,
    "Sqrt": _elementary["power"],
    "Square": _elementary["multiply"],
    "SquaredDifference": _elementary["square_difference"],
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

__all__ = ["KINDS", "NONE", "RULES", "Context", "Count", "Facts", "UnknownFacts", "product"]

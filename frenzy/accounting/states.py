"""States of channels: zero, constant or live; what they are for constants, and how they spread along the last axis."""

import numpy as np

from frenzy.accounting.graph import Graph, Node, Ref

ZERO, CONST, LIVE = 0, 1, 2

States = np.ndarray  # uint8, one state a channel


def width(graph: Graph, ref: Ref) -> int | None:
    """The length of a tensor's last axis; 1 for a scalar, None where it is not known."""
    shape = graph.shape(ref)
    if shape is None:
        return None
    return shape[-1] if shape else 1


def all_live(graph: Graph, ref: Ref) -> States:
    return np.full(width(graph, ref) or 1, LIVE, np.uint8)


def of_constant(graph: Graph, ref: Ref) -> States:
    """States of a tensor that no image changes: by its value if it is a literal, by its shape if it is a variable."""
    channels = width(graph, ref)
    shape = graph.shape(ref)
    if channels is None or shape is None:
        return all_live(graph, ref)
    value = graph.constant(ref)
    if value is not None and value.dtype.kind in "fiub" and value.size:
        rows = value.reshape(-1, channels)
        same = (rows == rows[0]).all(0)
        return np.where(same, np.where(rows[0] == 0, ZERO, CONST), LIVE).astype(np.uint8)
    uniform = all(dim == 1 for dim in shape[:-1])
    return np.full(channels, CONST if uniform else LIVE, np.uint8)


def spread(states: States, channels: int) -> States:
    """Broadcasting along the last axis."""
    return np.broadcast_to(states, (channels,)) if len(states) in (1, channels) else np.full(channels, LIVE, np.uint8)


def zero_or_live(rows: States) -> States:
    """One state for every column: zero where all rows are, else live."""
    return np.where((rows == ZERO).all(0), ZERO, LIVE).astype(np.uint8)


def borders_matter(node: Node, graph: Graph) -> bool:
    """Whether a conv pads: then a constant channel does not give a constant, because the padding is zero and not that constant."""
    padding = node.attrs.get("padding", "VALID")
    kernel = graph.shape(node.inputs[1])
    image, output = graph.shape(node.inputs[0]), node.shapes[0]
    if padding == "VALID":
        return False
    if padding == "EXPLICIT":
        return any(node.attrs.get("explicit_paddings", ()))
    if not kernel or not image or not output or None in (*kernel, *image, *output):
        return True
    for axis in range(len(kernel) - 2):
        dilation = (node.attrs.get("dilations") or [1] * len(image))[axis + 1]
        stride = node.attrs["strides"][axis + 1]
        reach = (int(kernel[axis] or 0) - 1) * dilation + 1
        if (int(output[axis + 1] or 0) - 1) * stride + reach > int(image[axis + 1] or 0):
            return True
    return False


def channels_last(node: Node) -> bool:
    return node.attrs.get("data_format", "NHWC") in ("NHWC", "NDHWC")


def read_by_conv(graph: Graph, node: Node, states: States) -> np.ndarray:
    """Which input channels a conv has to read: live ones, and constants where its padding makes them differ at the borders."""
    return states >= (CONST if borders_matter(node, graph) else LIVE)

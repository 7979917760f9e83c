"""What becomes of channels that are moved: padded, joined, cut, split, merged, exchanged. See live_channels.py."""

from typing import Protocol

import numpy as np

from frenzy.accounting.graph import Graph, Node, Ref
from frenzy.accounting.states import CONST, LIVE, ZERO, States, spread, width, zero_or_live


class Walk(Protocol):
    """The graph, and the states found so far."""

    graph: Graph

    def of(self, ref: Ref) -> States: ...


def pad(walk: Walk, node: Node, ref: Ref) -> States | None:
    """Zeros behind the channels are ZERO; a border around the image keeps zeros alone from becoming LIVE."""
    pads = walk.graph.constant(node.inputs[1])
    if pads is None:
        return None
    filler = ZERO
    if node.op == "PadV2":
        value = walk.graph.constant(node.inputs[2])
        filler = LIVE if value is None else CONST if np.any(value != 0) else ZERO
    states = walk.of(node.inputs[0])
    if pads[:-1].any() and node.op != "MirrorPad":
        states = np.where((states == ZERO) & (filler == ZERO), ZERO, LIVE)
    if node.op == "MirrorPad":
        return states if not pads[-1].any() else None
    return np.pad(states, tuple(int(n) for n in pads[-1]), constant_values=filler)


def concat(walk: Walk, node: Node, ref: Ref) -> States | None:
    axis = walk.graph.constant(node.inputs[-1] if node.op == "ConcatV2" else node.inputs[0])
    parts = node.inputs[:-1] if node.op == "ConcatV2" else node.inputs[1:]
    rank = len(walk.graph.shape(parts[0]) or ())
    if axis is None or not rank:
        return None
    if int(axis) % rank == rank - 1:
        return np.concatenate([walk.of(part) for part in parts])
    joined = np.stack([walk.of(part) for part in parts])
    return np.where((joined == joined[0]).all(0) & (joined[0] == ZERO), ZERO, LIVE)


def reshape(walk: Walk, node: Node, ref: Ref) -> States | None:
    """The last axis kept, merged with others (flatten: the states repeat) or split (a channel of several is zero if all are)."""
    before, after = walk.graph.shape(node.inputs[0]), walk.graph.shape(ref)
    states = walk.of(node.inputs[0])
    if not before or not after or None in before or after[-1] is None or not before[-1] or not after[-1]:
        return None
    if (shuffled := _shuffled(walk, node, ref)) is not None:
        return shuffled
    if after[-1] % before[-1] == 0:
        return np.tile(states, after[-1] // before[-1])
    return zero_or_live(states.reshape(-1, after[-1])) if before[-1] % after[-1] == 0 else None


def _shuffled(walk: Walk, node: Node, ref: Ref) -> States | None:
    """Channels split into axes, these exchanged, and joined again: a channel shuffle moves the states as it moves channels."""
    swap = walk.graph.nodes[walk.graph.source(node.inputs[0])[0]]
    split = walk.graph.nodes[walk.graph.source(swap.inputs[0])[0]] if swap.op == "Transpose" else None
    if split is None or split.op != "Reshape":
        return None
    start, middle, end = (walk.graph.shape(tensor) for tensor in (split.inputs[0], swap.inputs[0], ref))
    order = walk.graph.constant(swap.inputs[1])
    if not start or not middle or not end or order is None or start[-1] is None or None in middle:
        return None
    kept = len(start) - 1
    if start[:kept] != middle[:kept] or end[-1] != start[-1] or list(order[:kept]) != list(range(kept)) or end != start:
        return None
    axes = tuple(int(axis) - kept for axis in order[kept:])
    return walk.of(split.inputs[0]).reshape(tuple(dim or 0 for dim in middle[kept:])).transpose(axes).ravel()


def transpose(walk: Walk, node: Node, ref: Ref) -> States | None:
    order = walk.graph.constant(node.inputs[1])
    states = walk.of(node.inputs[0])
    return states if order is not None and order[-1] == len(order) - 1 else None


def space_to_depth(walk: Walk, node: Node, ref: Ref) -> States:
    """A block of b x b positions becomes b x b times the channels."""
    return np.tile(walk.of(node.inputs[0]), int(node.attrs["block_size"]) ** 2)


def depth_to_space(walk: Walk, node: Node, ref: Ref) -> States:
    return zero_or_live(walk.of(node.inputs[0]).reshape(int(node.attrs["block_size"]) ** 2, -1))


def padded_with_zeros(walk: Walk, node: Node, ref: Ref) -> States:
    """Constants are joined by zeros at borders, or by their neighbours: they are no constants then."""
    return zero_or_live(walk.of(node.inputs[0])[None])


def stays(walk: Walk, node: Node, ref: Ref) -> States:
    """Positions leave or repeat; channels stay, or one becomes all."""
    return spread(walk.of(node.inputs[0]), width(walk.graph, ref) or 1)


def tile(walk: Walk, node: Node, ref: Ref) -> States | None:
    times = walk.graph.constant(node.inputs[1])
    return np.tile(walk.of(node.inputs[0]), int(times[-1])) if times is not None and times.size else None


def gather(walk: Walk, node: Node, ref: Ref) -> States | None:
    """Channels by constant indices, or other positions by any."""
    axis, indices = walk.graph.constant(node.inputs[2]), walk.graph.constant(node.inputs[1])
    rank, states = len(walk.graph.shape(node.inputs[0]) or ()), walk.of(node.inputs[0])
    if axis is None or indices is None or not rank or node.attrs.get("batch_dims"):
        return None
    if int(axis) % rank != rank - 1:
        return states
    return states[indices] if indices.ndim == 1 else None


def unpack(walk: Walk, node: Node, ref: Ref) -> States | None:
    rank = len(walk.graph.shape(node.inputs[0]) or ())
    return walk.of(node.inputs[0]) if rank and int(node.attrs.get("axis", 0)) % rank != rank - 1 else None


def pack(walk: Walk, node: Node, ref: Ref) -> States | None:
    """A new axis in front of the channels; a new last axis has the joined tensors as its channels."""
    rank = len(walk.graph.shape(ref) or ())
    states = [walk.of(source) for source in node.inputs]
    if rank < 2 or int(node.attrs.get("axis", 0)) % rank == rank - 1:
        return None
    return zero_or_live(np.stack(states))


def cut(walk: Walk, node: Node, ref: Ref) -> States | None:
    begin, size = (walk.graph.constant(source) for source in node.inputs[1:3])
    if begin is None or size is None:
        return None
    states = walk.of(node.inputs[0])
    start, count = int(begin[-1]), int(size[-1])
    return states[start:] if count < 0 else states[start : start + count]


def strided_slice(walk: Walk, node: Node, ref: Ref) -> States | None:
    """x[a:b, None, 0, ..., c:d:e]: what the last axis keeps; LIVE where the last axis is taken away or stands before a new one."""
    masks = {key: int(node.attrs.get(f"{key}_mask") or 0) for key in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    source = walk.graph.shape(node.inputs[0])
    begin, end, step = (walk.graph.constant(bound) for bound in node.inputs[1:4])
    if not source or begin is None or end is None or step is None:
        return None
    consuming = [i for i in range(len(begin)) if not masks["new_axis"] >> i & 1 or masks["ellipsis"] >> i & 1]
    states = walk.of(node.inputs[0])
    if not masks["ellipsis"] and len(consuming) < len(source):
        return states
    last = consuming[-1]
    if last != len(begin) - 1 or masks["shrink_axis"] >> last & 1:
        return None
    if masks["ellipsis"] >> last & 1:
        return states
    low = None if masks["begin"] >> last & 1 else int(begin[last])
    high = None if masks["end"] >> last & 1 else int(end[last])
    return states[slice(low, high, int(step[last]))]


def split(walk: Walk, node: Node, ref: Ref) -> States | None:
    axis = walk.graph.constant(node.inputs[2] if node.op == "SplitV" else node.inputs[0])
    source = node.inputs[0] if node.op == "SplitV" else node.inputs[1]
    rank = len(walk.graph.shape(source) or ())
    if axis is None or not rank:
        return None
    states = walk.of(source)
    if int(axis) % rank != rank - 1:
        return states
    sizes = [width(walk.graph, (node.name, i)) or 0 for i in range(len(node.shapes))]
    start = sum(sizes[: ref[1]])
    return states[start : start + sizes[ref[1]]]

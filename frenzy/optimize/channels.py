"""Channels that carry nothing leave the graph: kernels and vectors are sliced, pads shrink, constants move into biases.

The accountant says which channels are zero or constant (live_channels). Of these a channel stays only where a reader needs it:
backwards, every node says which channels of its inputs it cannot do without; then forwards, every node is rewritten for the
channels that are left of its inputs. A node without a rule needs all of them, so everything before it stays as it is.
"""

from collections.abc import Callable, Mapping

import numpy as np

from frenzy.accounting.graph import Node, Ref
from frenzy.accounting.live_channels import live_channels
from frenzy.accounting.states import CONST, LIVE, ZERO, borders_matter, channels_last
from frenzy.optimize.families import data_index, family_of
from frenzy.optimize.linear import KERNEL, response, take_inputs
from frenzy.optimize.network import Network, Step, ref_of
from frenzy.optimize.norms import add_bias

Mask = np.ndarray  # bool, one a channel of a tensor of the original

NAME = "zero and constant channels removed"
DT_FLOAT, DT_INT32 = 1, 3


class Channels:
    """The graph as it was, what is known of its channels, what is needed of them, and which are left."""

    def __init__(self, network: Network):
        self.network, self.graph = network, network.view()
        self.states = live_channels(self.graph)
        self.demands: dict[Ref, Mask] = {}
        self.left: dict[Ref, Mask] = {}
        self.families: dict[str, str] = {}
        self.refused: list[tuple[str, str]] = []
        self.values: dict[Ref, np.ndarray] = {}
        self.changed: set[str] = set()

    # what is needed, backwards

    def needed(self, ref: Ref) -> Mask:
        """Live channels, and those that a reader cannot do without."""
        live = self.states(ref) == LIVE
        return live | self.demands[ref] if ref in self.demands else live

    def demand(self, ref: Ref, mask: Mask) -> None:
        known = self.demands.get(ref)
        self.demands[ref] = mask.copy() if known is None else known | mask

    def ask(self) -> None:
        for ref in self.graph.outputs:
            self.demand(ref, np.ones(len(self.states(ref)), bool))
        for node in reversed(list(self.graph.nodes.values())):
            if node.name in self.graph.data_nodes and node.name not in self.graph.inputs:
                family, reason = family_of(self.network, self.graph, node)
                if family:
                    self.families[node.name] = family
                    RULES[family][0](self, node)
                    continue
                for ref in node.inputs:
                    if self.graph.depends(ref):
                        self.demand(ref, np.ones(len(self.states(ref)), bool))
                if any((self.states(ref) < LIVE).any() for ref in node.inputs if self.graph.depends(ref)):
                    self.refused.append((node.name, reason))

    # what is left, forwards

    def of(self, ref: Ref) -> Mask:
        """The channels that are there now."""
        return self.left[ref] if ref in self.left else np.ones(len(self.states(ref)), bool)

    def rewrite(self) -> None:
        for node in self.graph.nodes.values():
            if node.name in self.families:
                RULES[self.families[node.name]][1](self, node)

    def now(self, node: Node, index: int) -> Ref:
        """What an input has become."""
        return ref_of(self.network.nodes[node.name].input[index])

    def give(self, node: Node, index: int, ref: Ref) -> None:
        self.network.connect(node.name, index, ref)

    def is_gone(self, ref: Ref) -> bool:
        return not self.of(ref).any()

    def fit(self, ref: Ref, have: Mask, want: Mask, name: str) -> Ref:
        """A tensor of channels `have` as one of channels `want`; what it lacks is zero."""
        if (have == want).all():
            return ref
        kept = have & want
        if (have != kept).any():
            ref = self._gather(ref, np.flatnonzero(kept[have]), f"{name}/kept")
        missing = np.flatnonzero(~kept[want])
        if not len(missing):
            return ref
        rank = len(self.graph.shape((name, 0)) or ())
        own = np.flatnonzero(kept[want])
        if own[-1] - own[0] + 1 == len(own):
            return self._pad(ref, rank, (int(own[0]), int(kept[want].size - 1 - own[-1])), f"{name}/zeros")
        order = np.full(int(want.sum()), len(own))
        order[own] = np.arange(len(own))
        return self._gather(self._pad(ref, rank, (0, 1), f"{name}/zeros"), order, f"{name}/spread")

    def _gather(self, ref: Ref, order: np.ndarray, name: str) -> Ref:
        indices = self.network.literal(f"{name}/indices", order.astype(np.int32))
        axis = self.network.literal(f"{name}/axis", np.asarray(-1, np.int32))
        return self.network.add(name, "GatherV2", [ref, indices, axis], Tparams=DT_FLOAT, Tindices=DT_INT32, Taxis=DT_INT32)

    def _pad(self, ref: Ref, rank: int, around: tuple[int, int], name: str) -> Ref:
        pads = np.zeros((rank, 2), np.int32)
        pads[-1] = around
        paddings = self.network.literal(f"{name}/paddings", pads)
        return self.network.add(name, "Pad", [ref, paddings], T=DT_FLOAT, Tpaddings=DT_INT32)


# One rule a family of nodes: what it needs of its inputs, and what becomes of it


def each_needs(walk: Channels, node: Node) -> None:
    walk.demand(node.inputs[data_index(walk.graph, node)], walk.needed((node.name, 0)))


def each_becomes(walk: Channels, node: Node) -> None:
    walk.left[(node.name, 0)] = walk.of(node.inputs[data_index(walk.graph, node)])


def vector_becomes(walk: Channels, node: Node) -> None:
    """Constants of one value a channel lose what the data has lost."""
    data = data_index(walk.graph, node)
    left = walk.of(node.inputs[data])
    walk.left[(node.name, 0)] = left
    if left.all() or not left.any():
        return
    walk.changed.add(node.name)
    for index in range(len(node.inputs)):
        operand = walk.network.operand(walk.now(node, index)) if index != data else None
        if operand is not None and operand.value.shape[-1:] == (len(left),):
            walk.network.exchange(node.name, index, operand.value[..., left])


def sum_needs(walk: Channels, node: Node) -> None:
    """A channel that is zero in one summand is not needed there; of a summand that cannot be dropped something is."""
    needed = walk.needed((node.name, 0))
    masks = [needed & (walk.states(ref) != ZERO) for ref in node.inputs]
    for index, (ref, mask) in enumerate(zip(node.inputs, masks, strict=True)):
        droppable = _droppable(walk, node, index) and masks[1 - index].any()
        walk.demand(ref, mask if mask.any() or droppable or not needed.any() else np.ones(len(mask), bool))


def _droppable(walk: Channels, node: Node, index: int) -> bool:
    """Whether a summand of zeros may go: the other has the output's shape, and is not subtracted."""
    return walk.graph.shape(node.inputs[1 - index]) == node.shapes[0] and not (node.op == "Sub" and index == 0)


def sum_becomes(walk: Channels, node: Node) -> None:
    """A channel is there if it is in a summand, and each other has it too or is zero there."""
    masks = [walk.of(ref) for ref in node.inputs]
    whole = [mask | (walk.states(ref) == ZERO) for ref, mask in zip(node.inputs, masks, strict=True)]
    want = np.logical_and.reduce(whole) & (np.logical_or.reduce(masks) | walk.needed((node.name, 0)))
    walk.left[(node.name, 0)] = want
    if not want.any():
        return
    gone = [not (mask & want).any() for mask in masks]
    if any(gone):
        kept = gone.index(False)
        assert _droppable(walk, node, 1 - kept)
        only = walk.fit(walk.now(node, kept), masks[kept], want, node.name)
        walk.network.rewire((node.name, 0), only)
        walk.changed.add(node.name)
        return
    for index, mask in enumerate(masks):
        walk.give(node, index, walk.fit(walk.now(node, index), mask, want, node.name))
    if not want.all():
        walk.changed.add(node.name)


def product_needs(walk: Channels, node: Node) -> None:
    for ref in node.inputs:
        walk.demand(ref, walk.needed((node.name, 0)))


def product_becomes(walk: Channels, node: Node) -> None:
    masks = [walk.of(ref) for ref in node.inputs]
    want = masks[0] & masks[1]
    walk.left[(node.name, 0)] = want
    if want.any():
        for index, mask in enumerate(masks):
            walk.give(node, index, walk.fit(walk.now(node, index), mask, want, node.name))


def _pads(walk: Channels, node: Node) -> np.ndarray:
    pads = walk.graph.constant(node.inputs[1])
    assert pads is not None
    return np.asarray(pads)


def pad_needs(walk: Channels, node: Node) -> None:
    before, after = _pads(walk, node)[-1]
    needed, ref = walk.needed((node.name, 0)), node.inputs[0]
    own = needed[before : len(needed) - after]
    bare = needed.any() and not (own | (walk.states(ref) == LIVE)).any()  # zeros are made around something
    walk.demand(ref, np.ones(len(own), bool) if bare else own)


def pad_becomes(walk: Channels, node: Node) -> None:
    """Zero channels that nobody needs are not made; a pad that then adds nothing is dropped. A sum may ask for it again."""
    pads = _pads(walk, node).copy()
    before, after = (int(n) for n in pads[-1])
    needed, left = walk.needed((node.name, 0)), walk.of(node.inputs[0])
    front, back = needed[:before], needed[len(needed) - after :]
    walk.left[(node.name, 0)] = np.concatenate([front, left, back])
    pads[-1] = int(front.sum()), int(back.sum())
    if not left.any():
        assert not walk.left[(node.name, 0)].any()
    elif not pads.any():
        walk.network.rewire((node.name, 0), walk.now(node, 0))
    elif (before, after) != tuple(pads[-1]):
        walk.give(node, 1, walk.network.literal(f"{node.name}/paddings", pads))


def concat_needs(walk: Channels, node: Node) -> None:
    needed, start = walk.needed((node.name, 0)), 0
    for ref in node.inputs[:-1]:
        channels = len(walk.states(ref))
        walk.demand(ref, needed[start : start + channels])
        start += channels


def concat_becomes(walk: Channels, node: Node) -> None:
    parts = node.inputs[:-1]
    walk.left[(node.name, 0)] = np.concatenate([walk.of(ref) for ref in parts])
    kept = [i for i, ref in enumerate(parts) if not walk.is_gone(ref)]
    if len(kept) == len(parts) or not kept:
        return
    walk.changed.add(node.name)
    if len(kept) == 1:
        walk.network.rewire((node.name, 0), walk.now(node, kept[0]))
        return
    walk.network.reconnect(node.name, [walk.now(node, i) for i in (*kept, len(parts))])
    walk.network.nodes[node.name].attr["N"].i = len(kept)


def depthwise_needs(walk: Channels, node: Node) -> None:
    channels = len(walk.states(node.inputs[0]))
    walk.demand(node.inputs[0], np.any(walk.needed((node.name, 0)).reshape(channels, -1), axis=1))


def depthwise_becomes(walk: Channels, node: Node) -> None:
    left = walk.of(node.inputs[0])
    walk.left[(node.name, 0)] = np.repeat(left, len(walk.states((node.name, 0))) // len(left))
    if left.any() and not left.all():
        kernel = walk.network.operand(walk.now(node, KERNEL))
        assert kernel is not None
        walk.network.exchange(node.name, KERNEL, kernel.value[:, :, left, :])
        walk.changed.add(node.name)


def dot_needs(walk: Channels, node: Node) -> None:
    """Live inputs; constants as well where padding makes them differ at borders; all, if an output that is constant is needed."""
    states, output = walk.states(node.inputs[0]), (node.name, 0)
    reads = CONST if node.op == "Conv2D" and borders_matter(node, walk.graph) else LIVE
    needed = np.asarray(states >= reads)
    if (walk.needed(output) & (walk.states(output) != LIVE)).any():
        needed = np.ones(len(states), bool)
    elif walk.needed(output).any() and (unsure := needed_by_value(walk, node, states)).any():
        needed |= unsure
    walk.demand(node.inputs[0], needed)


def needed_by_value(walk: Channels, node: Node, states: np.ndarray) -> Mask:
    """Constant channels that do not show as constants when the network runs: they are kept, whatever was proven."""
    values = walk.values.get(node.inputs[0])
    if values is None:
        return np.zeros(len(states), bool)
    rows = values.reshape(-1, len(states))
    spread = np.abs(rows - rows[0]).max(axis=0) > 1e-6 * np.maximum(np.abs(rows[0]), 1)
    return (states == CONST) & (spread | ~np.isfinite(rows[0]))


def dot_becomes(walk: Channels, node: Node) -> None:
    """Rows of the kernel go with their inputs; what constants gave moves to the bias."""
    ref, output = node.inputs[0], (node.name, 0)
    left = walk.of(ref)
    if not walk.needed(output).any():
        walk.left[output] = np.zeros(len(walk.states(output)), bool)
        return
    if left.all():
        return
    kernel = walk.network.operand(walk.now(node, KERNEL))
    assert kernel is not None
    walk.network.exchange(node.name, KERNEL, take_inputs(node, kernel.value, left))
    walk.changed.add(node.name)
    gone = (walk.states(ref) == CONST) & ~left
    if gone.any():
        constants = np.where(gone, walk.values[ref].reshape(-1, len(left))[0].astype(np.float64), 0)
        add_bias(walk.network, node.name, response(node, kernel.value.astype(np.float64), constants))


Rule = tuple[Callable[[Channels, Node], None], Callable[[Channels, Node], None]]

RULES: Mapping[str, Rule] = {
    "concat": (concat_needs, concat_becomes),
    "depthwise": (depthwise_needs, depthwise_becomes),
    "dot": (dot_needs, dot_becomes),
    "each": (each_needs, each_becomes),
    "pad": (pad_needs, pad_becomes),
    "product": (product_needs, product_becomes),
    "sum": (sum_needs, sum_becomes),
    "vector": (each_needs, vector_becomes),
}


def _reason_at_borders(walk: Channels) -> list[tuple[str, str]]:
    """The convs that read constants because they pad."""
    found = []
    for node in walk.graph.nodes.values():
        if node.op in ("Conv2D", "DepthwiseConv2dNative") and node.name in walk.graph.data_nodes and channels_last(node):
            constants = int((walk.states(node.inputs[0]) == CONST).sum())
            if constants and borders_matter(node, walk.graph):
                found.append(
                    (node.name, f"{constants} of its inputs are constants, but it pads: at borders its zeros differ from them")
                )
    return found


def _constants(walk: Channels, images: Mapping[str, np.ndarray]) -> None:
    """The values of tensors with constant channels that convs and dense layers read."""
    refs = {
        node.inputs[0]: None
        for node in walk.graph.nodes.values()
        if node.op in ("Conv2D", "MatMul") and node.name in walk.graph.data_nodes and walk.graph.depends(node.inputs[0])
        and (walk.states(node.inputs[0]) == CONST).any()
    }  # fmt: skip
    for ref, value in zip(refs, walk.network.run(list(refs), images) if refs else (), strict=True):
        walk.values[ref] = value


def remove_channels(network: Network, images: Mapping[str, np.ndarray]) -> Step:
    """Removes what is known to be zero or constant; `images` are any inputs, from which the constants' values are read off."""
    walk = Channels(network)
    if not any((walk.states((name, 0)) < LIVE).any() for name in walk.graph.data_nodes):
        return Step(NAME)
    _constants(walk, images)
    walk.ask()
    walk.rewrite()
    network.prune()
    return Step(NAME, len(walk.changed), (*walk.refused, *_reason_at_borders(walk)))

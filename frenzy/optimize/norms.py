"""Batch normalisation folded into the conv or dense layer beside it: where the accountant prices it so, the graph does it.

scale = gamma / sqrt(variance + epsilon), shift = beta - mean * scale; a conv before it gets kernel * scale and a bias, a conv
after it, if it pads nothing, the kernel scaled by input and what the shift gives as bias. What only scales a code stays.
"""

import dataclasses

import numpy as np

from frenzy.accounting.account import few_valued, find_facts, narrow_maps
from frenzy.accounting.conventions.base import Terms
from frenzy.accounting.conventions.forms import hold
from frenzy.accounting.facts import Facts
from frenzy.accounting.folding import BIASES, Folding, fold
from frenzy.accounting.graph import Graph, Ref
from frenzy.accounting.live_channels import BATCH_NORMS, channels_last
from frenzy.accounting.patterns import unfused_norms
from frenzy.optimize.linear import KERNEL, LINEAR, response, scale_inputs, scale_outputs
from frenzy.optimize.network import Network, Step, ref_of

FLOAT = 1  # DT_FLOAT


@dataclasses.dataclass(frozen=True)
class _Affine:
    """x * scale + shift, a value a channel, from the tensor `source` to the node `last`."""

    last: str
    source: Ref
    scale: np.ndarray
    shift: np.ndarray


class _Refusal(Exception):
    """Why a node is left alone."""


def allowance(graph: Graph, found) -> bool:
    """Whether nothing is below 16 bits: then the challenge's rules count 16 bits, however wide a weight is stored."""
    stored = [s.bits for facts in found.facts.values() for s in facts.stored]
    return not narrow_maps(graph) and not few_valued(found) and all(bits >= 16 for bits in stored)


def fold_norms(network: Network, narrow_again: bool = False) -> Step:
    """Folds every BN that has a conv beside it. `narrow_again`: folded weights are rounded to 16 bits afterwards."""
    graph = network.view()
    found = find_facts(graph, network.value)
    plan = fold(graph, found.facts)
    allowed = allowance(graph, found)
    changed, left = 0, []
    for name, facts in found.facts.items():
        if facts.kind == "batch_norm":
            try:
                _fold(network, graph, name, plan.get(name), found.facts, allowed, narrow_again)
                changed += 1
            except _Refusal as reason:
                left.append((name, str(reason)))
    left += [(name, found.unknown[name]) for name in found.unknown if graph.nodes[name].op in BATCH_NORMS]
    network.prune()
    return Step("batch norms folded into convs and dense layers", changed, tuple(left))


def _fold(
    network: Network, graph: Graph, name: str, where: Folding | None, facts: dict[str, Facts], allowed: bool, narrow_again: bool
) -> None:
    if where is None or where.into is None:
        raise _Refusal(_place(network, graph, name))
    conv = graph.nodes[where.into]
    if conv.op not in LINEAR or not channels_last(conv):
        raise _Refusal(f"{conv.op} '{conv.name}' beside it takes no scale here: not a conv or dense layer with channels last")
    if conv.attrs.get("T") != "DT_FLOAT":
        raise _Refusal(f"'{conv.name}' beside it computes in {conv.attrs.get('T')}, not in 32 bits")
    kernel = network.operand(ref_of(network.nodes[conv.name].input[KERNEL]))
    if kernel is None:
        raise _Refusal(f"the kernel of '{conv.name}' is computed, not stored as it is read")
    if network.uses(kernel.holder) > 1:
        raise _Refusal(f"the kernel of '{conv.name}' is read elsewhere too")
    held = hold(facts[conv.name], Terms(allowance=allowed, widths=True))
    if held is not None and held.form.coded:
        raise _Refusal(f"the weights of '{conv.name}' are codes ({held.form.text}): no scale folds into them")
    if not allowed and kernel.value.dtype.itemsize < 4 and not narrow_again:
        raise _Refusal(
            f"the weights of '{conv.name}' have {kernel.value.dtype.itemsize * 8} bits beside others that are codes: "
            "folded they would take 32 and count so"
        )
    norm = _affine(network, graph, name)
    if where.bias_elements is None:
        _into_before(network, conv, kernel.value, norm)
    else:
        _into_after(network, conv, kernel.value, norm)


def _place(network: Network, graph: Graph, name: str) -> str:
    """Where a BN stands that has nothing to fold into."""
    source = next(ref for ref in graph.nodes[name].inputs if graph.depends(ref))
    shared = " (which others read as well)" if len(network.readers(source)) > 1 else ""
    node = graph.nodes[source[0]]
    if node.op in LINEAR and graph.depends(node.inputs[KERNEL]):
        return f"{node.op} in front of it computes its kernel from the image"
    after = ", ".join(sorted({graph.nodes[reader].op for reader, _ in network.readers((name, 0)) if reader})) or "the output"
    return f"between {node.op}{shared} and {after}: no conv or dense layer that it folds into"


def _affine(network: Network, graph: Graph, name: str) -> _Affine:
    """The scale and the shift of a normalisation, fused or written out, in double precision."""
    node = graph.nodes[name]
    written = unfused_norms(graph).get(name) if node.op not in BATCH_NORMS else None
    parts = (written.scale, written.shift) if written else node.inputs[1:5]
    for part in parts:
        if (operand := network.operand(part)) and not operand.literal and network.uses(operand.holder) > 1:
            raise _Refusal(f"its '{network.names[operand.holder]}' is read elsewhere too")
    values = [network.constant(graph, part) for part in parts]
    known = [np.asarray(value, np.float64).reshape(-1) for value in values if value is not None]
    if len(known) < len(parts) or not all(np.isfinite(value).all() for value in known):
        raise _Refusal("its constants are not known, or not finite")
    if written:
        sign = -1 if graph.nodes[written.last].op == "Sub" else 1
        place = graph.nodes[written.first].inputs.index(written.source)
        return _Affine(written.last, _now(network, written.first, place), known[0], sign * known[1])
    gamma, beta, mean, variance = known
    if (variance + node.attrs["epsilon"] <= 0).any():
        raise _Refusal("its variance is not above zero")
    scale = gamma / np.sqrt(variance + np.float32(node.attrs["epsilon"]))
    return _Affine(name, _now(network, name), scale, beta - mean * scale)


def _now(network: Network, name: str, place: int = 0) -> Ref:
    """What a node reads since the folds before."""
    return ref_of(network.nodes[name].input[place])


def _into_before(network: Network, conv, kernel: np.ndarray, norm: _Affine) -> None:
    """conv, biases, BN -> conv with scaled kernel, biases scaled, and the shift added to the last of them."""
    biases = []
    ref = _source(network, norm.source)
    while ref[0] != conv.name:
        biases.append(_bias(network, ref[0], len(norm.scale)))
        ref = _source(network, ref_of(network.nodes[ref[0]].input[1 - biases[-1][1]]))
    network.exchange(conv.name, KERNEL, _single(scale_outputs(conv, kernel.astype(np.float64), norm.scale)))
    for order, (name, index, value) in enumerate(biases):  # the last one first
        scaled = value.reshape(-1).astype(np.float64) * norm.scale + (norm.shift if not order else 0)
        network.exchange(name, index, _single(scaled).reshape(value.shape))
    end = (biases[0][0], 0) if biases else add_bias(network, conv.name, norm.shift)
    network.rewire((norm.last, 0), end)


def _into_after(network: Network, conv, kernel: np.ndarray, norm: _Affine) -> None:
    """BN, conv -> conv with a kernel scaled by input, and a bias."""
    wide = kernel.astype(np.float64)
    shift = response(conv, wide, norm.shift)
    network.exchange(conv.name, KERNEL, _single(scale_inputs(conv, wide, norm.scale)))
    network.rewire((norm.last, 0), norm.source)
    add_bias(network, conv.name, shift)


def _source(network: Network, ref: Ref) -> Ref:
    while network.nodes[ref[0]].op == "Identity":
        ref = ref_of(network.nodes[ref[0]].input[0])
    return ref


def _bias(network: Network, name: str, channels: int) -> tuple[str, int, np.ndarray]:
    """(node, which input is its constant, the constant) of a bias of one value a channel."""
    node = network.nodes[name]
    for index in range(len(node.input)):
        operand = network.operand(ref_of(node.input[index]))
        if operand is not None:
            if operand.value.size != channels or operand.value.shape[-1:] != (channels,):
                raise _Refusal(f"the bias '{name}' in front of it is not one value a channel")
            if network.uses(operand.holder) > 1:
                raise _Refusal(f"the bias of '{name}' is read elsewhere too")
            return name, index, operand.value
    raise _Refusal(f"the bias of '{name}' in front of it is computed")


def _own_bias(network: Network, conv: str, channels: int) -> tuple[str, int, np.ndarray] | None:
    """The bias behind a conv, if nothing else reads the conv and it can be changed."""
    readers = network.readers((conv, 0))
    if len(readers) != 1 or not readers[0][0] or network.nodes[readers[0][0]].op not in BIASES:
        return None
    try:
        return _bias(network, readers[0][0], channels)
    except _Refusal:
        return None


def add_bias(network: Network, conv: str, values: np.ndarray) -> Ref:
    """Adds a value a channel to a conv's output: to the bias that it has, else to a new one. Returns the sum."""
    own = _own_bias(network, conv, len(values))
    if own is not None:
        name, index, value = own
        network.exchange(name, index, _single(value.astype(np.float64) + values.reshape(value.shape)))
        return name, 0
    stem = conv.rpartition("/")[0] or conv
    bias = network.weight(f"{stem}/bias", _single(values), FLOAT)
    made = network.add(f"{stem}/BiasAdd", "BiasAdd", [(conv, 0), bias], T=FLOAT, data_format="NHWC")
    network.rewire((conv, 0), made, but=[made[0]])
    return made


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)

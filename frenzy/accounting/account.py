"""Graph and convention -> Report: facts are found once, then priced node by node."""

import dataclasses
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from frenzy.accounting.contents import Values, is_ternary
from frenzy.accounting.conventions import CONVENTIONS, Convention
from frenzy.accounting.conventions.base import MULTIPLY, Costs, Price, Terms
from frenzy.accounting.conventions.energy import WORD_BITS
from frenzy.accounting.conventions.forms import Held, forfeits
from frenzy.accounting.folding import NOWHERE, fold
from frenzy.accounting.graph import AccountingError, Graph, Node, Ref
from frenzy.accounting.live_channels import all_live, live_channels
from frenzy.accounting.report import UNKNOWN, Report, Row, Shape
from frenzy.accounting.rules import RULES, Context, Count, Facts, UnknownFacts
from frenzy.accounting.storage import Ledger
from frenzy.accounting.widths import is_quantizer, map_widths, quantizer_bits, widest

COMPUTES = frozenset({"add", "bias", "divide", "multiply", "power", "square_difference"})


@dataclasses.dataclass(frozen=True)
class Found:
    """The facts of a graph's data nodes, or why a node has none."""

    facts: dict[str, Facts]
    unknown: dict[str, str]


def find_facts(graph: Graph, value: Callable[[str | None], np.ndarray | None], live: bool = True) -> Found:
    """Facts of every node that the images reach; value(key) gives a variable's array, or None where it is not to be had.

    Without `live` every channel counts, as it does for those who do not look.
    """
    states = live_channels(graph) if live else partial(all_live, graph)
    context = Context(graph, states, Ledger(graph, value))
    widths = map_widths(graph)
    found = Found({}, {})
    for name, node in graph.nodes.items():
        if name not in graph.data_nodes:
            continue
        if node.op not in RULES:
            shapes = ", ".join(str(graph.image_shape(ref)) for ref in node.inputs)
            found.unknown[name] = (
                f"no rule for op '{node.op}' (node '{name}', inputs {shapes}, output {graph.image_shape((name, 0))})"
            )
            continue
        try:
            facts = RULES[node.op](context, node)
            found.facts[name] = dataclasses.replace(facts, reads=widest(map(widths, _operands(graph, node, facts.kind))))
        except UnknownFacts as e:
            found.unknown[name] = f"{node.op} '{name}' cannot be counted: {e}"
    return found


def _operands(graph: Graph, node: Node, kind: str) -> Iterator[Ref]:
    """What an operation's width is taken from: the data, and the constants that it is computed with, but not compared to."""
    for ref in node.inputs:
        if graph.depends(ref) or (kind in COMPUTES and graph.nodes[ref[0]].real):
            yield ref


def _shape(graph: Graph, name: str, index: int = 0) -> Shape:
    return tuple(-1 if dim is None else dim for dim in graph.image_shape((name, index)) or ())


def _decimal(worth: Fraction) -> str:
    """A worth as a short decimal where it is one exactly, else as a fraction."""
    text = f"{float(worth):g}"
    return text if Fraction(text) == worth else str(worth)


def _factor(count: Count) -> str:
    return f"({count.text})" if {"+", "-"} & set(count.text) else count.text


def _formula(price: Price, costs: Costs) -> str:
    """The arithmetic of a row's operations; a label stands behind a '#'."""
    if len(costs) == 2 and costs[0][0] == costs[1][0]:
        count, both = costs[0][0], costs[0][1] + costs[1][1]
        text = count.text if both == 1 else f"{_factor(count)} * {_decimal(both)}"
    else:
        text = " + ".join(count.text if worth == 1 else f"{_factor(count)} * {worth}" for count, worth in costs)
    return f"{text}  # {price.label}".strip() if price.label else text


def _place(graph: Graph, node: Node) -> dict[str, Any]:
    """Where a node stands: its name and op, what data it reads and gives."""
    data = [ref for ref in node.inputs if graph.depends(ref)]
    return {
        "name": node.name,
        "op": node.op,
        "inputs": tuple(name for name, _ in data),
        "input_shapes": tuple(_shape(graph, *ref) for ref in data),
        "output_shape": _shape(graph, node.name),
    }


def _values(facts: Facts) -> Values | None:
    """The few values of a dot product's weights, or of the codes that are scaled to them."""
    return next((way.content.values for way in facts.weights if way.content and way.content.values), None)


def _price_row(graph: Graph, node: Node, facts: Facts, price: Price, costs: Costs, parts: int) -> Row:
    weights = facts.stored[0] if facts.stored else None
    known = [s.nonzero for s in facts.stored if s.nonzero is not None]
    widths = [work.width.bits for work in price.works or () if work.sort == MULTIPLY and work.width and work.count.value]
    return Row(
        **_place(graph, node),
        kernel=facts.kernel,
        stride=facts.stride,
        groups=facts.groups,
        width=facts.width,
        parameters=price.stored.parameters,
        nonzero=sum(known) if facts.stored and len(known) == len(facts.stored) else None,
        weight_bits=weights.bits if weights else None,
        live_in=facts.live_in,
        live_out=facts.live_out,
        multiplies=price.multiplies.value,
        adds=price.adds.value,
        storage_bits=price.stored.bits,
        operation_bits=int(sum(count.value * worth * parts for count, worth in costs)),
        formula=_formula(price, costs),
        status=price.status,
        unit_parts=parts,
        stored_as=price.stored_as,
        values=_values(facts),
        multiply_bits=max(widths, default=None),
    )


def _unknown_row(graph: Graph, node: Node, reason: str, parts: int) -> Row:
    return Row(**_place(graph, node), formula=reason, status=UNKNOWN, unit_parts=parts)


def narrow_maps(graph: Graph) -> tuple[str, ...]:
    """The fake-quantization nodes of fewer than 16 bits, on maps or on weights."""
    return tuple(node.name for node in graph.nodes.values() if is_quantizer(node) and quantizer_bits(graph, node) < 16)


def few_valued(found: Found) -> dict[str, Held]:
    """The dot products whose weights are quantized below 16 bits by their values, and how these are held."""
    held = ((name, forfeits(facts)) for name, facts in found.facts.items() if facts.kind == "dot")
    return {name: way for name, way in held if way is not None}


def _ternary(found: Found) -> str | None:
    """How many weight tensors are ternary, and what they hold; a tensor that is read twice counts once."""
    signs = [0, 0, 0]
    tensors = 0
    for facts in found.facts.values():
        values = _values(facts)
        if values and is_ternary(values) and facts.stored and facts.stored[0].elements:
            tensors += 1
            for value, count in values:
                signs[(value > 0) - (value < 0)] += count
    zeros, ones, minus = signs
    if not tensors:
        return None
    return f"{tensors} ternary tensors of {sum(signs):,} weights: {ones:,} positive, {minus:,} negative, {zeros:,} zero"


def _notes(found: Found, convention: Convention, terms: Terms, quantized: tuple[str, ...]) -> tuple[str, ...]:
    notes = []
    if quantized and not convention.terms.widths:
        notes.append(
            f"{len(quantized)} fake-quantization nodes: the widths that they give to maps and weights are not priced here, "
            "so this counts too much; what is stored and multiplied counts at the width of its type"
        )
    elif quantized:
        notes.append(
            f"{len(quantized)} fake-quantization nodes: the widths that they give to maps and weights are those that count, "
            "and a range is two constants"
        )
    if any(s.nonzero is None for f in found.facts.values() if f.kind == "dot" for s in f.stored):
        notes.append("the weights' values are not at hand: sparsity is not known, every weight counts as nonzero")
    if convention.terms.widths and (ternary := _ternary(found)):
        notes.append(ternary)
    if convention.allowance and convention.terms.widths:
        rule = "nothing is below 16 bits: weights and multiplies count at 16 bits, adds at 32"
        least = next(((name, held) for name, held in few_valued(found).items()), None)
        why = f" ('{least[0]}' has few values: {least[1].text})" if least else ""
        notes.append(
            rule if terms.allowance else f"something is below 16 bits{why}: no allowance, everything counts at its own width"
        )
    return tuple(notes)


def convention_named(name: str | Convention) -> Convention:
    """The convention of a name, or the one that is given. Raises AccountingError for a name that is not known."""
    if isinstance(name, Convention):
        return name
    if name not in CONVENTIONS:
        raise AccountingError(f"no convention '{name}'; --convention takes one of: {', '.join(sorted(CONVENTIONS))}")
    return CONVENTIONS[name]


def _terms(graph: Graph, found: Found, convention: Convention) -> Terms:
    """The convention's choices, with the 16-bit allowance where it knows one and nothing is below 16 bits."""
    if not convention.allowance or narrow_maps(graph) or (convention.terms.widths and few_valued(found)):
        return convention.terms
    allowance = all(s.bits >= 16 for facts in found.facts.values() for s in facts.stored)
    return dataclasses.replace(convention.terms, allowance=allowance)


def _reading(price: Price, each: Fraction) -> Costs:
    """What reading a node's weights once adds, in words of 64 bits."""
    words = -(-price.stored.bits // WORD_BITS)
    return ((Count(words, str(words)), each),) if words else ()


def price(graph: Graph, found: Found, convention: str | Convention, task: str = "cifar100") -> Report:
    """A report of facts under a convention, or the name of one. Raises AccountingError for a name that is not known."""
    rules = convention_named(convention)
    terms = _terms(graph, found, rules)
    foldings = fold(graph, found.facts)
    prices = {name: rules.prices[facts.kind](facts, foldings.get(name, NOWHERE), terms) for name, facts in found.facts.items()}
    each = rules.read(sum(cost.stored.bits for cost in prices.values())) if rules.read else None
    rows = []
    for name, node in graph.nodes.items():
        if name in found.facts:
            costs = rules.costs(prices[name]) + (_reading(prices[name], each) if each else ())
            rows.append(_price_row(graph, node, found.facts[name], prices[name], costs, rules.parts))
        elif name in found.unknown:
            rows.append(_unknown_row(graph, node, found.unknown[name], rules.parts))
    operations = Fraction(sum(r.operation_bits for r in rows), rules.parts)
    score = rules.score(task, sum(r.parameters for r in rows), sum(r.storage_bits for r in rows), operations)
    notes = _notes(found, rules, terms, narrow_maps(graph))
    return Report(graph.folder, graph.entry, rules.name, rules.source, tuple(rows), score, notes, rules.unit, rules.parts)

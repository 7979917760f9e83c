"""Graph and convention -> Report: facts are found once, then priced node by node."""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from frenzy.accounting.conventions import CONVENTIONS, Convention
from frenzy.accounting.conventions.base import FLOAT_BITS, Price
from frenzy.accounting.folding import NOWHERE, fold
from frenzy.accounting.graph import AccountingError, Graph, Node
from frenzy.accounting.live_channels import all_live, live_channels
from frenzy.accounting.report import UNKNOWN, Report, Row, Shape
from frenzy.accounting.rules import RULES, Context, Count, Facts, UnknownFacts
from frenzy.accounting.storage import Ledger


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
            found.facts[name] = RULES[node.op](context, node)
        except UnknownFacts as e:
            found.unknown[name] = f"{node.op} '{name}' cannot be counted: {e}"
    return found


def _shape(graph: Graph, name: str, index: int = 0) -> Shape:
    return tuple(-1 if dim is None else dim for dim in graph.image_shape((name, index)) or ())


def _term(count: Count, worth: Fraction) -> str:
    return count.text if worth == 1 else f"{count.text} * {worth}"


def _formula(price: Price, multiply: Fraction, add: Fraction) -> str:
    """The arithmetic of a row's operations; a label stands behind a '#'."""
    multiplies, adds = price.multiplies, price.adds
    if multiplies.value and multiplies == adds:
        both = multiply + add
        text = multiplies.text if both == 1 else f"{multiplies.text} * {float(both):g}"
    else:
        terms = [_term(count, worth) for count, worth in ((multiplies, multiply), (adds, add)) if count.value and worth]
        text = " + ".join(terms)
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


def _price_row(graph: Graph, node: Node, facts: Facts, price: Price, multiply: Fraction, add: Fraction) -> Row:
    weights = facts.stored[0] if facts.stored else None
    known = [s.nonzero for s in facts.stored if s.nonzero is not None]
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
        operation_bits=int(FLOAT_BITS * (price.multiplies.value * multiply + price.adds.value * add)),
        formula=_formula(price, multiply, add),
        status=price.status,
    )


def _unknown_row(graph: Graph, node: Node, reason: str) -> Row:
    return Row(
        **_place(graph, node),
        formula=reason,
        status=UNKNOWN,
    )


def narrow_maps(graph: Graph) -> tuple[str, ...]:
    """The fake-quantization nodes of fewer than 16 bits, on maps or on weights."""
    nodes = (node for node in graph.nodes.values() if node.op.startswith(("FakeQuant", "QuantizeAndDequantize")))
    return tuple(node.name for node in nodes if int(node.attrs.get("num_bits") or 8) < 16)


def _notes(found: Found, convention: Convention, allowance: bool, quantized: tuple[str, ...]) -> tuple[str, ...]:
    notes = []
    if quantized:
        notes.append(
            f"{len(quantized)} fake-quantization nodes: the widths that they give to maps and weights are not priced, "
            "so this counts too much; what is stored and multiplied counts at the width of its type"
        )
    if any(s.nonzero is None for f in found.facts.values() if f.kind == "dot" for s in f.stored):
        notes.append("the weights' values are not at hand: sparsity is not known, every weight counts as nonzero")
    if convention.allowed_multiply is not None:
        rule = "nothing is below 16 bits: weights and multiplies count at 16 bits, adds at 32"
        notes.append(rule if allowance else "something is below 16 bits: no allowance, everything counts at its own width")
    return tuple(notes)


def convention_named(name: str) -> Convention:
    """Raises AccountingError for a name that is not known."""
    if name not in CONVENTIONS:
        raise AccountingError(f"no convention '{name}'; --convention takes one of: {', '.join(sorted(CONVENTIONS))}")
    return CONVENTIONS[name]


def price(graph: Graph, found: Found, convention: str, task: str = "cifar100") -> Report:
    """A report of facts under a named convention. Raises AccountingError for a name that is not known."""
    rules = convention_named(convention)
    quantized = narrow_maps(graph)
    allowance = not quantized and all(s.bits >= 16 for f in found.facts.values() for s in f.stored)
    foldings = fold(graph, found.facts)
    multiply = rules.multiply_worth(allowance)
    rows = []
    for name, node in graph.nodes.items():
        if name in found.facts:
            facts = found.facts[name]
            cost = rules.prices[facts.kind](facts, foldings.get(name, NOWHERE), allowance)
            rows.append(_price_row(graph, node, facts, cost, multiply, rules.add))
        elif name in found.unknown:
            rows.append(_unknown_row(graph, node, found.unknown[name]))
    operations = Fraction(sum(r.operation_bits for r in rows), FLOAT_BITS)
    score = rules.score(task, sum(r.parameters for r in rows), sum(r.storage_bits for r in rows), operations)
    notes = _notes(found, rules, allowance, quantized)
    return Report(graph.folder, graph.entry, convention, rules.source, tuple(rows), score, notes, rules.unit)

"""The rules of the MicroNet challenge: bits of 32 for storage and operations, and what an inference really needs.

An operation has the bits of its widest input. Weights count at b bits in a multiply where they are multiples of one step by
whole numbers of b bits, and at 1 or 2 where they are signs, or signs and zeros, of any two sizes; the step itself, which the
next quantizer or BN takes in, is no operation more. What a dot product sums has the accumulator's width.
"""

import dataclasses
from functools import partial

from frenzy.accounting.contents import Content, is_signed
from frenzy.accounting.conventions.base import (
    ADD,
    FLOAT_BITS,
    MULTIPLY,
    NOTHING,
    SIGN,
    Convention,
    Price,
    Pricing,
    Terms,
    Work,
    by_bits,
)
from frenzy.accounting.conventions.forms import HALF_BITS, Held, hold, plain, width_of
from frenzy.accounting.elementary import ELEMENTARY
from frenzy.accounting.folding import Folding
from frenzy.accounting.report import COUNTED, FOLDED, FREE
from frenzy.accounting.rules import NONE, Count, Facts, product
from frenzy.accounting.widths import FLOAT, Width, widest


def _width(terms: Terms, *inputs: Width) -> Width:
    """The width of an operation on such inputs."""
    return widest(inputs) if terms.widths and not terms.allowance else FLOAT


def _multiply(count: Count, terms: Terms, *inputs: Width) -> Work:
    return Work(MULTIPLY, count, Width(terms.allowed_bits) if terms.allowance else _width(terms, *inputs))


def _add(count: Count, terms: Terms, *inputs: Width) -> Work:
    return Work(ADD, count, _width(terms, *inputs))


# Sums


def tree_levels(length: int) -> tuple[int, ...]:
    """The adds of every level of a tree that sums so many numbers, two by two: 5 -> (2, 1, 1)."""
    levels = []
    while length > 1:
        levels.append(length // 2)
        length -= length // 2
    return tuple(levels)


def tree_bits(length: int, product_bits: int, most: int) -> int:
    """Bits that the adders of a tree work on: level k adds numbers of product_bits + k bits, `most` at most."""
    return sum(adds * min(product_bits + level, most) for level, adds in enumerate(tree_levels(length)))


def _sum(terms: Terms, lengths: list[tuple[int, int]], adds: Count, summand: Width) -> tuple[Work, ...]:
    """The adds of sums: (length, how many such sums), .... At the accumulator's width, or level by level."""
    whole = Width(terms.accumulator_bits, summand.real)
    if not terms.tree or not terms.widths or terms.allowance or summand.bits >= terms.accumulator_bits:
        return (Work(ADD, adds, whole if terms.widths and not terms.allowance else FLOAT),) if adds.value else ()
    levels: dict[int, int] = {}
    for length, times in lengths:
        for level, count in enumerate(tree_levels(length)):
            bits = min(summand.bits + level, terms.accumulator_bits)
            levels[bits] = levels.get(bits, 0) + count * times
    return tuple(Work(ADD, Count(count, str(count)), Width(bits, summand.real)) for bits, count in sorted(levels.items()))


def _even(total: int, parts: int) -> list[tuple[int, int]]:
    """Sums of so many terms in all, as equal as can be: (7, 2) -> [(3, 1), (4, 1)]."""
    if not parts:
        return []
    length, longer = divmod(total, parts)
    return [(length, parts - longer), (length + 1, longer)]


# Dot products


def _signs(held: Held | None, terms: Terms) -> Content | None:
    """The weights, where each is a sign or zero and the convention makes use of it."""
    content = held.weights.content if held is not None and held.form.coded else None
    return content if terms.signs and content is not None and content.values and is_signed(content.values) else None


def _products(facts: Facts, folding: Folding, terms: Terms, macs: Count, dots: Count) -> tuple[list[Work], Width]:
    """The multiplies of dot products, and the width of one product."""
    held = hold(facts, terms)
    signs = _signs(held, terms)
    if signs is not None:
        sizes = {abs(value) for value, _ in signs.values or () if value} - {1.0}
        scales = max(len(sizes), 1 if held is not None and held.weights.stored[1:] else 0)
        own = max(scales - folding.scaled, 0)  # a BN behind takes one in
        works = [Work(SIGN, macs, Width(1, False))]
        return works + ([_multiply(dots.times(own), terms, FLOAT)] if own and dots.value else []), facts.reads
    grids = [way.grid for way in facts.weights if way.grid is not None]
    main = facts.weights[0].stored[0] if facts.weights and facts.weights[0].stored else None
    if main is None:
        weight = facts.reads
    elif grids:
        weight = Width(min(grids), False)
    else:
        weight = Width(width_of(main, terms), True)
    product_bits = facts.reads.bits if weight.bits <= 2 and grids else facts.reads.bits + weight.bits
    real = facts.reads.real or weight.real
    return [_multiply(macs, terms, facts.reads, weight)], Width(FLOAT_BITS if real else product_bits, real)


def _dot(facts: Facts, folding: Folding, terms: Terms) -> Price:
    """n multiplies and n - 1 adds for a dot product of n terms that are not zero; constants that it skips make a bias."""
    held = hold(facts, terms)
    macs, dots = facts.macs, facts.dots
    lengths = _even(macs.value, dots.value)
    content = held.weights.content if held else None
    if held and content and content.terms and (held.form.masked or held.form.coded):
        places = macs.value // content.size
        outputs = sum(count for _, count in content.terms)
        macs, dots = product((content.nonzero,), (places,)), product((outputs,), (places,))
        lengths = [(length, count * places) for length, count in content.terms]
    multiplies, summand = _products(facts, folding, terms, macs, dots)
    works = [*multiplies, *_sum(terms, lengths, macs.minus(dots), summand)]
    stored = held.size if held else NOTHING
    if facts.drops_constants and not folding.has_bias:
        works.append(_add(facts.elements, terms, FLOAT))
        stored = stored.plus(facts.live_out or 0, HALF_BITS if terms.allowance else FLOAT_BITS)
    return Price.of(*works, stored=stored, stored_as=held.text if held and terms.widths else "")


def _keeps_scale(folding: Folding, terms: Terms) -> bool:
    """Whether the BN's scale finds no place in the weights beside it: they are codes."""
    held = hold(folding.target, terms) if folding.target is not None and terms.widths else None
    return held is not None and held.form.coded


def _batch_norm(facts: Facts, folding: Folding, terms: Terms) -> Price:
    """Folded into a conv beside it: a bias, or nothing where that conv has one already. Else a scale and a shift."""
    bits = width_of(facts.stored[0], terms)
    if folding.into is None or _keeps_scale(folding, terms):
        inputs = facts.reads, Width(facts.stored[0].bits)
        works = _multiply(facts.elements, terms, *inputs), _add(facts.elements, terms, *inputs)
        label = f"the weights of {folding.into} are codes: no scale folds into them" if folding.into else ""
        return Price.of(*works, stored=NOTHING.plus(2 * facts.channels, bits), label=label)
    if folding.has_bias:
        return Price(status=FOLDED, label=f"into {folding.into}, which has a bias")
    channels = folding.bias_channels if folding.bias_channels is not None else facts.channels
    return Price.of(
        _add(folding.bias_elements or facts.elements, terms, FLOAT),
        stored=NOTHING.plus(channels if facts.channels else 0, bits),
        status=FOLDED,
        label=f"a bias of {folding.into}",
    )


# Everything else


def _pairs(facts: Facts, folding: Folding, terms: Terms) -> Price:
    """A sum with a known zero is no operation."""
    return Price.of(_add(facts.pairs, terms, facts.reads), stored=plain(facts.stored, terms))


def _windows(facts: Facts, terms: Terms) -> tuple[Work, ...]:
    """The sums of windows, k^2 - 1 adds each."""
    adds = facts.elements.times(facts.window - 1) if facts.window > 1 else NONE
    return _sum(terms, [(facts.window, facts.elements.value)], adds, facts.reads)


def _average(facts: Facts, folding: Folding, terms: Terms) -> Price:
    """A sum of the window, k^2 - 1 adds, and one multiply."""
    return Price.of(_multiply(facts.elements, terms, FLOAT), *_windows(facts, terms))


def _window(facts: Facts, folding: Folding, terms: Terms) -> Price:
    return Price.of(*_windows(facts, terms))


def _maximum(facts: Facts, folding: Folding, terms: Terms) -> Price:
    """A comparison counts as an add, of the width of what is compared."""
    adds = facts.elements.times(facts.window - 1) if facts.window > 1 else NONE
    return Price.of(_add(adds, terms, facts.reads))


def _softmax(facts: Facts, folding: Folding, terms: Terms) -> Price:
    """An exponential and a division an element, and the sum of the row."""
    multiplies, adds = facts.elements.times(2), facts.elements.minus(facts.dots)
    return Price.of(_multiply(multiplies, terms, facts.reads), _add(adds, terms, FLOAT))


def _free(facts: Facts, folding: Folding, terms: Terms) -> Price:
    return Price.of(stored=plain(facts.stored, terms), status=COUNTED if facts.stored else FREE)


def every_element(multiplies: int, adds: int) -> Pricing:
    """So many operations for every live output element, of the width of what comes in."""

    def price(facts: Facts, folding: Folding, terms: Terms) -> Price:
        works = []
        if multiplies:
            works.append(_multiply(facts.elements.times(multiplies), terms, facts.reads))
        if adds:
            works.append(_add(facts.elements.times(adds), terms, facts.reads))
        return Price.of(*works, stored=plain(facts.stored, terms))

    return price


RULES = "https://micronet-challenge.github.io/scoring_and_submission.html"

MICRONET = Convention(
    name="micronet",
    source=f"MicroNet challenge rules, NeurIPS 2019: {RULES}. An operation has the bits of its widest input, sums have 32; "
    "few values count as codes and a codebook, with a mask where zeros make that smaller",
    prices={
        **{kind: every_element(*each) for kind, each in ELEMENTARY.items()},
        "add": _pairs,
        "average_pool": _average,
        "batch_norm": _batch_norm,
        "bias": _pairs,
        "dot": _dot,
        "free": _free,
        "max_pool": _maximum,
        "softmax": _softmax,
        "sum": _window,
    },
    worth=by_bits,
    allowance=True,
    scored=True,
    terms=Terms(widths=True),
)
SIGNS = dataclasses.replace(
    MICRONET,
    name="micronet-signs",
    source=f"as micronet ({RULES}), where a product with +1 or -1 counts one bit, 1/32, and the scale of such weights one multiply "
    "a sum, unless a BN behind takes it in",
    terms=dataclasses.replace(MICRONET.terms, signs=True),
)
TREE = dataclasses.replace(
    MICRONET,
    name="micronet-tree",
    source=f"as micronet ({RULES}), where sums of whole numbers are trees of adders: a bit wider from level to level, 32 at most",
    terms=dataclasses.replace(MICRONET.terms, tree=True),
)


# The challenge's own figures for its baseline WRN-28-10, 36.5 M and 10.49 G, at 32 bits: both of these round to them.


def _every_batch_norm(facts: Facts, folding: Folding, terms: Terms, operations: bool) -> Price:
    elements = facts.elements if operations else NONE
    return Price.of(
        _multiply(elements, terms, FLOAT), _add(elements, terms, FLOAT), stored=NOTHING.plus(2 * facts.channels, FLOAT_BITS)
    )


def _baseline(name: str, batch_norm: str, operations: bool) -> Convention:
    return dataclasses.replace(
        MICRONET,
        name=name,
        source=f"MicroNet challenge, the baseline WRN-28-10 at 32 bits; {batch_norm}",
        prices={**MICRONET.prices, "batch_norm": partial(_every_batch_norm, operations=operations)},
        live=False,
        allowance=False,
        terms=Terms(full=True),
    )


BASELINE = _baseline(
    "micronet-baseline", "every BN folded and for nothing, though behind an ADD it cannot be", operations=False
)
BASELINE_BN = _baseline("micronet-baseline-bn", "every BN a scale and a shift", operations=True)


def _unfolded(facts: Facts, folding: Folding, terms: Terms) -> Price:
    """A scale and a shift, and every tensor that they are made of."""
    inputs = facts.reads, Width(facts.stored[0].bits)
    works = _multiply(facts.elements, terms, *inputs), _add(facts.elements, terms, *inputs)
    return Price.of(*works, stored=plain(facts.kept or facts.stored, terms))


PACKED = dataclasses.replace(
    MICRONET,
    name="packed",
    source="the bytes that frenzy.packed writes before it fills tensors up to whole ones: all that the file stores, channels known "
    "to be zero and the statistics of BN included, in the cheapest form without loss; operations as micronet has them at 32 bits",
    prices={**MICRONET.prices, "batch_norm": _unfolded},
    live=False,
    allowance=False,
    scored=False,
)

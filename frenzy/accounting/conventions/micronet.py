"""The rules of the MicroNet challenge: bits of 32 for storage and operations, and what an inference really needs."""

import dataclasses
from collections.abc import Sequence
from functools import partial

from frenzy.accounting.conventions.base import FLOAT_BITS, HALF, NOTHING, Convention, Price, Size, every_element
from frenzy.accounting.elementary import ELEMENTARY
from frenzy.accounting.folding import Folding
from frenzy.accounting.report import COUNTED, FOLDED, FREE
from frenzy.accounting.rules import NONE, Facts, product
from frenzy.accounting.storage import Stored


def _width(stored: Stored, allowance: bool) -> int:
    return min(stored.bits, 16) if allowance else stored.bits


def _is_sparse(stored: Stored, bits: int) -> bool:
    return stored.nonzero is not None and stored.nonzero * bits + stored.elements < stored.elements * bits


def _stored(stored: Sequence[Stored], allowance: bool) -> Size:
    """Dense at its own width (16 bits under the allowance), or nonzeros and a mask of one bit an element if that is smaller."""
    total = NOTHING
    for s in stored:
        bits = _width(s, allowance)
        taken = (s.nonzero or 0) * bits + s.elements if _is_sparse(s, bits) else s.elements * bits
        total = Size(total.parameters + s.elements, total.bits + taken)
    return total


def _dot(facts: Facts, folding: Folding, allowance: bool) -> Price:
    """n multiplies and n - 1 adds for a dot product of n terms that are not zero; constants that it skips make a bias."""
    macs, dots = facts.macs, facts.dots
    weights = facts.stored[0] if facts.stored else None
    stored = _stored(facts.stored, allowance)
    if weights and _is_sparse(weights, _width(weights, allowance)):
        places = macs.value // weights.elements
        macs, dots = product((weights.nonzero or 0,), (places,)), product((weights.columns or 0,), (places,))
    adds = macs.minus(dots)
    if facts.drops_constants and not folding.has_bias:
        adds = adds.plus(facts.elements)
        stored = stored.plus(facts.live_out or 0, 16 if allowance else FLOAT_BITS)
    return Price(macs, adds, stored)


def _batch_norm(facts: Facts, folding: Folding, allowance: bool) -> Price:
    """Folded into a conv beside it: a bias, or nothing where that conv has one already. Else a scale and a shift."""
    bits = _width(facts.stored[0], allowance)
    if folding.into is None:
        return Price(facts.elements, facts.elements, NOTHING.plus(2 * facts.channels, bits))
    if folding.has_bias:
        return Price(status=FOLDED, label=f"into {folding.into}, which has a bias")
    channels = folding.bias_channels if folding.bias_channels is not None else facts.channels
    return Price(
        adds=folding.bias_elements or facts.elements,
        stored=NOTHING.plus(channels if facts.channels else 0, bits),
        status=FOLDED,
        label=f"a bias of {folding.into}",
    )


def _pairs(facts: Facts, folding: Folding, allowance: bool) -> Price:
    """A sum with a known zero is no operation."""
    return Price(adds=facts.pairs, stored=_stored(facts.stored, allowance))


def _average(facts: Facts, folding: Folding, allowance: bool) -> Price:
    """A sum of the window, k^2 - 1 adds, and one multiply."""
    return Price(facts.elements, facts.elements.times(facts.window - 1) if facts.window > 1 else NONE)


def _window(facts: Facts, folding: Folding, allowance: bool) -> Price:
    return Price(adds=facts.elements.times(facts.window - 1) if facts.window > 1 else NONE)


def _softmax(facts: Facts, folding: Folding, allowance: bool) -> Price:
    """An exponential and a division an element, and the sum of the row."""
    return Price(facts.elements.times(2), facts.elements.minus(facts.dots))


def _free(facts: Facts, folding: Folding, allowance: bool) -> Price:
    return Price(stored=_stored(facts.stored, allowance), status=COUNTED if facts.stored else FREE)


_elements = partial(every_element, stored=_stored)

MICRONET = Convention(
    name="micronet",
    source="MicroNet challenge rules, NeurIPS 2019: https://micronet-challenge.github.io/scoring_and_submission.html",
    prices={
        **{kind: _elements(*each) for kind, each in ELEMENTARY.items()},
        "add": _pairs,
        "average_pool": _average,
        "batch_norm": _batch_norm,
        "bias": _pairs,
        "dot": _dot,
        "free": _free,
        "max_pool": _window,
        "softmax": _softmax,
        "sum": _window,
    },
    allowed_multiply=HALF,
    scored=True,
)


# The challenge's own figures for its baseline WRN-28-10, 36.5 M and 10.49 G, at 32 bits: both of these round to them.


def _every_batch_norm(operations: bool):
    def price(facts: Facts, folding: Folding, allowance: bool) -> Price:
        elements = facts.elements if operations else NONE
        return Price(elements, elements, NOTHING.plus(2 * facts.channels, FLOAT_BITS))

    return price


def _baseline(name: str, batch_norm: str, operations: bool) -> Convention:
    return dataclasses.replace(
        MICRONET,
        name=name,
        source=f"MicroNet challenge, the baseline WRN-28-10 at 32 bits; {batch_norm}",
        prices={**MICRONET.prices, "batch_norm": _every_batch_norm(operations)},
        allowed_multiply=None,
        live=False,
    )


BASELINE = _baseline(
    "micronet-baseline", "every BN folded and for nothing, though behind an ADD it cannot be", operations=False
)
BASELINE_BN = _baseline("micronet-baseline-bn", "every BN a scale and a shift", operations=True)

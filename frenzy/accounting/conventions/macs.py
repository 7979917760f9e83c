"""Plain multiply-accumulates and parameters, and the same as one document printed them."""

from frenzy.accounting.conventions.base import (
    FLOAT_BITS,
    NOTHING,
    NOTHING_AT_ALL,
    Convention,
    Price,
    Pricing,
    Terms,
    all_at,
    free,
    moved,
)
from frenzy.accounting.folding import Folding
from frenzy.accounting.rules import KINDS, Facts


def _macs(facts: Facts, folding: Folding, terms: Terms) -> Price:
    return Price(facts.macs, facts.macs, all_at(facts.stored, None))


def _parameters(facts: Facts, folding: Folding, terms: Terms) -> Price:
    return Price(stored=all_at(facts.stored, None))


def _printed_coefficients(facts: Facts, folding: Folding, terms: Terms) -> Price:
    """A depthwise kernel counted as if every output read every input; a dense layer's weights left out."""
    if facts.kernel is None:
        return Price(facts.macs, facts.macs)
    rows, columns = facts.kernel
    coefficients = rows * columns * (facts.live_in or 0) * (facts.width or 0)
    dense = (facts.groups or 1) > 1
    label = "coefficients as if it were dense" if dense else ""
    return Price(facts.macs, facts.macs, NOTHING.plus(coefficients, FLOAT_BITS), label=label)


_counted: dict[str, Pricing] = {**dict.fromkeys(KINDS, free), "free": moved(None)}

MACS = Convention(
    name="macs",
    source="multiply-accumulates of convs and dense layers, and every parameter (of BN: a scale and a shift a channel)",
    prices={
        **_counted,
        "dot": _macs,
        "bias": _parameters,
        "batch_norm": _parameters,
        "multiply": _parameters,
        "add": _parameters,
    },
    add=NOTHING_AT_ALL,
    unit="MACs",
    live=False,
)

IRNET_TABLE4 = Convention(
    name="irnet-table4",
    source="Bollepalli, IR-NET, table 4: multiply-accumulates, and its column 'Filter Cx', where depthwise convs count as dense ones",
    prices={**_counted, "dot": _printed_coefficients},
    add=NOTHING_AT_ALL,
    unit="MACs",
    live=False,
)

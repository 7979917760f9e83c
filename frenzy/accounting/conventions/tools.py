"""What well-known counters say: torchstat as one submission used it, and thop, torchinfo and fvcore.

They count modules, so what is no module (a sum, a gate, an activation that is a function) costs nothing with them, and they
know nothing of channels that are zero.
"""

from collections.abc import Mapping

from frenzy.accounting.conventions.base import FLOAT_BITS, HALF, Convention, Price, Pricing, Terms, all_at, free, moved
from frenzy.accounting.folding import Folding
from frenzy.accounting.rules import KINDS, NONE, Count, Facts


def _only(prices: Mapping[str, Pricing]) -> dict[str, Pricing]:
    return {**dict.fromkeys(KINDS, free), "free": moved(FLOAT_BITS), **prices}


def _parameters_alone(facts: Facts, folding: Folding, terms: Terms) -> Price:
    return Price(stored=all_at(facts.stored, FLOAT_BITS))


def _is_dense(facts: Facts) -> bool:
    return facts.kernel is None


def _inputs(facts: Facts) -> Count:
    """What an average pool reads."""
    return facts.elements.times(facts.window)


# torchstat, with multiplies and adds returned apart


def _torchstat_dot(facts: Facts, folding: Folding, terms: Terms) -> Price:
    return Price(facts.macs, facts.macs.minus(facts.dots), all_at(facts.stored, FLOAT_BITS))


def _torchstat_bias(facts: Facts, folding: Folding, terms: Terms) -> Price:
    """A conv's bias is an add an output; a dense layer's is not counted."""
    adds = facts.elements if folding.behind_conv else NONE
    return Price(adds=adds, stored=all_at(facts.stored, FLOAT_BITS))


def _torchstat_pool(facts: Facts, folding: Folding, terms: Terms) -> Price:
    """n adds and a multiply a channel, not n - 1."""
    return Price(facts.elements, _inputs(facts))


TORCHSTAT = Convention(
    name="torchstat",
    source="torchstat, changed to give multiplies and adds apart, as in 'MicroNet CIFAR-100' (WRN-22-6), 2019; "
    "multiplies at half, BN and ReLU free",
    prices=_only(
        {"dot": _torchstat_dot, "bias": _torchstat_bias, "average_pool": _torchstat_pool, "batch_norm": _parameters_alone}
    ),
    multiply=HALF,
    live=False,
    scored=True,
    score_bits=FLOAT_BITS,
)

# thop of early 2020


def _thop_dot(facts: Facts, folding: Folding, terms: Terms) -> Price:
    """A conv's multiply-accumulates; a dense layer's multiplies and adds."""
    adds = facts.macs.minus(facts.dots) if _is_dense(facts) else NONE
    return Price(facts.macs, adds, all_at(facts.stored, FLOAT_BITS))


def _one_an_output(facts: Facts, folding: Folding, terms: Terms) -> Price:
    return Price(adds=facts.elements, stored=all_at(facts.stored, FLOAT_BITS))


def _batch_norm(each: int) -> Pricing:
    def price(facts: Facts, folding: Folding, terms: Terms) -> Price:
        half = facts.elements.times(each // 2)
        return Price(half, half, all_at(facts.stored, FLOAT_BITS))

    return price


def _thop_pool(facts: Facts, folding: Folding, terms: Terms) -> Price:
    return Price(facts.elements, _inputs(facts))


THOP = Convention(
    name="thop",
    source="thop of early 2020, as in the MicroBotNet notes: what it calls MACs is multiply-accumulates of convs, multiplies and "
    "adds of dense layers, two operations a BN element, and pools",
    prices=_only({"dot": _thop_dot, "bias": _one_an_output, "average_pool": _thop_pool, "batch_norm": _batch_norm(2)}),
    unit='"MACs"',
    live=False,
)

# What today's tools say of the same network


def _macs_only(facts: Facts, folding: Folding, terms: Terms) -> Price:
    return Price(facts.macs, stored=all_at(facts.stored, FLOAT_BITS))


def _pool_inputs(facts: Facts, folding: Folding, terms: Terms) -> Price:
    return Price(adds=_inputs(facts))


def _as_many_as_parameters(facts: Facts, folding: Folding, terms: Terms) -> Price:
    """torchinfo's rule for what it has no rule for."""
    parameters = sum(s.elements for s in facts.stored)
    return Price(adds=Count(parameters, str(parameters)), stored=all_at(facts.stored, FLOAT_BITS))


THOP_0_1_1 = Convention(
    name="thop-0.1.1",
    source="thop 0.1.1, 2022: multiply-accumulates, four operations a BN element, pools",
    prices=_only({"dot": _macs_only, "bias": _parameters_alone, "average_pool": _thop_pool, "batch_norm": _batch_norm(4)}),
    unit='"MACs"',
    live=False,
)

FVCORE = Convention(
    name="fvcore",
    source="fvcore, 2026: multiply-accumulates, two operations a BN element, inputs of pools; activations unsupported",
    prices=_only({"dot": _macs_only, "bias": _parameters_alone, "average_pool": _pool_inputs, "batch_norm": _batch_norm(2)}),
    unit='"flops"',
    live=False,
)

TORCHINFO = Convention(
    name="torchinfo",
    source="torchinfo 1.8, 2026: multiply-accumulates; of BN and biases as many as they have parameters",
    prices=_only(
        {"dot": _macs_only, "bias": _as_many_as_parameters, "batch_norm": _as_many_as_parameters},
    ),
    unit='"mult-adds"',
    live=False,
)

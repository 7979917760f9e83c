"""How facts become numbers: a convention prices every kind of facts, and names the source of its rules."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from frenzy.accounting.elementary import ELEMENTARY
from frenzy.accounting.folding import Folding
from frenzy.accounting.graph import AccountingError
from frenzy.accounting.report import COUNTED, FOLDED, FREE, Score
from frenzy.accounting.rules import KINDS, NONE, Count, Facts, product
from frenzy.accounting.storage import Stored

FLOAT_BITS = 32


@dataclasses.dataclass(frozen=True)
class Task:
    """A MicroNet baseline that scores are shares of: parameters of 32 bits, and 32-bit operations an image (or a token)."""

    storage: int
    operations: int


TASKS = {
    "cifar100": Task(36_500_000, 10_490_000_000),
    "imagenet": Task(6_900_000, 1_170_000_000),
    "wikitext103": Task(159_000_000, 318_000_000),
}


@dataclasses.dataclass(frozen=True)
class Size:
    """Parameters, and the bits that they and their masks take."""

    parameters: int
    bits: int

    def plus(self, parameters: int, bits: int) -> "Size":
        return Size(self.parameters + parameters, self.bits + parameters * bits)


NOTHING = Size(0, 0)


@dataclasses.dataclass(frozen=True)
class Price:
    """What one node costs: multiplies, adds, and what it stores. `label` says what the formula is not plain about."""

    multiplies: Count = NONE
    adds: Count = NONE
    stored: Size = NOTHING
    status: str = COUNTED
    label: str = ""


Pricing = Callable[[Facts, Folding, bool], Price]  # the last: whether the 16-bit allowance holds


@dataclasses.dataclass(frozen=True)
class Convention:
    """A total table kind -> price, the widths of its two operations under the 16-bit allowance, and how it scores storage.

    `parameter_bits`: the score counts parameters as this many bits each, whatever they are stored as; None: as stored.
    """

    name: str
    source: str
    prices: Mapping[str, Pricing]
    allowed_multiply_bits: int
    parameter_bits: int | None
    always_allowed: bool

    def __post_init__(self) -> None:
        if missing := KINDS - set(self.prices):
            raise ValueError(f"convention {self.name} has no price for {', '.join(sorted(missing))}")

    def multiply_bits(self, allowance: bool) -> int:
        return self.allowed_multiply_bits if allowance or self.always_allowed else FLOAT_BITS

    def score(self, task: str, parameters: int, storage_bits: int, operation_bits: int) -> Score:
        if task not in TASKS:
            raise AccountingError(f"no task '{task}'; --task takes one of: {', '.join(TASKS)}")
        bits = storage_bits if self.parameter_bits is None else parameters * self.parameter_bits
        baseline = TASKS[task]
        return Score(
            task, Fraction(bits, FLOAT_BITS * baseline.storage), Fraction(operation_bits, FLOAT_BITS * baseline.operations)
        )


def _no_cost(facts: Facts, folding: Folding, allowance: bool) -> Price:
    return Price(status=FREE)


# frenzy: the submission's own table


def _sixteen(stored: Sequence[Stored]) -> Size:
    return NOTHING.plus(sum(s.elements for s in stored), 16)


def _frenzy_dot(facts: Facts, folding: Folding, allowance: bool) -> Price:
    return Price(facts.macs, facts.macs, _sixteen(facts.stored))


def _frenzy_pool(facts: Facts, folding: Folding, allowance: bool) -> Price:
    """3 k^2 (k + pad)^2 an output: fits the three published figures and follows no sensible rule."""
    rows, columns = facts.kernel or (1, facts.window)
    each = product((3, rows, columns, rows + facts.pad[0], columns + facts.pad[1]))
    return Price(adds=Count(each.value * facts.elements.value, f"{each.text} * {facts.elements.text}"), label="fitted")


def _elements(multiplies: int, adds: int, bits: int | None = None) -> Pricing:
    """Operations for every live output element; weights at `bits` each, or as micronet has them."""

    def price(facts: Facts, folding: Folding, allowance: bool) -> Price:
        stored = _sixteen(facts.stored) if bits == 16 else _stored(facts.stored, allowance)
        return Price(
            facts.elements.times(multiplies) if multiplies else NONE, facts.elements.times(adds) if adds else NONE, stored
        )

    return price


# micronet: the challenge's rules


def _stored(stored: Sequence[Stored], allowance: bool) -> Size:
    """Dense at its own width (16 bits under the allowance), or nonzeros and a mask of one bit an element if that is smaller."""
    total = NOTHING
    for s in stored:
        bits = min(s.bits, 16) if allowance else s.bits
        taken = (s.nonzero or 0) * bits + s.elements if _is_sparse(s, bits) else s.elements * bits
        total = Size(total.parameters + s.elements, total.bits + taken)
    return total


def _is_sparse(s: Stored, bits: int) -> bool:
    return s.nonzero is not None and s.nonzero * bits + s.elements < s.elements * bits


def _micronet_dot(facts: Facts, folding: Folding, allowance: bool) -> Price:
    """n multiplies and n - 1 adds for a dot product of n terms that are not zero; constants that it skips make a bias."""
    macs, dots = facts.macs, facts.dots
    weights = facts.stored[0] if facts.stored else None
    stored = _stored(facts.stored, allowance)
    if weights and weights.elements and weights.nonzero is not None and weights.columns is not None:
        bits = min(weights.bits, 16) if allowance else weights.bits
        if _is_sparse(weights, bits):
            places = macs.value // weights.elements
            macs, dots = product((weights.nonzero,), (places,)), product((weights.columns,), (places,))
    adds = macs.minus(dots)
    if facts.drops_constants and not folding.has_bias:
        adds = adds.plus(facts.elements)
        stored = stored.plus(facts.live_out or 0, 16 if allowance else FLOAT_BITS)
    return Price(macs, adds, stored)


def _micronet_batch_norm(facts: Facts, folding: Folding, allowance: bool) -> Price:
    """Folded into a conv beside it: a bias, or nothing where that conv has one already. Else a scale and a shift."""
    bits = min(facts.stored[0].bits, 16) if allowance else facts.stored[0].bits
    if folding.into is None:
        return Price(facts.elements, facts.elements, NOTHING.plus(2 * facts.channels, bits))
    if folding.has_bias:
        return Price(status=FOLDED, label=f"into {folding.into}, which has a bias")
    bias = folding.bias_elements or facts.elements
    channels = folding.bias_channels if folding.bias_channels is not None else facts.channels
    return Price(
        adds=bias,
        stored=NOTHING.plus(channels if facts.channels else 0, bits),
        status=FOLDED,
        label=f"a bias of {folding.into}",
    )


def _micronet_pairs(facts: Facts, folding: Folding, allowance: bool) -> Price:
    return Price(adds=facts.pairs, stored=_stored(facts.stored, allowance))


def _micronet_average(facts: Facts, folding: Folding, allowance: bool) -> Price:
    """A sum of the window, k^2 - 1 adds, and one multiply."""
    return Price(facts.elements, facts.elements.times(facts.window - 1) if facts.window > 1 else NONE)


def _micronet_window(facts: Facts, folding: Folding, allowance: bool) -> Price:
    return Price(adds=facts.elements.times(facts.window - 1) if facts.window > 1 else NONE)


def _micronet_softmax(facts: Facts, folding: Folding, allowance: bool) -> Price:
    """An exponential and a division an element, and the sum of the row."""
    return Price(facts.elements.times(2), facts.elements.minus(facts.dots))


def _micronet_free(facts: Facts, folding: Folding, allowance: bool) -> Price:
    """No operation; weights that pass through are stored all the same."""
    return Price(stored=_stored(facts.stored, allowance), status=COUNTED if facts.stored else FREE)


def _frenzy_free(facts: Facts, folding: Folding, allowance: bool) -> Price:
    return Price(stored=_sixteen(facts.stored), status=COUNTED if facts.stored else FREE)


MICRONET = Convention(
    name="micronet",
    source="MicroNet challenge rules, NeurIPS 2019: https://micronet-challenge.github.io/scoring_and_submission.html",
    prices={
        "free": _micronet_free,
        "dot": _micronet_dot,
        "batch_norm": _micronet_batch_norm,
        "bias": _micronet_pairs,
        "add": _micronet_pairs,
        "average_pool": _micronet_average,
        "max_pool": _micronet_window,
        "sum": _micronet_window,
        "softmax": _micronet_softmax,
        **{kind: _elements(*each) for kind, each in ELEMENTARY.items()},
    },
    allowed_multiply_bits=16,
    parameter_bits=None,
    always_allowed=False,
)

FRENZY = Convention(
    name="frenzy",
    source="Matas et al., Frenzy: ARM ML Research MicroNet Submission, 2019 (average pools: a rule fitted to its figures)",
    prices={
        "free": _frenzy_free,
        "dot": _frenzy_dot,
        "batch_norm": _no_cost,
        "bias": _elements(0, 1, bits=16),
        "add": _elements(0, 1, bits=16),
        "average_pool": _frenzy_pool,
        "max_pool": _no_cost,
        "sum": _micronet_window,
        "softmax": _no_cost,
        **{kind: _elements(*each, bits=16) for kind, each in ELEMENTARY.items()},
        "relu": _no_cost,
        "relu6": _no_cost,
    },
    allowed_multiply_bits=16,
    parameter_bits=FLOAT_BITS,  # its score counts whole parameters, though its MS counts 16 bits
    always_allowed=True,
)

CONVENTIONS = {convention.name: convention for convention in (FRENZY, MICRONET)}

"""What a convention is: a price for every kind of facts, what a multiply and an add are worth, and the source of all that."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from frenzy.accounting.folding import Folding
from frenzy.accounting.graph import AccountingError
from frenzy.accounting.report import COUNTED, FREE, Score
from frenzy.accounting.rules import KINDS, NONE, Count, Facts
from frenzy.accounting.storage import Stored

FLOAT_BITS = 32
ONE, HALF, NOTHING_AT_ALL = Fraction(1), Fraction(1, 2), Fraction(0)


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
    """A total table kind -> price, and what its two operations are worth.

    multiply, add: how much one of them adds to OC; under the allowance a multiply is worth `allowed_multiply` instead.
    unit: what OC then is. live: whether channels that are known to be zero or constant are left out. scored: whether its
    numbers may be held against a MicroNet baseline; `score_bits`: the score counts a parameter as so many bits, whatever it
    is stored as (None: as stored).
    """

    name: str
    source: str
    prices: Mapping[str, Pricing]
    multiply: Fraction = ONE
    add: Fraction = ONE
    allowed_multiply: Fraction | None = None
    unit: str = "operations"
    live: bool = True
    scored: bool = False
    score_bits: int | None = None

    def __post_init__(self) -> None:
        if missing := KINDS - set(self.prices):
            raise ValueError(f"convention {self.name} has no price for {', '.join(sorted(missing))}")

    def multiply_worth(self, allowance: bool) -> Fraction:
        return self.allowed_multiply if allowance and self.allowed_multiply is not None else self.multiply

    def score(self, task: str, parameters: int, storage_bits: int, operations: Fraction) -> Score | None:
        """Shares of the task's baseline; None for a convention that counts something else. Raises AccountingError."""
        if task not in TASKS:
            raise AccountingError(f"no task '{task}'; --task takes one of: {', '.join(TASKS)}")
        if not self.scored:
            return None
        bits = storage_bits if self.score_bits is None else parameters * self.score_bits
        return Score(task, Fraction(bits, FLOAT_BITS * TASKS[task].storage), operations / TASKS[task].operations)


# Prices that several conventions share


def free(facts: Facts, folding: Folding, allowance: bool) -> Price:
    """Nothing, not even storage: what the source leaves out."""
    return Price(status=FREE)


def all_at(stored: Sequence[Stored], bits: int | None) -> Size:
    """Every parameter at `bits`; None: at its own width."""
    size = NOTHING
    for s in stored:
        size = size.plus(s.elements, s.bits if bits is None else bits)
    return size


def moved(bits: int | None) -> Pricing:
    """No operation; weights that a node only moves are stored all the same."""

    def price(facts: Facts, folding: Folding, allowance: bool) -> Price:
        return Price(stored=all_at(facts.stored, bits), status=COUNTED if facts.stored else FREE)

    return price


def every_element(multiplies: int, adds: int, stored: Callable[[Sequence[Stored], bool], Size]) -> Pricing:
    """So many operations for every live output element."""

    def price(facts: Facts, folding: Folding, allowance: bool) -> Price:
        return Price(
            facts.elements.times(multiplies) if multiplies else NONE,
            facts.elements.times(adds) if adds else NONE,
            stored(facts.stored, allowance),
        )

    return price

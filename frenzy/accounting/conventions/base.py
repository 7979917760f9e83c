"""What a convention is: a price for every kind of facts, what a multiply and an add are worth, and the source of all that."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from frenzy.accounting.folding import Folding
from frenzy.accounting.graph import AccountingError
from frenzy.accounting.report import COUNTED, FREE, Score
from frenzy.accounting.rules import KINDS, NONE, Count, Facts
from frenzy.accounting.storage import Stored
from frenzy.accounting.widths import Width

FLOAT_BITS = 32
MULTIPLY, ADD, SIGN, READ = "multiply", "add", "sign", "read"
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
class Work:
    """Operations of one sort: MULTIPLY, ADD, SIGN (a product with a sign) or READ (of 64 bits), on numbers of a width.

    `width` is None where the convention does not look at widths.
    """

    sort: str
    count: Count
    width: Width | None = None


@dataclasses.dataclass(frozen=True)
class Price:
    """What one node costs: multiplies, adds, and what it stores. `label` says what the formula is not plain about.

    works: the same operations by width, where the convention looks at widths; stored_as: the form of the weights.
    """

    multiplies: Count = NONE
    adds: Count = NONE
    stored: Size = NOTHING
    status: str = COUNTED
    label: str = ""
    works: tuple[Work, ...] | None = None
    stored_as: str = ""

    @classmethod
    def of(cls, *works: Work, **others: Any) -> "Price":
        """A price from its operations by width."""
        sums = dict.fromkeys((MULTIPLY, ADD), NONE)
        for work in works:
            sort = ADD if work.sort == ADD else MULTIPLY
            sums[sort] = sums[sort].plus(work.count)
        return cls(sums[MULTIPLY], sums[ADD], works=works, **others)


@dataclasses.dataclass(frozen=True)
class Terms:
    """The choices of a convention that its prices look at.

    allowance: nothing is below 16 bits, so weights count at 16 and multiplies at `allowed_bits`. widths: weights and maps count
    at the widths that their values have, codes and quantizers included; else operations have 32 bits. signs: a product with a sign is none,
    and the scale comes after the sum. accumulator_bits: the width of sums; tree: they start as narrow as the products are, and
    grow by a bit a level up to that. full: every weight takes 32 bits, whatever its
    type and value.
    """

    allowance: bool = False
    allowed_bits: int = 16
    widths: bool = False
    signs: bool = False
    accumulator_bits: int = FLOAT_BITS
    tree: bool = False
    full: bool = False


Pricing = Callable[[Facts, Folding, Terms], Price]
Worth = Callable[[Work], Fraction]  # what one operation adds to OC
Costs = tuple[tuple[Count, Fraction], ...]  # how many, and what one adds to OC


def by_bits(work: Work) -> Fraction:
    """1 for 32 bits."""
    assert work.width is not None
    return Fraction(work.width.bits, FLOAT_BITS)


@dataclasses.dataclass(frozen=True)
class Convention:
    """A total table kind -> price, and what its operations are worth.

    multiply, add: how much one of them adds to OC; where prices come by width, `worth` says that instead, in whole 1/parts.
    unit: what OC then is. live: whether channels that are known to be zero or constant are left out. scored: whether its
    numbers may be held against a MicroNet baseline; `score_bits`: the score counts a parameter as so many bits, whatever it
    is stored as (None: as stored). allowance: whether a network of nothing below 16 bits may count as one of 16 bits. read: what
    reading 64 bits of weights adds to OC, by the bits of all weights (None: nothing). terms: see there.
    """

    name: str
    source: str
    prices: Mapping[str, Pricing]
    multiply: Fraction = ONE
    add: Fraction = ONE
    worth: Worth | None = None
    unit: str = "operations"
    parts: int = FLOAT_BITS
    live: bool = True
    scored: bool = False
    score_bits: int | None = None
    allowance: bool = False
    read: Callable[[int], Fraction] | None = None
    terms: Terms = Terms()

    def __post_init__(self) -> None:
        if missing := KINDS - set(self.prices):
            raise ValueError(f"convention {self.name} has no price for {', '.join(sorted(missing))}")

    def costs(self, price: Price) -> Costs:
        """The operations of a price that are any, and what they are worth."""
        if price.works is None or self.worth is None:
            found: Costs = ((price.multiplies, self.multiply), (price.adds, self.add))
        else:
            found = tuple((work.count, self.worth(work)) for work in price.works)
        return tuple((count, worth) for count, worth in found if count.value and worth)

    def score(self, task: str, parameters: int, storage_bits: int, operations: Fraction) -> Score | None:
        """Shares of the task's baseline; None for a convention that counts something else. Raises AccountingError."""
        if task not in TASKS:
            raise AccountingError(f"no task '{task}'; --task takes one of: {', '.join(TASKS)}")
        if not self.scored:
            return None
        bits = storage_bits if self.score_bits is None else parameters * self.score_bits
        return Score(task, Fraction(bits, FLOAT_BITS * TASKS[task].storage), operations / TASKS[task].operations)


# Prices that several conventions share


def free(facts: Facts, folding: Folding, terms: Terms) -> Price:
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

    def price(facts: Facts, folding: Folding, terms: Terms) -> Price:
        return Price(stored=all_at(facts.stored, bits), status=COUNTED if facts.stored else FREE)

    return price


def every_element(multiplies: int, adds: int, stored: Callable[[Sequence[Stored], Terms], Size]) -> Pricing:
    """So many operations for every live output element."""

    def price(facts: Facts, folding: Folding, terms: Terms) -> Price:
        return Price(
            facts.elements.times(multiplies) if multiplies else NONE,
            facts.elements.times(adds) if adds else NONE,
            stored(facts.stored, terms),
        )

    return price

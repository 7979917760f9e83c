"""Picojoules an image: what micronet counts, at the energy of every operation by its type and width in a 45 nm process.

Source: Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9, 45 nm at 0.9 V. A width
that the table lacks costs what the next wider one does, and numbers of more than 32 bits are made of 32-bit ones: twice as
wide, two adds and four multiplies.

- A product with a sign costs nothing: the adder adds or subtracts, and a zero is skipped. The scale comes after the sum.
- A comparison, as a ReLU is one, costs an add. An exponential, a root and a division are one multiply, as in micronet: too little.
- Sums of whole numbers have 32 bits.
- Maps cost nothing to move, nor does control; and weights, unless they are read: once an image, in words of 64 bits, from the
  smallest memory of the table that holds them all.
"""

import dataclasses
from fractions import Fraction

from frenzy.accounting.conventions.base import ADD, SIGN, Work
from frenzy.accounting.conventions.micronet import SIGNS, every_element

FEMTOJOULES = 1000  # in a picojoule
WORD_BITS = 64

# (floating, bits) -> femtojoules an operation
ADDS = {(False, 8): 30, (False, 32): 100, (True, 16): 400, (True, 32): 900}
MULTIPLIES = {(False, 8): 200, (False, 32): 3_100, (True, 16): 1_100, (True, 32): 3_700}
# bytes of a memory -> femtojoules a 64-bit access
CACHES = {8 * 1024: 10_000, 32 * 1024: 20_000, 1024 * 1024: 100_000}
DRAM = 2_600_000  # 1.3 to 2.6 nJ: the upper end


def operation_femtojoules(sort: str, bits: int, real: bool) -> int:
    """Of one operation of a sort on numbers of a width, floating or whole."""
    if sort == SIGN:
        return 0
    table = ADDS if sort == ADD else MULTIPLIES
    parts = -(-bits // 32) or 1
    each = next(cost for (floating, width), cost in table.items() if floating == real and width >= -(-bits // parts))
    return each * (parts if sort == ADD else parts**2)


def access_femtojoules(memory_bits: int) -> int:
    """Of one access to 64 bits of a memory that holds so many."""
    return next((cost for size, cost in CACHES.items() if 8 * size >= memory_bits), DRAM)


def _worth(work: Work) -> Fraction:
    assert work.width is not None
    return Fraction(operation_femtojoules(work.sort, work.width.bits, work.width.real), FEMTOJOULES)


def _read(memory_bits: int) -> Fraction:
    return Fraction(access_femtojoules(memory_bits), FEMTOJOULES)


TABLE = "Horowitz, Computing's energy problem, ISSCC 2014, 45 nm at 0.9 V"

ENERGY = dataclasses.replace(
    SIGNS,
    name="energy-45nm",
    source=f"{TABLE}: picojoules of the operations that micronet-signs counts, by type and width; a product with a sign is free, a "
    "comparison an add; memory is free",
    prices={
        **SIGNS.prices,
        "compare": every_element(0, 1),
        "leaky_relu": every_element(1, 1),
        "relu": every_element(0, 1),
        "relu6": every_element(0, 2),
    },
    worth=_worth,
    unit="pJ",
    parts=FEMTOJOULES,
    allowance=False,
    scored=False,
)
ENERGY_MEMORY = dataclasses.replace(
    ENERGY,
    name="energy-45nm-memory",
    source=f"{TABLE}: as energy-45nm, and every weight is read once an image, 64 bits at a time, from the smallest of 8 KiB, "
    "32 KiB and 1 MiB of cache that holds all of them, else from DRAM",
    read=_read,
)

"""The ways to write weights down, and which of them takes least: dense, codes and a codebook or the step of an even grid, a
mask and what is not zero."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from frenzy.accounting.contents import Values, distinct, even_grid
from frenzy.accounting.conventions.base import FLOAT_BITS, NOTHING, Size, Terms
from frenzy.accounting.rules import Facts
from frenzy.accounting.storage import Stored, Weights

HALF_BITS = 16
DENSE, CODES, SIGNS, GRID = "dense", "codes", "signs", "grid"  # every Form.kind is one of these


@dataclasses.dataclass(frozen=True)
class Form:
    """Bits an element, bits a nonzero beside them, and constant bits. coded: what is written is a code, not the number.

    kind: the numbers themselves, codes of a codebook, signs and a scale, or codes on an even grid.
    """

    text: str
    each: int
    per_nonzero: int = 0
    constant: int = 0
    coded: bool = False
    kind: str = DENSE

    @property
    def masked(self) -> bool:
        return self.text.startswith("mask")

    def bits(self, elements: int, nonzero: int | None) -> int:
        return elements * self.each + (nonzero or 0) * self.per_nonzero + self.constant if elements else 0


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)


def code_bits(values: int) -> int:
    """The width of codes for so many values: 1 -> 0, 2 -> 1, 3 -> 2, 256 -> 8."""
    return (values - 1).bit_length()


def _codes(values: Values, bits: int) -> list[Form]:
    """Codes and the distinct values; a mask and the same of the nonzeros; signs and one scale where all are of one size; codes on
    an even grid and its step.

    A tensor of a single value is no code: fresh weights look so.
    """
    nonzero = [value for value, _ in values if value]
    if len(values) < 2:
        return []
    width, zeros = code_bits(len(values)), len(nonzero) < len(values)
    found = [Form(f"{_many(width, 'bit')} + {_many(len(values), 'value')}", width, 0, len(values) * bits, True, CODES)]
    if zeros:
        inner = code_bits(len(nonzero))
        text = f"mask + {_many(inner, 'bit')} + " if inner else "mask + "
        found.append(Form(text + _many(len(nonzero), "value"), 1, inner, len(nonzero) * bits, True, CODES))
    if len(nonzero) == 2 and nonzero[0] == -nonzero[1]:
        text = "1 sign bit + 1 scale"
        found.append(Form(f"mask + {text}", 1, 1, bits, True, SIGNS) if zeros else Form(text, 1, 0, bits, True, SIGNS))
    if grid := even_grid(values, bits):
        text = f"{_many(grid.bits, 'bit')} + 1 step" + ("" if grid.centred else " + 1 zero point")
        constants = bits * (1 if grid.centred else 2)
        found.append(Form(text, grid.bits, 0, constants, True, GRID))
        if zeros:
            found.append(Form(f"mask + {text}", 1, grid.bits, constants, True, GRID))
    return found


def form(stored: Stored, bits: int, values: Values | None, elements: int, nonzero: int | None) -> Form:
    """The cheapest form of a tensor of so many elements and nonzeros (None: not known), whose numbers take `bits` each."""
    forms = [Form(f"dense, {_many(bits, 'bit')}", bits, coded=stored.bits < HALF_BITS)]
    if nonzero is not None:
        forms.append(Form(f"mask + {_many(bits, 'bit')}", 1, bits, coded=stored.bits < HALF_BITS))
    forms += _codes(values, bits) if values else []
    return min(forms, key=lambda each: each.bits(elements, nonzero))


def whole_form(array: np.ndarray) -> Form:
    """The cheapest form of a tensor of which every element is stored, at the width of its type."""
    bits, nonzero = 8 * array.dtype.itemsize, int(np.count_nonzero(array))
    return form(Stored("", array.size, bits, nonzero), bits, distinct(array), array.size, nonzero)


def width_of(stored: Stored, terms: Terms) -> int:
    if terms.full:
        return FLOAT_BITS
    return min(stored.bits, HALF_BITS) if terms.allowance else stored.bits


def plain(stored: Sequence[Stored], terms: Terms) -> Size:
    """Dense at its own width (16 bits under the allowance), or nonzeros and a mask of one bit an element if that is smaller."""
    total = NOTHING
    for s in stored:
        nonzero = None if terms.full else s.nonzero
        best = form(s, width_of(s, terms), None, s.elements, nonzero)
        total = Size(total.parameters + s.elements, total.bits + best.bits(s.elements, nonzero))
    return total


@dataclasses.dataclass(frozen=True)
class Held:
    """Weights in the form that is taken, and what that takes, scales included."""

    weights: Weights
    form: Form
    size: Size

    @property
    def text(self) -> str:
        constants = sum(s.elements for s in self.weights.stored[1:])
        return self.form.text + (f" + {_many(constants, 'constant')}" if constants else "")


def _held(weights: Weights, terms: Terms) -> Held:
    main, *scales = weights.stored
    codes = terms.widths and not terms.allowance and main.values is not None
    content = weights.content if main.values is not None else None
    elements, nonzero = (content.size, content.nonzero) if content else (main.elements, main.nonzero)
    nonzero = None if terms.full else nonzero
    best = form(main, width_of(main, terms), main.values if codes else None, elements, nonzero)
    rest = plain(scales, terms)
    return Held(weights, best, Size(main.elements + rest.parameters, best.bits(main.elements, main.nonzero) + rest.bits))


def hold(facts: Facts, terms: Terms) -> Held | None:
    """The cheapest way to hold the weights of a dot product; dense numbers only as the file has them. None: it has none."""
    ways = [_held(way, terms) for way in facts.weights if way.stored]
    if not ways:
        return None
    first, *others = ways
    return min(
        [first, *(way for way in others if terms.widths and (way.form.coded or way.form.masked))], key=lambda way: way.size.bits
    )


def forfeits(facts: Facts) -> Held | None:
    """How weights are held that are quantized below 16 bits: as codes for more than one nonzero number, for less than at 16 bits.

    One value, alone or beside zeros, says nothing: fresh weights, masks and sums look so.
    """
    coded, whole = hold(facts, Terms(widths=True)), hold(facts, Terms(allowance=True, widths=True))
    if coded is None or whole is None or not coded.form.coded or coded.weights.content is None:
        return None
    values = coded.weights.content.values
    several = values is None or sum(1 for value, _ in values if value) > 1
    return coded if several and coded.size.bits < whole.size.bits else None

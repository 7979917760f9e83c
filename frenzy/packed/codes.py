"""One tensor as bits: a mask, codes and the few numbers behind them, in the form that the accountant prices. Arrays and bytes only.

A form is named in a word: [m]<kind><number bits>[.<count>][z]. d16: dense. c16.5: codes of 3 bits for 5 values. s16: signs and one
scale. g16.8: codes of 8 bits on an even grid, and its step; g16.2z: and its zero point. m in front: a mask of one bit an element
comes first, and only what is not zero is written. Bits fill bytes from the lowest on.
"""

import dataclasses
import re

import numpy as np

from frenzy.accounting.contents import FLOATS, GRID_BITS, MOST, Grid, distinct, even_grid
from frenzy.accounting.conventions.forms import CODES, DENSE, GRID, SIGNS, code_bits, whole_form

LETTERS = {DENSE: "d", CODES: "c", SIGNS: "s", GRID: "g"}
KINDS = {letter: kind for kind, letter in LETTERS.items()}
WORD = re.compile(r"(m?)([dcsg])(16|32)(?:\.([1-9]\d{0,2}))?(z?)")


class PackedError(Exception):
    """A network that cannot be packed, or a packed file that cannot be trusted; the message is one line with the next step."""


@dataclasses.dataclass(frozen=True)
class Code:
    """A form. `count`: of codes how many values, of an even grid the bits of a code; `zero`: its zero point is stored."""

    kind: str
    masked: bool
    number_bits: int
    count: int = 0
    zero: bool = False

    @property
    def width(self) -> int:
        """Bits of a code."""
        return {DENSE: 0, SIGNS: 1, GRID: self.count}.get(self.kind, code_bits(self.count) if self.count else 0)

    @property
    def word(self) -> str:
        count = f".{self.count}" if self.count else ""
        return f"{'m' if self.masked else ''}{LETTERS[self.kind]}{self.number_bits}{count}{'z' if self.zero else ''}"

    def numbers(self, written: int) -> int:
        """How many numbers stand beside the bits of so many elements that are written."""
        return {DENSE: written, CODES: self.count, SIGNS: 1, GRID: 1 + self.zero}[self.kind]


def code_of(word: str) -> Code:
    """A form by its word. Raises PackedError for a word that names none."""
    found = WORD.fullmatch(word)
    if not found:
        raise PackedError(f"form {word[:20]!r} is none; forms are words like d16, mc16.2, s16, g16.8")
    code = Code(KINDS[found[2]], bool(found[1]), int(found[3]), int(found[4] or 0), bool(found[5]))
    least = 1 if code.masked or code.kind == GRID else 2
    most = {CODES: MOST, GRID: GRID_BITS}.get(code.kind, 0)
    if bool(most) != bool(code.count) or (most and not least <= code.count <= most) or (code.zero and code.kind != GRID):
        raise PackedError(f"form {word[:20]!r} is none: codes are of {least} to {MOST} values, grids of 1 to {GRID_BITS} bits")
    return code


def plain(array: np.ndarray) -> np.ndarray:
    """The array with 0 in place of -0, which no sum of products can tell apart."""
    return array + array.dtype.type(0)


def bits_of(codes: np.ndarray, width: int) -> np.ndarray:
    """Whole numbers (n,) -> bits uint8 (n width,), the lowest of each first."""
    return ((codes.astype(np.int64)[:, None] >> np.arange(width)) & 1).astype(np.uint8).ravel()


def codes_of(bits: np.ndarray, width: int) -> np.ndarray:
    """Bits (n width,) -> whole numbers (n,): the reverse."""
    return bits.reshape(-1, width).astype(np.int64) @ (1 << np.arange(width, dtype=np.int64))


@dataclasses.dataclass(frozen=True)
class Coded:
    """A tensor in a form: its numbers in the tensor's own type, and its bits, one an uint8."""

    code: Code
    numbers: np.ndarray
    bits: np.ndarray


def encode(array: np.ndarray) -> Coded:
    """A tensor of floats in its cheapest form.

    Raises PackedError for what is no finite float16 or float32.
    """
    bits = 8 * array.dtype.itemsize
    if array.dtype != FLOATS.get(bits):
        raise PackedError(f"it holds {array.dtype}; float16 and float32 alone are packed")
    if not np.isfinite(array).all():
        raise PackedError("it holds values that are no finite numbers; train again at a lower rate")
    flat = plain(array).ravel()
    form = whole_form(flat)
    mask = flat != 0
    written = flat[mask] if form.masked else flat
    code, numbers, codes = _coded(form.kind, form.masked, bits, flat, written)
    stream = [mask.astype(np.uint8)] if form.masked else []
    stream.append(bits_of(codes, code.width))
    return Coded(code, numbers.astype(array.dtype), np.concatenate(stream))


def _coded(kind: str, masked: bool, bits: int, flat: np.ndarray, written: np.ndarray) -> tuple[Code, np.ndarray, np.ndarray]:
    """(code, numbers, codes) of what is written of a tensor in a form."""
    none = np.zeros(0, np.int64)
    if kind == DENSE:
        return Code(DENSE, masked, bits), written, none
    if kind == SIGNS:
        return Code(SIGNS, masked, bits), np.abs(written[:1]), written < 0
    if kind == CODES:
        table = np.unique(written)
        return Code(CODES, masked, bits, len(table)), table, np.searchsorted(table, written)
    values = distinct(flat)
    grid = even_grid(values, bits) if values else None
    assert grid is not None  # the form comes of one
    numbers = np.array([grid.step] if grid.centred else [grid.step, grid.zero])
    return Code(GRID, masked, bits, grid.bits, not grid.centred), numbers, grid.codes(written)


def decode(code: Code, size: int, numbers: "Source", stream: "Source") -> np.ndarray:
    """The tensor (size,) of a form, its numbers and bits taken from where they stand next. Raises PackedError."""
    mask, taken = None, 0
    if code.masked:
        head = np.unpackbits(stream.peek(-(-size // 8)), bitorder="little")[:size]
        mask, taken = head.astype(bool), size
    written = size if mask is None else int(np.count_nonzero(mask))
    total = taken + written * code.width
    bits = np.unpackbits(stream.take(-(-total // 8)), bitorder="little")
    if bits[total:].any():
        raise PackedError("the bits behind its last code are not 0; the file is damaged")
    table = numbers.take(code.numbers(written))
    if not np.isfinite(table).all():
        raise PackedError(f"its numbers are not finite ({table[~np.isfinite(table)][0]}); the file is damaged")
    values = _values(code, table, codes_of(bits[taken:total], code.width) if code.width else np.zeros(written, np.int64))
    if mask is None:
        return values
    full = np.zeros(size, FLOATS[code.number_bits])
    full[mask] = values
    return full


def _values(code: Code, table: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The values that codes stand for."""
    if code.kind == DENSE:
        return table
    if code.kind == SIGNS:
        return np.where(codes, -table[0], table[0])
    if code.kind == CODES:
        if codes.size and codes.max() >= len(table):
            raise PackedError(f"code {codes.max()} is out of range: there are {len(table)} values; the file is damaged")
        return table[codes]
    grid = Grid(float(table[0]), float(table[1]) if code.zero else float(2 ** (code.count - 1)), code.count)
    values = grid.values(codes, code.number_bits)
    if not np.isfinite(values).all():
        raise PackedError(f"its even grid of step {grid.step:g} leaves float{code.number_bits}; the file is damaged")
    return values


class Source:
    """An array that is taken piece by piece from its start."""

    def __init__(self, array: np.ndarray):
        self.array, self.start = array, 0

    @property
    def left(self) -> int:
        return len(self.array) - self.start

    def peek(self, count: int) -> np.ndarray:
        if count > self.left:
            raise PackedError(
                f"{count:,} more of {self.array.dtype} are needed and {self.left:,} are left; the file is truncated"
            )
        return self.array[self.start : self.start + count]

    def take(self, count: int) -> np.ndarray:
        found = self.peek(count)
        self.start += count
        return found

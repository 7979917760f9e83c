"""What the numbers of a tensor are like: how many are zero, how many differ, whether they lie on a grid. Arrays in, ints out."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

MOST = 256  # distinct values that are told one by one
GRID_BITS = 8  # that many values say nothing of a finer grid
SAMPLE, CHUNK = 1024, 1 << 20
COMPARED = 1 << 16  # elements whose comparison stays in the cache
FLOATS: dict[int, type[np.floating]] = {16: np.float16, 32: np.float32}  # types whose arithmetic makes the values of a grid
FARTHEST = 1 << 16  # steps from zero to the farthest value of an even grid

Values = tuple[tuple[float, int], ...]  # (value, how often it occurs), ascending


@dataclasses.dataclass(frozen=True)
class Content:
    """The numbers that a node multiplies with: `size` of them, `nonzero` are not zero.

    terms: (products of an output, outputs that have so many), ..., of outputs with any; () where no number is zero.
    """

    size: int
    nonzero: int
    terms: tuple[tuple[int, int], ...] = ()
    values: Values | None = None


def _plain(array: np.ndarray) -> np.ndarray:
    """Types that NumPy does not know itself, bfloat16 say, as float32."""
    return array if array.dtype.kind in "fiub" else array.astype(np.float32)


def count_nonzero(array: np.ndarray) -> int:
    """How many elements are not zero; floats are compared first, piece by piece in the cache, in half of the time."""
    if array.dtype.kind != "f" or not array.flags.c_contiguous:
        return int(np.count_nonzero(array))
    flat = array.reshape(-1)
    return sum(int(np.count_nonzero(flat[start : start + COMPARED] != 0)) for start in range(0, flat.size, COMPARED))


def distinct(array: np.ndarray) -> Values | None:
    """The distinct values and their counts; None for more than 256, which most tensors show in their first 1,024 elements."""
    flat = _plain(array).ravel()
    known = np.unique(flat[:SAMPLE])
    if len(known) > MOST or (known.size and known[-1] != known[-1]):
        return None
    counts = np.zeros(len(known), np.int64)
    for start in range(0, flat.size, CHUNK):
        chunk = flat[start : start + CHUNK]
        place = np.searchsorted(known, chunk)
        new = known[np.minimum(place, len(known) - 1)] != chunk
        if new.any():
            more = np.union1d(known, chunk[new])
            if len(more) > MOST or more[-1] != more[-1]:
                return None
            moved = np.zeros(len(more), np.int64)
            moved[np.searchsorted(more, known)] = counts
            known, counts = more, moved
            place = np.searchsorted(known, chunk)
        counts += np.bincount(place, minlength=len(known))
    return tuple((float(value), int(count)) for value, count in zip(known, counts, strict=True))


def content(array: np.ndarray, needed: np.ndarray | None, outputs: Sequence[int], nonzero: int | None = None) -> Content:
    """Of the `needed` elements (None: all); `outputs` are the axes that make an output's number. `nonzero`, if it is known."""
    part = array if needed is None else array[needed]
    if nonzero is None:
        nonzero = count_nonzero(part)
    terms: tuple[tuple[int, int], ...] = ()
    if nonzero < part.size:
        kept = array != 0 if needed is None else (array != 0) & needed
        others = tuple(axis for axis in range(array.ndim) if axis - array.ndim not in outputs)
        lengths, times = np.unique(np.count_nonzero(kept, axis=others), return_counts=True)
        terms = tuple((int(n), int(count)) for n, count in zip(lengths, times, strict=True) if n)
    return Content(int(part.size), nonzero, terms, distinct(part))


def is_signed(values: Values) -> bool:
    """One value of each sign at most, and perhaps zero: a product is the other factor, its opposite or nothing, then a scale."""
    return sum(value > 0 for value, _ in values) <= 1 and sum(value < 0 for value, _ in values) <= 1


def is_ternary(values: Values) -> bool:
    """-Wn, 0 and +Wp: zeros, and at most one value of each sign."""
    return is_signed(values) and len(values) > 1 and any(value == 0 for value, _ in values)


def _common_step(numbers: Sequence[float]) -> float:
    """Euclid's algorithm, with room for what float32 rounds off."""
    step, least = 0.0, max(numbers) * 1e-4
    for number in numbers:
        a, b = number, step
        while b > least:
            a, b = b, a % b
            b = 0.0 if a - b < least else b
        step = a
    return step


def grid_bits(values: Values) -> int | None:
    """The width, 8 at most, of whole numbers of which the values are multiples by one step, zero included; None if there are none.

    b bits hold 2^b neighbouring multiples. Signs take 1 bit, signs and zero 2, whatever their two sizes. A single value, as
    fresh weights have it, is no grid.
    """
    sizes = sorted({abs(value) for value, _ in values if value})
    if len(values) < 2:
        return None
    if is_signed(values):
        return 2 if len(values) == 3 else 1
    step = _common_step(sizes)
    if any(abs(size / step - round(size / step)) > 0.01 for size in sizes):
        return None
    multiples = [0, *(round(value / step) for value, _ in values)]
    bits = (max(multiples) - min(multiples)).bit_length()
    return bits if bits <= GRID_BITS else None


@dataclasses.dataclass(frozen=True)
class Grid:
    """Values step (code - zero) of codes 0 to 2^bits - 1, each product rounded once to the values' type.

    Centred codes have their zero in the middle, two's complement: the zero point need not be stored.
    """

    step: float
    zero: float
    bits: int

    @property
    def centred(self) -> bool:
        return self.zero == 2 ** (self.bits - 1)

    def codes(self, values: np.ndarray) -> np.ndarray:
        return np.rint(values.astype(np.float64) / self.step + self.zero).astype(np.int64)

    def values(self, codes: np.ndarray, number_bits: int) -> np.ndarray:
        """In float64 the product is exact, so it is rounded once, as a product in the type itself is."""
        with np.errstate(over="ignore"):
            return (np.float64(self.step) * (codes - self.zero)).astype(FLOATS[number_bits])


@functools.lru_cache(maxsize=1024)
def even_grid(values: Values, number_bits: int) -> Grid | None:
    """The grid of 8 bits at most that gives all of the values to the last bit, in floats of so many bits; None if none is found.

    Unlike grid_bits it allows for no rounding, and zero need not be on the grid. Signs of two sizes are scales, no grid.
    """
    if number_bits not in FLOATS or len(values) < 2 or is_signed(values):
        return None
    found = np.array([value for value, _ in values])
    grids = (_grid(found, step, number_bits) for step in _steps(found, number_bits))
    return next((grid for grid in grids if grid is not None), None)


def _steps(found: np.ndarray, number_bits: int) -> Iterator[float]:
    """What the step may be: the smallest size, where that is one step; else what the largest gives, and its neighbours."""
    sizes = np.unique(np.abs(found[found != 0]))
    yield float(sizes[0])
    dtype = FLOATS[number_bits]
    step = _common_step(sizes.tolist())
    near = dtype(sizes[-1] / max(1, round(sizes[-1] / step)))
    yield from (float(each) for each in (near, np.nextafter(near, dtype(0)), np.nextafter(near, dtype(np.inf))))


def _grid(found: np.ndarray, step: float, number_bits: int) -> Grid | None:
    """The grid of a step, or of a multiple of it where only every so manieth point is taken."""
    if not 0 < step < np.inf or np.abs(found).max() > FARTHEST * step:
        return None
    multiples = np.rint(found / step).astype(np.int64)
    stride = int(np.gcd.reduce(np.diff(multiples)))
    bits = int(np.ptp(multiples) // stride).bit_length() if stride else 0
    if not 0 < bits <= GRID_BITS:
        return None
    low, high, half = multiples[0] / stride, multiples[-1] / stride, 2 ** (bits - 1)
    centred = low == int(low) and -half <= low and high < half
    dtype = FLOATS[number_bits]
    with np.errstate(over="ignore"):
        grid = Grid(float(dtype(step * stride)), float(half) if centred else float(dtype(0 - low)), bits)
    return grid if np.array_equal(grid.values(grid.codes(found), number_bits), found) else None

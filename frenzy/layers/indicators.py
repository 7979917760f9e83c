"""What a single-path NAS layer decides, as functions of its weights and thresholds: margins, indicators, masks.

Source: Stamoulis et al., arXiv 1904.02877, generalised to what Frenzy's search chose from: height and width of the kernel apart,
nested numbers of channels. Every option is part of one kernel (kh, kw, cin, cout):

    rho(group) = sqrt(sum of w^2 + 1e-12) / sqrt(elements)     comparable across groups; no NaN where all are zero
    indicator  = 1 if rho - t >= 0 else 0                       t is learned, from 0; the gradient is that of sigmoid(rho - t)
    rows       at distance d from the middle count times I_1 ... I_d; columns likewise; rho is of the whole kernel
    channels   n_(g-1) to n_g count times u_2 ... u_g; rho is of the kernel with its rows and columns masked
"""

import functools
import itertools
import typing
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

TINY = 1e-12

Step = Callable[[tf.Tensor], tf.Tensor]


class Indicators(typing.NamedTuple):
    """A number for every decision of a layer: rows and columns by their distance from the middle, the groups of channels behind
    the first; (0,) where there is nothing to decide."""

    rows: tf.Tensor
    columns: tf.Tensor
    width: tf.Tensor


@tf.custom_gradient
def indicator(x: tf.Tensor) -> tf.Tensor:
    """1 where x >= 0, else 0, exactly; its gradient is that of sigmoid(x)."""
    soft = tf.sigmoid(x)
    return tf.cast(x >= 0, x.dtype), lambda upstream: upstream * soft * (1 - soft)


def nested(indicators: tf.Tensor) -> tf.Tensor:
    """(n,) -> (n + 1,): 1, i_1, i_1 i_2, ... An option counts if all before it do; tf.math.cumprod has no gradient at zeros."""
    one = tf.constant([1], indicators.dtype)
    if indicators.shape[0] < 2:
        return tf.concat([one, indicators], 0)
    return tf.concat([one, tf.stack(list(itertools.accumulate(tf.unstack(indicators), tf.multiply)))], 0)


def rho(squares: tf.Tensor, elements) -> tf.Tensor:
    """Sums of squares and how many there are -> root mean squares."""
    return tf.sqrt((squares + TINY) / tf.cast(elements, squares.dtype))


def distances(side: int) -> np.ndarray:
    """(side, side // 2 + 1): 1 where the row is so far from the middle one."""
    return np.eye(side // 2 + 1)[[abs(row - side // 2) for row in range(side)]]


@functools.cache
def by_tap(sides: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(kh kw, kh // 2 + 1) and (kh kw, kw // 2 + 1): how far the row, and the column, of every tap is from the middle one."""
    rows, columns = (distances(side) for side in sides)
    return np.repeat(rows, sides[1], axis=0), np.tile(columns, (sides[0], 1))


def groups(widths: Sequence[int]) -> np.ndarray:
    """(channels, groups): 1 where the channel is of the group, for nested widths n_1 < n_2 < ... of which the last is all."""
    return np.repeat(np.eye(len(widths)), np.diff([0, *widths]), axis=0)


def times(matrix: np.ndarray, vector: tf.Tensor) -> tf.Tensor:
    """A matrix times a vector, by an op whose gradient is as plain."""
    return tf.reshape(tf.matmul(tf.constant(matrix, vector.dtype), tf.reshape(vector, (-1, 1))), (-1,))


def taps_mask(indicators: Indicators, sides: tuple[int, int]) -> tf.Tensor:
    """(kh kw,); all ones where there is nothing to decide."""
    masks = [times(places, nested(own)) for places, own in zip(by_tap(sides), indicators, strict=False) if own.shape[0]]
    return functools.reduce(tf.multiply, masks) if masks else tf.ones(sides[0] * sides[1], indicators.rows.dtype)


def spatial_mask(indicators: Indicators, sides: tuple[int, int]) -> tf.Tensor:
    """(kh, kw)."""
    return tf.reshape(taps_mask(indicators, sides), sides)


def live_channels(indicators: Indicators, widths: Sequence[int]) -> tf.Tensor:
    """(channels,)."""
    return times(groups(widths), nested(indicators.width))


def decide(
    squares: tf.Tensor, inputs: int, thresholds: Indicators, widths: Sequence[int], step: Step = indicator
) -> tuple[Indicators, Indicators]:
    """Sums of w^2 over the inputs (kh, kw, channels), of `inputs` numbers each -> margins rho - t, and the indicators of these."""
    sides, channels, dtype = (squares.shape[0], squares.shape[1]), squares.shape[2], squares.dtype
    by_group = tf.matmul(tf.reshape(squares, (-1, channels)), tf.constant(groups(widths), dtype))  # (taps, groups)
    margins, found = ([tf.constant([], dtype)] * 3 for _ in range(2))
    if fields := [field for field in (0, 1) if thresholds[field].shape[0]]:
        rings = np.concatenate([by_tap(sides)[field].T[1:] for field in fields])  # a line for every distance but 0
        sums = tf.reduce_sum(tf.matmul(tf.constant(rings, dtype), by_group), 1)
        together = rho(sums, rings.sum(1) * inputs * channels) - tf.concat([thresholds[field] for field in fields], 0)
        counts = [thresholds[field].shape[0] for field in fields]
        for values, whole in ((margins, together), (found, step(together))):
            for field, part in zip(fields, tf.split(whole, counts), strict=True):
                values[field] = part
    if thresholds.width.shape[0]:
        mask = taps_mask(Indicators(*found), sides)
        left = tf.matmul(tf.square(mask)[None, :], by_group)[0, 1:]
        sizes = np.diff(widths) * inputs
        margins[2] = rho(left, tf.reduce_sum(mask) * tf.constant(sizes, dtype)) - thresholds.width
        found[2] = step(margins[2])
    return Indicators(*margins), Indicators(*found)


def widths_of(channels: int, fractions: Sequence[float]) -> tuple[int, ...]:
    """The nested numbers of channels, rounded, each once: (0.1, 0.25, 0.5, 1) of 16 -> (2, 4, 8, 16). At least one channel."""
    return tuple(sorted({max(1, int(fraction * channels + 0.5)) for fraction in fractions}))


def leading_ones(indicators) -> int:
    """How many count before the first that does not."""
    found = [*(bool(each) for each in indicators), False]
    return found.index(False)

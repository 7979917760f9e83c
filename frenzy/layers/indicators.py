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
    """(..., n) -> (..., n + 1): 1, i_1, i_1 i_2, ... An option counts if all before it do; tf.math.cumprod has no gradient at zeros."""
    one = tf.constant(1, indicators.dtype, [*indicators.shape[:-1], 1])
    if indicators.shape[-1] < 2:
        return tf.concat([one, indicators], -1)
    return tf.concat([one, tf.stack(list(itertools.accumulate(tf.unstack(indicators, axis=-1), tf.multiply)), -1)], -1)


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


def times(matrix: np.ndarray, vectors: tf.Tensor) -> tf.Tensor:
    """(m, n) times (n,) -> (m,), or times each of (layers, n) -> (layers, m), by an op whose gradient is as plain."""
    turned = tf.constant(matrix.T, vectors.dtype)
    if vectors.shape.rank == 2:
        return tf.matmul(vectors, turned)
    return tf.reshape(tf.matmul(tf.reshape(vectors, (1, -1)), turned), (-1,))


def taps_mask(indicators: Indicators, sides: tuple[int, int]) -> tf.Tensor:
    """(..., kh kw); all ones where there is nothing to decide."""
    masks = [times(places, nested(own)) for places, own in zip(by_tap(sides), indicators, strict=False) if own.shape[-1]]
    if masks:
        return functools.reduce(tf.multiply, masks)
    return tf.constant(1, indicators.rows.dtype, [*indicators.rows.shape[:-1], sides[0] * sides[1]])


def spatial_mask(indicators: Indicators, sides: tuple[int, int]) -> tf.Tensor:
    """(kh, kw), of one layer."""
    return tf.reshape(taps_mask(indicators, sides), sides)


def live_channels(indicators: Indicators, widths: Sequence[int]) -> tf.Tensor:
    """(channels,), of one layer."""
    return times(groups(widths), nested(indicators.width))


def by_group(squares: tf.Tensor, widths: Sequence[int]) -> tf.Tensor:
    """Sums of w^2 over the inputs (kh, kw, channels) -> over the groups of channels too, (kh kw, groups)."""
    return tf.matmul(tf.reshape(squares, (-1, squares.shape[2])), tf.constant(groups(widths), squares.dtype))


def decide_alike(
    sums: tf.Tensor,
    sides: tuple[int, int],
    inputs: Sequence[int],
    widths: Sequence[int],
    thresholds: Indicators,
    step: Step = indicator,
) -> tuple[Indicators, Indicators]:
    """decide() for layers of the same options at once: sums (layers, kh kw, groups) of by_group(), thresholds (layers, n)."""
    dtype = sums.dtype
    margins, found = ([tf.constant([], dtype, [len(inputs), 0])] * 3 for _ in range(2))
    each = np.array(inputs)[:, None]
    if fields := [field for field in (0, 1) if thresholds[field].shape[1]]:
        rings = np.concatenate([by_tap(sides)[field].T[1:] for field in fields])  # a line for every distance but 0
        elements = each * rings.sum(1) * widths[-1]
        norms = rho(times(rings, tf.reduce_sum(sums, 2)), tf.constant(elements, dtype))
        together = norms - tf.concat([thresholds[field] for field in fields], 1)
        counts = [thresholds[field].shape[1] for field in fields]
        for values, whole in ((margins, together), (found, step(together))):
            for field, part in zip(fields, tf.split(whole, counts, 1), strict=True):
                values[field] = part
    if thresholds.width.shape[1]:
        mask = taps_mask(Indicators(*found), sides)
        left = tf.reduce_sum(tf.square(mask)[:, :, None] * sums[:, :, 1:], 1)
        sizes = tf.constant(each * np.diff(widths), dtype)
        margins[2] = rho(left, tf.reduce_sum(mask, 1, keepdims=True) * sizes) - thresholds.width
        found[2] = step(margins[2])
    return Indicators(*margins), Indicators(*found)


def decide(
    squares: tf.Tensor, inputs: int, thresholds: Indicators, widths: Sequence[int], step: Step = indicator
) -> tuple[Indicators, Indicators]:
    """Sums of w^2 over the inputs (kh, kw, channels), of `inputs` numbers each -> margins rho - t, and the indicators of these."""
    sides = (squares.shape[0], squares.shape[1])
    alone = Indicators(*(tf.reshape(each, (1, -1)) for each in thresholds))
    results = decide_alike(by_group(squares, widths)[None], sides, [inputs], widths, alone, step)
    margins, found = (Indicators(*(tf.reshape(each, (-1,)) for each in result)) for result in results)
    return margins, found


def widths_of(channels: int, fractions: Sequence[float]) -> tuple[int, ...]:
    """The nested numbers of channels, rounded, each once: (0.1, 0.25, 0.5, 1) of 16 -> (2, 4, 8, 16). At least one channel."""
    return tuple(sorted({max(1, int(fraction * channels + 0.5)) for fraction in fractions}))


def leading_ones(indicators) -> int:
    """How many count before the first that does not."""
    found = [*(bool(each) for each in indicators), False]
    return found.index(False)

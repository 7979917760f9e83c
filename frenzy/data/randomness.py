"""Random numbers for the images of a batch, out of frenzy.stateless's bits: the first axis of a shape runs over the images of
this replica, which keeps its part of what is drawn for the global batch. Seeds are int32 of shape (2,), the same on all.
"""

import functools

import numpy as np
import tensorflow as tf

from frenzy.stateless import bits, own_bits, uniform

__all__ = ["integers", "permutation", "smaller_share", "split", "uniform", "values"]

TABLE = 4097  # points of the inverse of a Beta distribution


def split(seed: tf.Tensor, count: int) -> tf.Tensor:
    """int32 (count, 2): as many new seeds, equal to tf.random.split's; a larger count begins with those of a smaller."""
    return bits((count, 2), seed)


def integers(shape, seed: tf.Tensor, limits) -> tf.Tensor:
    """int32 in 0..limits - 1, limits being one for all or one for each place along the last axis. Equal to
    tf.random.stateless_uniform of that limit."""
    drawn = tf.cast(tf.bitcast(own_bits(shape, seed), tf.uint32), tf.int64)
    return tf.cast(drawn % tf.cast(limits, tf.int64), tf.int32)


def permutation(count, seed: tf.Tensor) -> tf.Tensor:
    """int32 (count,): 0..count - 1 in random order; every replica has one of its own, over its own images."""
    return tf.argsort(own_bits((count,), seed))


def values(shape, channels: int, seed: tf.Tensor) -> tf.Tensor:
    """uint8 (*shape, channels) of 0..255, four out of each int32."""
    drawn = tf.bitwise.right_shift(own_bits((*shape, -(-channels // 4), 1), seed), tf.constant([0, 8, 16, 24]))
    return tf.reshape(tf.cast(tf.bitwise.bitwise_and(drawn, 255), tf.uint8), (*shape, -1))[..., :channels]


@functools.cache
def _smaller_share_table(alpha: float) -> np.ndarray:
    """Inverse of u = P(min(b, 1 - b) <= x), b ~ Beta(alpha, alpha), as x^m at TABLE even steps of u, m = min(alpha, 1).

    With s = x^m the density x^(alpha-1) (1-x)^(alpha-1) dx is x^(alpha-m) (1-x)^(alpha-1) ds / m: bounded on 0..1/2.
    """
    power = min(alpha, 1.0)
    places = np.linspace(0, 0.5**power, 1 << 16)
    x = places ** (1 / power)
    density = x ** (alpha - power) * (1 - x) ** (alpha - 1)
    total = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return np.interp(np.linspace(0, 1, TABLE), total / total[-1], places).astype(np.float32)


def smaller_share(shape, seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """float32 in [0, 1/2]: min(b, 1 - b) of b ~ Beta(alpha, alpha)."""
    table = tf.constant(_smaller_share_table(alpha))
    place = uniform(shape, seed, 0.0, TABLE - 1.0)
    before = tf.cast(place, tf.int32)
    low, high = tf.gather(table, before), tf.gather(table, before + 1)
    return (low + (place - tf.cast(before, tf.float32)) * (high - low)) ** (1 / min(alpha, 1.0))

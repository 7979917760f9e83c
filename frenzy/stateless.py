"""Random numbers that follow from a seed alone: whatever ran before, under XLA or without it, on one replica or on many.

Seeds are whole numbers of shape (2,). The algorithm is named always: where TensorFlow selects it, XLA reads negative seeds as other ones
than the CPU does. Numbers that run over the images of a batch are drawn for the global batch, of which every replica keeps its
part: a batch spread over eight replicas is augmented as it would be on one.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import tensorflow as tf

PHILOX = 1  # as TensorFlow numbers its algorithms

_PART: contextvars.ContextVar[tuple[tf.Tensor | int, int]] = contextvars.ContextVar("part", default=(0, 1))
_SEED: contextvars.ContextVar[tf.Tensor | None] = contextvars.ContextVar("seed", default=None)


@contextlib.contextmanager
def replica(index: tf.Tensor | int, count: int) -> Iterator[None]:
    """Within, batches are part `index` of `count` equal parts of a global batch."""
    token = _PART.set((index, count))
    try:
        yield
    finally:
        _PART.reset(token)


@contextlib.contextmanager
def layers_seed(seed: tf.Tensor) -> Iterator[None]:
    """Within, layers with randomness of their own (dropout) draw from this seed."""
    token = _SEED.set(seed)
    try:
        yield
    finally:
        _SEED.reset(token)


def layers_seed_or_none() -> tf.Tensor | None:
    """The seed that `layers_seed` gives, None outside of it."""
    return _SEED.get()


def bits(shape, seed: tf.Tensor) -> tf.Tensor:
    """int32 of any value, the same on every replica."""
    return tf.random.stateless_uniform(shape, seed, None, None, tf.int32, alg="philox")


def stream_bits(shape, seed: tf.Tensor, stream: int) -> tf.Tensor:
    """int32 of any value, the same on every replica: stream 0 to 2^32 - 1 of a seed. A single operation, for graphs with many."""
    key = tf.bitcast(tf.cast(seed, tf.int32)[None], tf.uint64)
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=shape, key=key, counter=tf.constant([stream << 32, 0], tf.uint64), alg=PHILOX, dtype=tf.int32
    )


def own_bits(shape, seed: tf.Tensor) -> tf.Tensor:
    """int32 of any value, whose first axis runs over this replica's images (or so many numbers of each)."""
    index, count = _PART.get()
    if count == 1:
        return bits(shape, seed)
    own, *rest = shape
    return tf.reshape(bits((count * own, *rest), seed), (count, own, *rest))[index]


def uniform(shape, seed: tf.Tensor, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    """float32 in [low, high), the first axis over this replica's images: 23 bits of an int32 each. Equal to
    tf.random.stateless_uniform, which takes others under XLA."""
    share = tf.cast(tf.bitwise.bitwise_and(own_bits(shape, seed), 0x7FFFFF), tf.float32) * 2.0**-23
    return share * (high - low) + low


def fold_in(seed: tf.Tensor, number: tf.Tensor | int) -> tf.Tensor:
    """Another seed of shape (2,), independent of `seed` and of those that other numbers give."""
    return tf.random.experimental.stateless_fold_in(seed, number, alg="philox")

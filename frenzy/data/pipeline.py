"""Splits as tf.data pipelines of uint8 batches, in an order that a seed fixes, from any step on, whole or in shards.

The images are gathered by index from the split's own array: no second copy of it is made. Automatic sharding is off, so under
one machine's strategy `strategy.experimental_distribute_dataset(batches(...))` gives each replica its contiguous part of the
global batch; workers on several machines pass `shards` and `shard` instead.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from frenzy.data.split import DataError, Split

AHEAD = 2  # batches made ready while a step runs


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The permutation of `count` images that `epoch` (from 0) goes through."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def steps_an_epoch(count: int, batch_size: int, drop_remainder: bool = True) -> int:
    """How many batches `count` images make."""
    return count // batch_size if drop_remainder else -(-count // batch_size)


def _gathered(split: Split, chosen: Callable[[int], np.ndarray], steps: range, batch_size: int | None, index: bool):
    """A dataset of (images, labels[, index]) for the steps; chosen(step) -> int64 indices (batch_size,)."""

    def gather(step: np.ndarray) -> tuple[np.ndarray, ...]:
        rows = chosen(int(step))
        return split.images[rows], split.labels[rows].astype(np.int32, copy=False), rows

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        images, labels, rows = tf.numpy_function(gather, [step], (tf.uint8, tf.int32, tf.int64), stateful=False)
        images.set_shape((batch_size, *split.images.shape[1:]))
        labels.set_shape((batch_size,))
        rows.set_shape((batch_size,))
        return (images, labels, rows) if index else (images, labels)

    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return tf.data.Dataset.range(steps.start, steps.stop).map(batch).prefetch(AHEAD).with_options(options)


def batches(
    split: Split,
    batch_size: int,
    seed: int,
    epoch: int,
    start: int = 0,
    drop_remainder: bool = True,
    shards: int = 1,
    shard: int = 0,
    index: bool = False,
) -> tf.data.Dataset:
    """One epoch from step `start` on: images uint8 (b, h, w, 3), labels int32 (b,), and with `index` their int64 places.

    Step s holds images s * batch_size to (s + 1) * batch_size of epoch_order(seed, epoch, n): the same however the run was cut
    off. Shard i of n has the i-th n-th of every global batch: b = batch_size / shards. Raises DataError for sizes that do not fit.
    """
    count = len(split.images)
    if batch_size < 1 or shards < 1 or batch_size % shards or not 0 <= shard < shards:
        raise DataError(f"batch_size {batch_size}, shard {shard} of {shards}: whole shards of 1 image or more, numbered from 0")
    if shards > 1 and not drop_remainder:
        raise DataError(f"{shards} shards of a last partial batch would differ in size; drop the remainder, or use 1 shard")
    steps = steps_an_epoch(count, batch_size, drop_remainder)
    if not steps:
        raise DataError(f"batch_size {batch_size} is above the {count} images; take a smaller one")
    if not 0 <= start <= steps:
        raise DataError(f"no step {start} in an epoch of {steps}; take 0 to {steps}")
    order = epoch_order(seed, epoch, count)
    share = batch_size // shards

    def chosen(step: int) -> np.ndarray:
        first = step * batch_size + shard * share
        return order[first : first + share]

    return _gathered(split, chosen, range(start, steps), share if drop_remainder else None, index)


def evaluation_batches(split: Split, batch_size: int) -> tf.data.Dataset:
    """Every image once, in order: images uint8 (b, h, w, 3), labels int32 (b,); the last batch may be smaller."""
    if batch_size < 1:
        raise DataError(f"batch_size {batch_size}; it must be 1 or more")
    count = len(split.images)

    def chosen(step: int) -> np.ndarray:
        return np.arange(step * batch_size, min((step + 1) * batch_size, count))

    steps = steps_an_epoch(count, batch_size, drop_remainder=False)
    return _gathered(split, chosen, range(steps), None if count % batch_size else batch_size, index=False)

"""Dropout whose masks a training step can repeat: they come from the step's seed where it gives one."""

import zlib

import tensorflow as tf
import tf_keras as keras

from frenzy import stateless


def drop(x: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Each element of (n, …) zeroed with probability `rate`, the others divided by 1 - rate."""
    shape = [tf.shape(x)[i] if dim is None else dim for i, dim in enumerate(x.shape)]
    kept = stateless.uniform(tuple(shape), seed) >= rate
    return tf.where(kept, x / tf.cast(1 - rate, x.dtype), tf.zeros((), x.dtype))


@keras.utils.register_keras_serializable("frenzy")
class Dropout(keras.layers.Dropout):
    """tf_keras's Dropout; under `stateless.layers_seed` its masks follow from that seed and the layer's name."""

    def call(self, inputs, training=None):
        seed = stateless.layers_seed_or_none()
        if seed is None or not training or not self.rate:
            return super().call(inputs, training=training)
        return drop(inputs, self.rate, stateless.fold_in(seed, zlib.crc32(self.name.encode()) & 0x7FFFFFFF))

"""Layers that know which channels are live: what stands between convolutions whose width is still being searched.

`live` is a vector (channels,), 1 for a channel that counts and 0 for one that is cut off, whose output is 0.
Masks sit where they cost nothing, in kernels of convolutions and in scale and offset of BN, never on maps.

A channel that is cut off must be able to learn that it is wanted, and ReLU passes no gradient at 0. MaskedReLU makes it pass, for
the price of another map. Behind a batch normalisation it is cheaper to let cut channels be LIFT instead of 0: too little to change
a sum, enough for any ReLU.
"""

import math
from collections.abc import Sequence

import tensorflow as tf
import tf_keras as keras

LIFT, LIFT_16 = 1e-30, 1e-7  # the latter where maps are float16, whose least number above 0 is 6e-8


def union(parts: Sequence[tf.Tensor], channels: int, static: int = 0) -> tf.Tensor:
    """1 - (1 - a)(1 - b) ...: what is live in a sum of maps. Vectors of `channels` or fewer, the rest being zeros -> (channels,).

    `static`: so many leading channels are live whatever the parts say. Dropout's scaled indicators count as 1.
    """
    missing = tf.concat([tf.zeros(static), tf.ones(channels - static)], 0)
    for part in parts:
        missing *= 1 - tf.pad(tf.clip_by_value(part, 0.0, 1.0), [(0, channels - part.shape[0])])
    return 1 - missing


@keras.utils.register_keras_serializable("frenzy")
class LiveUnion(keras.layers.Layer):
    """One vector or several, each of `channels` or fewer -> (channels,): what is live in a sum. See union()."""

    def __init__(self, channels: int, static: int = 0, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= static <= channels:
            raise ValueError(f"{self.name}: {static} of {channels} channels are static; it must be 0 to {channels}")
        self.channels, self.static = channels, static

    def call(self, inputs):
        return union([tf.cast(each, tf.float32) for each in tf.nest.flatten(inputs)], self.channels, self.static)

    def compute_output_shape(self, input_shape):
        return (self.channels,)

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "static": self.static}


@keras.utils.register_keras_serializable("frenzy")
class LiveJoin(keras.layers.Layer):
    """Vectors -> one behind the other: what is live in maps that are joined along the channels.

    `static`: for every map in turn so many ones, or 0 for the next of the vectors; () where all are given.
    """

    def __init__(self, static: Sequence[int] = (), **kwargs):
        super().__init__(**kwargs)
        self.static = tuple(static)

    def call(self, inputs):
        given = iter([tf.cast(each, tf.float32) for each in tf.nest.flatten(inputs)])
        return tf.concat([tf.ones(count) if count else next(given) for count in self.static or [0] * len(inputs)], 0)

    def compute_output_shape(self, input_shape):
        shapes = input_shape if isinstance(input_shape, list) else [input_shape]
        return (sum(shape[0] for shape in shapes) + sum(self.static),)

    def get_config(self):
        return {**super().get_config(), "static": self.static}


def masked_relu(x: tf.Tensor, live: tf.Tensor, max_value: float | None = None) -> tf.Tensor:
    """relu(x), or relu6(x) for a max_value of 6, of (n, ..., c). Where `live` (c,) is 0 the gradient passes, though x is 0 there.

    Else a channel that is cut off could not learn that it is wanted.
    """
    forward, backward = (tf.nn.relu, tf.raw_ops.ReluGrad) if max_value is None else (tf.nn.relu6, tf.raw_ops.Relu6Grad)
    dead = tf.cast(tf.equal(live, 0), x.dtype)

    @tf.custom_gradient
    def activated(x):
        y = forward(x)

        def gradient(upstream):
            with tf.control_dependencies([upstream]):  # else this map is made on the way forth, and held until it is read
                features = tf.nn.bias_add(y, dead) if x.shape.rank and x.shape.rank > 1 else y + dead
            return backward(gradients=upstream, features=features)

        return y, gradient

    return activated(x)


@keras.utils.register_keras_serializable("frenzy")
class MaskedReLU(keras.layers.Layer):
    """[(n, ..., c), live (c,)] -> (n, ..., c): see masked_relu(). Raises ValueError for a max_value other than None and 6."""

    def __init__(self, max_value: float | None = None, **kwargs):
        super().__init__(**kwargs)
        if max_value not in (None, 6):
            raise ValueError(f"{self.name}: max_value is {max_value}; allowed: None, 6")
        self.max_value = max_value

    def call(self, inputs):
        x, live = inputs
        return masked_relu(x, live, self.max_value)

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "max_value": self.max_value}


@keras.utils.register_keras_serializable("frenzy")
class MaskedBatchNormalization(keras.layers.BatchNormalization):
    """[(n, ..., c), live (c,)] -> (n, ..., c): batch normalisation, times `live`.

    gates: the map comes unmasked from a convolution that leaves its mask to this layer. Else cut channels come in as zeros, and
    their gradient in training is that of a channel of variance 1: of one of no variance it would be 1 / sqrt(epsilon) as large.
    Scale and offset carry the mask, so the gradient of `live` is the sum of output times gradient: what the loss would change
    by if the channel went (Molchanov et al., arXiv 1611.06440).
    lifts: cut channels come out as LIFT in place of 0, so that the gradient passes a ReLU behind.
    """

    def __init__(self, gates: bool = True, lifts: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.gates, self.lifts = gates, lifts

    def build(self, input_shape):
        super().build(input_shape[0])
        self.input_spec = None  # two inputs, of which the base class knows one

    def call(self, inputs, training=None, mask=None):
        x, live = inputs
        training = keras.backend.learning_phase() if training is None else training
        live = tf.cast(live, tf.float32)
        cut = tf.cast(tf.equal(live, 0), tf.float32)
        scale = live
        if training and not self.gates:
            scale += math.sqrt(self.epsilon) * cut
        scale = scale * self.gamma if self.scale else scale
        offset = live * self.beta if self.center else tf.zeros_like(live)
        if self.lifts:
            offset += (LIFT_16 if self.compute_dtype == "float16" else LIFT) * cut
        return self._trained(x, scale, offset) if training else self._normalized(x, scale, offset)

    def _normalized(self, x, scale, offset):
        if x.shape.rank == 4:
            return tf.compat.v1.nn.fused_batch_norm(
                x, scale, offset, self.moving_mean, self.moving_variance, self.epsilon, is_training=False
            )[0]
        return self._by_hand(x, self.moving_mean, self.moving_variance, scale, offset)

    def _by_hand(self, x, mean, variance, scale, offset):
        wide = tf.nn.batch_normalization(tf.cast(x, tf.float32), mean, variance, offset, scale, self.epsilon)
        return tf.cast(wide, x.dtype)

    def _trained(self, x, scale, offset):
        if x.shape.rank == 4 and not self.synchronized:
            y, mean, variance = tf.compat.v1.nn.fused_batch_norm(x, scale, offset, epsilon=self.epsilon, is_training=True)
        else:
            axes = list(range(x.shape.rank - 1))
            mean, variance = self._calculate_mean_and_var(tf.cast(x, tf.float32), axes, keep_dims=False)
            y = self._by_hand(x, mean, variance, scale, offset)
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign_sub((moving - tf.cast(new, moving.dtype)) * (1 - self.momentum))
        return y

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "gates": self.gates, "lifts": self.lifts}

"""One-bit weights: signs that flip with hysteresis, scaled by mean|w|; and McDonnell's signs of constant scale.

A state s of -1 or +1 a weight, at first the sign of w, becomes +1 once w >= h, -1 once w <= -h, else stays; the weight is
mean|w| s (BNN poster). McDonnell, arXiv 1802.08530: sqrt(2 / fan_in) sign(w). The gradient passes unchanged in both.
"""

import math

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

from frenzy.compress.tensors import CompressError, channel_axis, fan_in, variable_name


def sign(w: tf.Tensor) -> tf.Tensor:
    """Any shape -> the same: -1 below 0, else +1."""
    return tf.where(w < 0, -tf.ones_like(w), tf.ones_like(w))


def binarize(w: tf.Tensor, state: tf.Tensor, h: tf.Tensor | float) -> tf.Tensor:
    """Weights and their state, any shape -> the next state: a sign is kept until w passes the threshold h of the other one."""
    return tf.where(w >= h, tf.ones_like(w), tf.where(w <= -h, -tf.ones_like(w), state))


@tf.custom_gradient
def binary_value(w: tf.Tensor, state: tf.Tensor, scale: tf.Tensor):
    """scale state, with the gradient of w itself; `scale` is a scalar or broadcasts, and has no gradient."""
    return scale * state, lambda g: (g, None, None)


def mean_magnitude(w: tf.Tensor, axis: int | None) -> tf.Tensor:
    """mean|w|: a scalar, or with an axis one for each of its places, of a shape that broadcasts."""
    others = None if axis is None else [i for i in range(w.shape.rank) if i != axis]
    return tf.reduce_mean(tf.abs(w), others, keepdims=axis is not None)


@keras.utils.register_keras_serializable("frenzy")
class Hysteresis(tfmot.quantization.keras.quantizers.Quantizer):
    """`threshold` is h, or with `relative` h over the standard deviation of the tensor; `per_channel`: a scale per output.

    A He-initialised ResNet-20 has deviations of 0.118, 0.083 and 0.059: 0.1 is large there. Raises CompressError.
    """

    def __init__(self, threshold: float = 0.1, relative: bool = False, per_channel: bool = False):
        if not threshold >= 0:
            raise CompressError(
                f"threshold is {threshold}; it must be 0 or more: 0.1, say, or 1 of the deviation with relative"
            )
        self.threshold, self.relative, self.per_channel = threshold, relative, per_channel
        self.axis: int | None = None

    def build(self, tensor_shape, name, layer):
        self.axis = channel_axis(layer.layer, len(tensor_shape)) if self.per_channel else None
        w = tf.convert_to_tensor(getattr(layer.layer, name))
        state = layer.add_weight(
            variable_name(name, "state"),
            shape=tensor_shape,
            initializer=lambda shape, dtype=None, **kwargs: sign(w),
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        return {"state": state}

    @tf.autograph.experimental.do_not_convert
    def __call__(self, inputs, training, weights, **kwargs):
        w, state = tf.convert_to_tensor(inputs), weights["state"]
        if training:
            h = self.threshold * (tf.math.reduce_std(w) if self.relative else 1.0)
            state.assign(binarize(w, tf.convert_to_tensor(state), h))
        return binary_value(w, tf.convert_to_tensor(state), mean_magnitude(w, self.axis))

    def get_config(self):
        return {"threshold": self.threshold, "relative": self.relative, "per_channel": self.per_channel}


@keras.utils.register_keras_serializable("frenzy")
class McDonnell(tfmot.quantization.keras.quantizers.Quantizer):
    """sqrt(2 / fan_in) sign(w): nothing to learn but w."""

    def __init__(self):
        self.scale = 1.0

    def build(self, tensor_shape, name, layer):
        self.scale = math.sqrt(2 / fan_in(layer.layer, tuple(tensor_shape)))
        return {}

    @tf.autograph.experimental.do_not_convert
    def __call__(self, inputs, training, weights, **kwargs):
        w = tf.convert_to_tensor(inputs)
        return binary_value(w, sign(w), tf.constant(self.scale, w.dtype))

    def get_config(self):
        return {}

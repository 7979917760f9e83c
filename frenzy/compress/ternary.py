"""Ternary weights: trained ternary quantization and its +1/-1/0 variant. Zhu et al., arXiv 1612.01064.

    w_q = Wp where w > delta, -Wn where w < -delta, else 0         delta = t max|w|, without a gradient

With g = dL/dw_q: dL/dw = Wp g, Wn g, g in the three zones; dL/dWp = sum of g where w > delta; dL/dWn = minus the sum of g
where w < -delta (w_q is -Wn there: notes that print a plus are wrong).
"""

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

from frenzy.compress.tensors import CompressError, variable_name


def ternarize(w: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Any shape -> the same: +1 above the threshold, -1 below minus the threshold, else 0."""
    return tf.sign(w) * tf.cast(tf.abs(w) > threshold, w.dtype)


def delta(w: tf.Tensor, t: float) -> tf.Tensor:
    """t max|w|, a scalar."""
    return t * tf.reduce_max(tf.abs(w))


@tf.custom_gradient
def ternary_value(w: tf.Tensor, wp: tf.Tensor, wn: tf.Tensor, t: float):
    """Weights of any shape, two scalars and t -> the ternary weights, with the gradients of this file."""
    zones = ternarize(w, delta(w, t))
    above, below = tf.cast(zones > 0, w.dtype), tf.cast(zones < 0, w.dtype)

    def gradient(g):
        return g * (wp * above + wn * below + (1 - above - below)), tf.reduce_sum(g * above), -tf.reduce_sum(g * below), None

    return wp * above - wn * below, gradient


def zone_mean(w: tf.Tensor, t: float, sign: int) -> tf.Tensor:
    """The mean magnitude of the weights that become `sign`: where a trained network's scale starts. Without any, 1."""
    zone = tf.cast(tf.equal(ternarize(w, delta(w, t)), sign), w.dtype)
    count = tf.reduce_sum(zone)
    return tf.where(count > 0, tf.math.divide_no_nan(tf.reduce_sum(tf.abs(w) * zone), count), 1.0)


def _check(threshold: float) -> None:
    if not 0 <= threshold < 1:
        raise CompressError(f"threshold is {threshold}; of the largest weight it must be at least 0 and below 1: 0.05, say")


@keras.utils.register_keras_serializable("frenzy")
class TTQ(tfmot.quantization.keras.quantizers.Quantizer):
    """`threshold` is t. The scales, trained scalars, start at the mean magnitude of their zone. Raises CompressError."""

    def __init__(self, threshold: float = 0.05):
        _check(threshold)
        self.threshold = threshold

    def build(self, tensor_shape, name, layer):
        w = tf.convert_to_tensor(getattr(layer.layer, name))
        return {
            role: layer.add_weight(
                variable_name(name, f"{role}_scale"),
                shape=(),
                initializer=keras.initializers.Constant(float(zone_mean(w, self.threshold, sign))),
                trainable=True,
            )
            for role, sign in (("positive", 1), ("negative", -1))
        }

    @tf.autograph.experimental.do_not_convert
    def __call__(self, inputs, training, weights, **kwargs):
        scales = [tf.convert_to_tensor(weights[role]) for role in ("positive", "negative")]
        return ternary_value(tf.convert_to_tensor(inputs), *scales, self.threshold)

    def get_config(self):
        return {"threshold": self.threshold}


@keras.utils.register_keras_serializable("frenzy")
class OneNegativeOne(tfmot.quantization.keras.quantizers.Quantizer):
    """TTQ whose scales stay 1: weights of +1, -1 and 0. `threshold` is t. Raises CompressError."""

    def __init__(self, threshold: float = 0.05):
        _check(threshold)
        self.threshold = threshold

    def build(self, tensor_shape, name, layer):
        return {}

    @tf.autograph.experimental.do_not_convert
    def __call__(self, inputs, training, weights, **kwargs):
        one = tf.ones(())
        return ternary_value(tf.convert_to_tensor(inputs), one, one, self.threshold)

    def get_config(self):
        return {"threshold": self.threshold}

"""Weights on an even grid of 2 to 8 bits, symmetric around zero, whose points float16 holds exactly.

    w_q = step round(w / step), within +-(2^(bits - 1) - 1) steps        step: max|w| / (2^(bits - 1) - 1), rounded up

A step of 4 significant bits times a multiple of 7 has 11, as many as float16: what is stored at 16 bits is still the grid.
"""

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

from frenzy.compress.tensors import CompressError

STEP_BITS = 4


def check_bits(bits: int) -> None:
    if not 2 <= bits <= 8:
        raise CompressError(f"bits is {bits}; allowed: 2 to 8")


def most_steps(bits: int) -> int:
    """2^(bits - 1) - 1: how far a grid reaches to either side."""
    return 2 ** (bits - 1) - 1


def grid_step(peak: tf.Tensor, bits: int) -> tf.Tensor:
    """The step of a grid that reaches `peak`: peak / (2^(bits - 1) - 1), rounded up to 4 significant bits; 1 for a peak of 0."""
    exact = tf.where(peak > 0, peak, 1.0) / most_steps(bits)
    unit = 2.0 ** (tf.floor(tf.math.log(exact) / tf.math.log(2.0)) - (STEP_BITS - 1))
    unit = tf.where(exact > unit * 2**STEP_BITS, 2 * unit, unit)  # the logarithm of a power of two may lie just below it
    return tf.math.ceil(exact / unit) * unit


@tf.custom_gradient
def to_grid(w: tf.Tensor, step: tf.Tensor, most: float):
    """Any shape -> the nearest points of the grid of `most` steps to either side, with the gradient of w itself."""
    return step * tf.clip_by_value(tf.round(w / step), -most, most), lambda g: (g, None, None)


@keras.utils.register_keras_serializable("frenzy")
class Uniform(tfmot.quantization.keras.quantizers.Quantizer):
    """A grid a tensor that follows its largest weight. Raises CompressError."""

    def __init__(self, bits: int = 8):
        check_bits(bits)
        self.bits = bits

    def build(self, tensor_shape, name, layer):
        return {}

    @tf.autograph.experimental.do_not_convert
    def __call__(self, inputs, training, weights, **kwargs):
        w = tf.convert_to_tensor(inputs)
        return to_grid(w, grid_step(tf.reduce_max(tf.abs(w)), self.bits), float(most_steps(self.bits)))

    def get_config(self):
        return {"bits": self.bits}

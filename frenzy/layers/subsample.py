"""Strides without arithmetic."""

import tensorflow as tf
import tf_keras as keras


def subsample(x: tf.Tensor, stride: int) -> tf.Tensor:
    """(n, h, w, c) -> (n, ceil(h / stride), ceil(w / stride), c): every stride-th row and column, from the first on."""
    return x[:, ::stride, ::stride]


@keras.utils.register_keras_serializable("frenzy")
class Subsample(keras.layers.Layer):
    """(n, h, w, c) -> (n, ceil(h / stride), ceil(w / stride), c). The strided identity of He et al., arXiv 1512.03385, option A."""

    def __init__(self, stride: int, **kwargs):
        super().__init__(**kwargs)
        if stride < 1:
            raise ValueError(f"{self.name}: stride is {stride}; it must be 1 or more")
        self.stride = stride

    def call(self, inputs):
        return subsample(inputs, self.stride)

    def compute_output_shape(self, input_shape):
        n, height, width, channels = input_shape
        return (n, *(side and -(-side // self.stride) for side in (height, width)), channels)

    def get_config(self):
        return {**super().get_config(), "stride": self.stride}

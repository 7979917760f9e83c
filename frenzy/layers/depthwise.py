"""Depthwise convolution that trains faster where pictures are small: a gradient of its own, of the same value.

TensorFlow's kernel gradient on CPUs takes longest where a picture has few pixels and many channels. There it is a matrix product
a channel: every input pixel with every output pixel, summed over the batch; pairs that lie under the same tap are then added up.
Inference is not touched: without training the layer is tf_keras's.
"""

import numpy as np
import tensorflow as tf
import tf_keras as keras

MOST_PAIRS = 1024  # input pixels times output pixels; above, TensorFlow's own gradient is as fast or faster


def taps(size: int, kernel: int, stride: int, padding: str) -> np.ndarray:
    """float32 (input places, output places, kernel) of one axis: 1 where the output reads the input through that tap."""
    outputs = -(-(size if padding == "same" else size - kernel + 1) // stride)
    before = max((outputs - 1) * stride + kernel - size, 0) // 2 if padding == "same" else 0
    places = stride * np.arange(outputs)[:, None] + np.arange(kernel) - before
    return (np.arange(size)[:, None, None] == places).astype(np.float32)


def pairs_under_taps(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """taps() of both axes -> float32 (input pixels * output pixels, kernel rows * kernel columns)."""
    joined = np.einsum("ayi,bzj->abyzij", rows, columns)
    return joined.reshape(-1, rows.shape[2] * columns.shape[2])


def kernel_gradient(x: tf.Tensor, upstream: tf.Tensor, kernel_size: tuple[int, int], stride: int, padding: str) -> tf.Tensor:
    """(n, h, w, c) and d loss / d output (n, h', w', c), all but n known -> d loss / d kernel (kh, kw, c, 1)."""
    _, height, width, channels = x.shape
    outputs = upstream.shape[1] * upstream.shape[2]
    read = tf.transpose(tf.reshape(x, (-1, height * width, channels)), (2, 1, 0))
    told = tf.transpose(tf.reshape(upstream, (-1, outputs, channels)), (2, 0, 1))
    pairs = tf.reshape(tf.matmul(read, told), (channels, -1))
    rows, columns = (taps(*axis, stride, padding) for axis in zip((height, width), kernel_size, strict=True))
    under = tf.constant(pairs_under_taps(rows, columns), x.dtype)
    return tf.reshape(tf.matmul(under, pairs, transpose_a=True, transpose_b=True), (*kernel_size, channels, 1))


def depthwise_conv(x: tf.Tensor, kernel: tf.Tensor, stride: int, padding: str) -> tf.Tensor:
    """tf.nn.depthwise_conv2d, (n, h, w, c) and (kh, kw, c, 1) -> (n, h', w', c), with the gradient of this file."""
    strides = (1, stride, stride, 1)

    @tf.custom_gradient
    def convolved(x, kernel):
        def gradient(upstream):
            back = tf.nn.depthwise_conv2d_backprop_input(tf.shape(x), kernel, upstream, strides, padding.upper())
            return back, kernel_gradient(x, upstream, tuple(kernel.shape[:2]), stride, padding)

        return tf.nn.depthwise_conv2d(x, kernel, strides, padding.upper()), gradient

    return convolved(x, kernel)


@keras.utils.register_keras_serializable("frenzy")
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """tf_keras's DepthwiseConv2D; in training, where it pays, with the gradient of this file: float32, one output a channel."""

    def call(self, inputs, training=None):
        if not training or not self._pays(inputs):
            return super().call(inputs)
        outputs = depthwise_conv(inputs, tf.convert_to_tensor(self.depthwise_kernel), self.strides[0], self.padding)
        outputs = tf.nn.bias_add(outputs, self.bias) if self.use_bias else outputs
        return outputs if self.activation is None else self.activation(outputs)

    def _pays(self, inputs: tf.Tensor) -> bool:
        if None in inputs.shape[1:] or inputs.dtype != tf.float32 or self.data_format != "channels_last":
            return False
        if self.depth_multiplier != 1 or tuple(self.dilation_rate) != (1, 1):
            return False
        _, height, width, _ = inputs.shape
        _, rows, columns, _ = self.compute_output_shape(inputs.shape)
        return height * width * rows * columns <= MOST_PAIRS

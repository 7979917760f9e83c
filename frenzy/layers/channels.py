"""Channel bookkeeping that networks need around their convolutions."""

import tensorflow as tf
import tf_keras as keras


def zero_pad_channels(x: tf.Tensor, after: int) -> tf.Tensor:
    """(n, h, w, c) -> (n, h, w, c + after): zeros behind the last channel."""
    return tf.pad(x, [(0, 0), (0, 0), (0, 0), (0, after)])


@keras.utils.register_keras_serializable("frenzy")
class ZeroPadChannels(keras.layers.Layer):
    """(n, h, w, c) -> (n, h, w, c + after): zeros behind the last channel, so that a narrow branch can be added to a wide one.

    The parameter-free shortcut of McDonnell, arXiv 1802.08530. Raises ValueError for a negative `after`.
    """

    def __init__(self, after: int, **kwargs):
        super().__init__(**kwargs)
        if after < 0:
            raise ValueError(f"{self.name}: cannot pad by {after} channels; 'after' must be 0 or more")
        self.after = after

    def call(self, inputs):
        return zero_pad_channels(inputs, self.after)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] + self.after)

    def get_config(self):
        return {**super().get_config(), "after": self.after}

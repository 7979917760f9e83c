"""Activations that tf_keras lacks or defines otherwise: function, layer and string name share one stem.

tf_keras's own "hard_sigmoid" is clip(0.2 x + 0.5, 0, 1), another function; the one here is MobileNetV3's.
"""

from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras


def hard_sigmoid(x: tf.Tensor) -> tf.Tensor:
    """relu6(x + 3) / 6, any shape. Howard et al., arXiv 1905.02244, section 5.2."""
    return tf.nn.relu6(x + 3.0) / 6.0


def hard_swish(x: tf.Tensor) -> tf.Tensor:
    """x relu6(x + 3) / 6, any shape. Howard et al., arXiv 1905.02244, section 5.2."""
    return x * tf.nn.relu6(x + 3.0) / 6.0


ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": hard_swish,
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "sigmoid": tf.nn.sigmoid,
}


@keras.utils.register_keras_serializable("frenzy")
class HardSigmoid(keras.layers.Layer):
    """Any shape -> the same: relu6(x + 3) / 6."""

    def call(self, inputs):
        return hard_sigmoid(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.utils.register_keras_serializable("frenzy")
class HardSwish(keras.layers.Layer):
    """Any shape -> the same: x relu6(x + 3) / 6."""

    def call(self, inputs):
        return hard_swish(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


def function(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """The activation of that name. Raises ValueError with the known ones."""
    if name not in ACTIVATIONS:
        raise ValueError(f"no activation {name!r}; known: {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]


def layer(activation: str, name: str) -> keras.layers.Layer:
    """A fresh layer of an activation, called `name`. Raises ValueError with the known activations."""
    function(activation)
    if activation == "hard_sigmoid":
        return HardSigmoid(name=name)
    if activation == "hard_swish":
        return HardSwish(name=name)
    if activation == "relu6":
        return keras.layers.ReLU(6.0, name=name)
    return keras.layers.ReLU(name=name) if activation == "relu" else keras.layers.Activation(activation, name=name)

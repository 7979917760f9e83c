"""Squeeze-and-excitation: every channel scaled by a gate that the whole image decides. Hu et al., arXiv 1709.01507."""

import tensorflow as tf
import tf_keras as keras

from frenzy.layers import activations


def squeeze_excite(x: tf.Tensor, gates: tf.Tensor) -> tf.Tensor:
    """(n, h, w, c) and gates (n, c) -> (n, h, w, c): each channel of each image times its gate."""
    return x * gates[:, tf.newaxis, tf.newaxis, :]


@keras.utils.register_keras_serializable("frenzy")
class SqueezeExcite(keras.layers.Layer):
    """(n, h, w, c) -> (n, h, w, c): x gate(relu(mean(x) A + a) B + b), the mean over rows and columns.

    `reduction` divides c to give the hidden width, which `hidden` overrides. `gate`: "sigmoid" (the paper) or "hard_sigmoid"
    (MobileNetV3). Weights: reduce_kernel A (c, hidden), expand_kernel B (hidden, c) and, with `use_bias`, reduce_bias a and
    expand_bias b. Raises ValueError where c is no multiple of `reduction`, or the gate is not known.
    """

    def __init__(self, reduction: int = 4, gate: str = "sigmoid", use_bias: bool = True, hidden: int | None = None, **kwargs):
        super().__init__(**kwargs)
        activations.function(gate)
        if reduction < 1 or (hidden is not None and hidden < 1):
            raise ValueError(f"{self.name}: reduction is {reduction} and hidden {hidden}; both must be 1 or more")
        self.reduction, self.gate, self.use_bias, self.hidden = reduction, gate, use_bias, hidden

    def build(self, input_shape):
        channels = input_shape[-1]
        if self.hidden is None and channels % self.reduction:
            raise ValueError(
                f"{self.name}: {channels} channels do not divide by the reduction of {self.reduction}; give 'hidden' instead"
            )
        hidden = self.hidden or channels // self.reduction
        self.reduce_kernel, self.reduce_bias = self._dense("reduce", channels, hidden)
        self.expand_kernel, self.expand_bias = self._dense("expand", hidden, channels)
        super().build(input_shape)

    def _dense(self, name: str, inputs: int, outputs: int):
        kernel = self.add_weight(f"{name}_kernel", (inputs, outputs), initializer="he_normal")
        bias = self.add_weight(f"{name}_bias", (outputs,), initializer="zeros") if self.use_bias else None
        return kernel, bias

    def call(self, inputs):
        x = tf.matmul(tf.reduce_mean(inputs, (1, 2)), self.reduce_kernel)
        x = tf.nn.relu(x if self.reduce_bias is None else tf.nn.bias_add(x, self.reduce_bias))
        x = tf.matmul(x, self.expand_kernel)
        x = x if self.expand_bias is None else tf.nn.bias_add(x, self.expand_bias)
        return squeeze_excite(inputs, activations.function(self.gate)(x))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "reduction": self.reduction,
            "gate": self.gate,
            "use_bias": self.use_bias,
            "hidden": self.hidden,
        }

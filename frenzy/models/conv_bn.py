"""Convolution, batch normalization, activation: the steps that most families are made of, in tf_keras's functional style.

Strided kernels are padded as PyTorch does, (k - 1) / 2 on every side; TensorFlow's SAME would pad the far side first.
Kernels are he-normal, of a depthwise kernel with its true fan-in of k * k.
"""

import dataclasses

import tf_keras as keras

from frenzy.layers import activations
from frenzy.layers.depthwise import DepthwiseConv2D


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """How batch norms behave; `decay` is what tf_keras calls momentum, 1 - PyTorch's."""

    epsilon: float = 1e-5
    decay: float = 0.9
    learned: bool = True


TORCH = BatchNorm()


def divisible(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least one, and never below 0.9 of the value (tensorflow/models, mobilenet.py)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def batch_norm(x, name: str, bn: BatchNorm = TORCH):
    return keras.layers.BatchNormalization(
        momentum=bn.decay, epsilon=bn.epsilon, center=bn.learned, scale=bn.learned, name=name
    )(x)


def pad(x, kernel: int, stride: int, name: str):
    """What a conv reads and how it pads: SAME does at stride 1; above that zeros are put around by hand."""
    if stride == 1 or kernel == 1:
        return x, "same"
    return keras.layers.ZeroPadding2D((kernel - 1) // 2, name=f"{name}_space")(x), "valid"


def conv(x, width: int, kernel: int, name: str, stride: int = 1, bias: bool = False):
    x, padding = pad(x, kernel, stride, name)
    return keras.layers.Conv2D(
        width, kernel, stride, padding, use_bias=bias, kernel_initializer="he_normal", name=name
    )(x)  # fmt: skip


def depthwise(x, kernel: int, name: str, stride: int = 1):
    x, padding = pad(x, kernel, stride, name)
    he_normal = keras.initializers.VarianceScaling(2.0, "fan_out")  # of (k, k, c, 1) the fan-out is k * k
    return DepthwiseConv2D(
        kernel, stride, padding, use_bias=False, depthwise_initializer=he_normal, name=name
    )(x)  # fmt: skip


def activate(x, activation: str | None, name: str):
    """None: x as it is."""
    return activations.layer(activation, name)(x) if activation else x


def conv_bn(x, width: int, kernel: int, name: str, stride: int = 1, act: str | None = "relu", bn: BatchNorm = TORCH):
    """conv, BN, activation; named name, name_bn, name_<activation>."""
    x = batch_norm(conv(x, width, kernel, name, stride), f"{name}_bn", bn)
    return activate(x, act, f"{name}_{act}")


def depthwise_bn(x, kernel: int, name: str, stride: int = 1, act: str | None = "relu", bn: BatchNorm = TORCH):
    """Depthwise conv, BN, activation; named name, name_bn, name_<activation>."""
    x = batch_norm(depthwise(x, kernel, name, stride), f"{name}_bn", bn)
    return activate(x, act, f"{name}_{act}")


def dense(x, width: int, name: str):
    return keras.layers.Dense(width, kernel_initializer="he_normal", name=name)(x)


def classifier(x, num_classes: int):
    """(n, features) -> (n, num_classes) logits: a dense layer that stays float32 under mixed precision."""
    return keras.layers.Dense(num_classes, kernel_initializer="he_normal", dtype="float32", name="logits")(x)


def global_pool(x, name: str = "pool"):
    """(n, h, w, c) -> (n, c)."""
    return keras.layers.GlobalAveragePooling2D(name=name)(x)

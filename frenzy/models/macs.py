"""Multiply-accumulates of a network before it is exported, for listings.

frenzy/accounting judges what was exported, and leaves out channels that it knows to be zero; here they are counted.
"""

import math

import tf_keras as keras

from frenzy.layers.cond_conv import CondConv2D, CondDepthwiseConv2D


def layer_macs(layer: keras.layers.Layer) -> int:
    """One image's MACs of a layer: every kernel element is used once at each place of the output, in a dense layer once.

    Conditional kernels cost their mixing, experts x elements, besides. Biases, BN, pooling and gates are no MACs.
    """
    kernel = sum(math.prod(v.shape) for v in layer.weights if v.name.split(":")[0].endswith("kernel"))
    if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
        return kernel * math.prod(layer.output_shape[1:3])
    if isinstance(layer, CondConv2D | CondDepthwiseConv2D):
        return kernel + kernel // layer.experts * math.prod(layer.output_shape[1:3])
    return kernel


def count_macs(model: keras.Model) -> int:
    """One image's MACs of a network whose input size is known."""
    return sum(layer_macs(layer) for layer in model.layers)

"""The depthwise convolution's own gradient: equal to TensorFlow's, in training alone, where pictures are small."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from frenzy.layers import depthwise

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return tf.constant(RANDOM.normal(size=shape), tf.float32)


def gradients(convolve, x, kernel, upstream):
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = convolve(x, kernel)
        loss = tf.reduce_sum(y * upstream)
    return y, *tape.gradient(loss, [x, kernel])


def test_taps_are_those_of_the_definition():
    """Five places, SAME, stride 2: outputs at 0, 2 and 4 read one place to either side."""
    found = depthwise.taps(5, 3, 2, "same")
    assert found.shape == (5, 3, 3)
    assert [tuple(place) for place in np.argwhere(found)] == [
        (0, 0, 1), (1, 0, 2), (1, 1, 0), (2, 1, 1), (3, 1, 2), (3, 2, 0), (4, 2, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (1, 3), (2, 4)])
@pytest.mark.parametrize("sides", [(5, 6), (8, 5), (7, 7)])
def test_gradients_are_tensorflows(sides, kernel, stride, padding):
    x, weights = normal(3, *sides, 4), normal(*kernel, 4, 1)
    strides = (1, stride, stride, 1)
    shape = tf.nn.depthwise_conv2d(x, weights, strides, padding.upper()).shape
    upstream = normal(*shape)
    ours = gradients(lambda x, k: depthwise.depthwise_conv(x, k, stride, padding), x, weights, upstream)
    theirs = gradients(lambda x, k: tf.nn.depthwise_conv2d(x, k, strides, padding.upper()), x, weights, upstream)
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-4)


def matrix_products(layer, training, shape=(4, 4, 6)):
    """How many batched matrix products a training step of the layer has."""
    model = keras.Sequential([keras.Input(shape), layer])

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=training) ** 2)
        return tape.gradient(loss, model.trainable_variables)

    graph = step.get_concrete_function(tf.TensorSpec((None, *shape))).graph
    return sum(node.type.startswith("BatchMatMul") for node in graph.get_operations())


@pytest.mark.parametrize(
    ("options", "training", "shape", "expected"),
    [
        ({}, True, (4, 4, 6), 1),
        ({}, False, (4, 4, 6), 0),
        ({}, True, (8, 8, 6), 0),  # 64 * 64 pairs
        ({"strides": 2}, True, (8, 8, 6), 1),  # 64 * 16
        ({}, True, (None, None, 6), 0),
        ({"depth_multiplier": 2}, True, (4, 4, 6), 0),
        ({"dilation_rate": 2}, True, (4, 4, 6), 0),
        ({"dtype": "mixed_bfloat16"}, True, (4, 4, 6), 0),
    ],
)
def test_only_where_it_pays(options, training, shape, expected):
    layer = depthwise.DepthwiseConv2D(3, padding="same", **options)
    assert matrix_products(layer, training, shape) == expected


def test_a_layer_trains_as_tf_keras_does():
    keras.utils.set_random_seed(0)
    config = {"kernel_size": 3, "strides": 2, "padding": "same", "activation": "relu", "bias_initializer": "random_normal"}
    ours, theirs = depthwise.DepthwiseConv2D(**config), keras.layers.DepthwiseConv2D(**config)
    x = normal(2, 6, 6, 5)
    for layer in (ours, theirs):
        layer.build(x.shape)
    theirs.set_weights(ours.get_weights())
    found = []
    for layer in (ours, theirs):
        with tf.GradientTape() as tape:
            y = layer(x, training=True)
            loss = tf.reduce_sum(y * y)
        found.append([y, *tape.gradient(loss, layer.trainable_variables)])
    for own, other in zip(*found, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-5)
        assert np.abs(other).max() > 0

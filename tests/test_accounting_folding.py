"""Batch normalisation beside volume convs and einsums: where it folds, and what it costs then."""

import pytest
import tensorflow as tf
from test_bits import IMAGE, RANDOM, module_of, variable


def vectors_of(channels):
    return [variable([1.0] * channels) for _ in range(4)]


def normed(x, vectors):
    mean, variance, shift, scale = vectors
    return tf.nn.batch_normalization(x, mean, variance, shift, scale, 1e-3)


def test_batch_norm_folds_into_volume_convs(judge):
    kernel, vectors = variable(RANDOM.normal(size=(2, 3, 3, 6, 5))), vectors_of(5)
    spec = tf.TensorSpec((None, 4, 9, 9, 6), tf.float32)
    _, reports = judge(
        lambda x: normed(tf.nn.conv3d(x, kernel, [1] * 5, "SAME"), vectors), spec, module=module_of(kernel, *vectors)
    )
    (norm,) = [row for row in reports["micronet"].rows if row.status == "folded"]
    assert (norm.multiplies, norm.adds, norm.parameters) == (0, 4 * 9 * 9 * 5, 5)


@pytest.mark.parametrize(("padding", "folds"), [("VALID", True), ("SAME", False)])
def test_batch_norm_before_a_volume_conv(judge, padding, folds):
    """Padding along the depth alone is padding too."""
    kernel, vectors = variable(RANDOM.normal(size=(1, 1, 3, 6, 5))), vectors_of(6)
    spec = tf.TensorSpec((None, 4, 9, 9, 6), tf.float32)
    _, reports = judge(
        lambda x: tf.nn.conv3d(normed(x, vectors), kernel, [1] * 5, padding), spec, module=module_of(kernel, *vectors)
    )
    folded = [row for row in reports["micronet"].rows if row.status == "folded"]
    assert [(row.adds, row.parameters) for row in folded] == ([(4 * 9 * 7 * 5, 5)] if folds else [])


EINSUMS = {
    # equation, kernel, whether a factor for each of its output channels goes into the kernel
    "dense": ("bhwc,cd->bhwd", (6, 10), True),
    "the kernel first": ("dc,bhwc->bhwd", (10, 6), True),
    "a factor each": ("bhwc,c->bhwc", (6,), True),
    "rows last": ("bhwc,cd->bdwh", (6, 10), False),
}


@pytest.mark.parametrize("case", EINSUMS)
def test_batch_norm_behind_an_einsum(judge, case):
    equation, shape, folds = EINSUMS[case]
    kernel = variable(RANDOM.normal(size=shape))
    channels = {"d": 10, "c": 6, "h": 4}[equation[-1]]
    vectors = vectors_of(channels)

    def network(x):
        operands = (x, kernel) if equation.startswith("b") else (kernel, x)
        return normed(tf.einsum(equation, *operands), vectors)

    _, reports = judge(network, IMAGE, module=module_of(kernel, *vectors))
    folded = [row for row in reports["micronet"].rows if row.status == "folded"]
    assert [(row.adds, row.parameters) for row in folded] == ([(4 * 4 * channels, channels)] if folds else [])


def test_batch_norm_before_an_einsum(judge):
    kernel, vectors = variable(RANDOM.normal(size=(6, 10))), vectors_of(6)
    _, reports = judge(
        lambda x: tf.einsum("bhwc,cd->bhwd", normed(x, vectors), kernel), IMAGE, module=module_of(kernel, *vectors)
    )
    (norm,) = [row for row in reports["micronet"].rows if row.status == "folded"]
    assert (norm.adds, norm.parameters) == (4 * 4 * 10, 10)

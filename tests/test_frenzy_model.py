"""The Keras network against the specification: rows, widths, padding, and what the search will need of it."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from frenzy.models.frenzy import FINAL, UNPRUNED, Block, build, unpruned_rows


def layers(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


@pytest.fixture(scope="module")
def final():
    return build()


def test_nodes_of_the_final_network(final):
    kinds = [type(layer).__name__ for layer in final.layers]
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert counts == {
        "Conv2D": 29, "BatchNormalization": 29, "ReLU": 28, "Add": 9, "ZeroPadChannels": 7, "AveragePooling2D": 3,
        "InputLayer": 1, "Reshape": 1,
    }  # fmt: skip


def test_details_of_the_final_network(final):
    for conv in layers(final, keras.layers.Conv2D):
        assert (conv.use_bias, conv.padding) == (False, "same")
    norms = layers(final, keras.layers.BatchNormalization)
    assert {(norm.epsilon, norm.momentum) for norm in norms} == {(0.001, 0.99)}
    assert [norm.name for norm in norms if norm.center or norm.scale] == ["head_out_bn"]
    assert (norms[-1].center, norms[-1].scale) == (True, True)
    strided = [layer.name for layer in final.layers if getattr(layer, "strides", (1, 1)) == (2, 2)]
    assert sorted(strided) == ["block4_conv1", "block4_shortcut_pool", "block7_conv1", "block7_shortcut_pool"]
    assert final.get_layer("block9_conv2").kernel.shape == (1, 3, 100, 400)
    assert final.output_shape == (None, 100)


def test_parameters(final):
    """Convs as the file stores them, 14,000 bytes more than are live; a mean and a variance a BN channel; the last BN has all four."""
    convs = sum(np.prod(conv.kernel.shape) for conv in layers(final, keras.layers.Conv2D))
    assert convs == 8_853_600 // 2
    norms = sum(norm.input_shape[-1] for norm in layers(final, keras.layers.BatchNormalization))
    assert final.count_params() == convs + 2 * norms + 2 * 100


def test_the_unpruned_network():
    widths = [row.width for row in UNPRUNED.blocks]
    assert widths == [100] * 3 + [200] * 3 + [400] * 3
    assert [row.prune for row in UNPRUNED.blocks] == [100] * 4 + [200] * 3 + [400] * 2  # as wide as the stream that they read
    assert {(row.conv1, row.conv2) for row in UNPRUNED.blocks} == {((3, 3), (3, 3))}
    assert all(row.a == row.b == row.width for row in UNPRUNED.blocks)
    assert [row.stride for row in UNPRUNED.blocks] == [1, 1, 1, 2, 1, 1, 2, 1, 1]
    model = build(UNPRUNED)
    assert len(layers(model, keras.layers.Conv2D)) == 29
    convs = sum(np.prod(conv.kernel.shape) for conv in layers(model, keras.layers.Conv2D))
    stream, expected = 100, 3 * 3 * 3 * 100 + 400 * 100
    for width in widths:
        expected += stream * stream + 3 * 3 * stream * width + 3 * 3 * width * width
        stream = width
    assert convs == expected


SMALL = unpruned_rows((4, 8), 1)


@pytest.mark.parametrize("kernel", [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_a_masked_kernel_is_the_small_kernel_if_padding_is_symmetric(kernel):
    """At stride 2 a 3x3 kernel that is zero outside a smaller one equals the smaller one, as the search needs it."""
    keras.utils.set_random_seed(0)
    wide = build(SMALL, 10, symmetric_padding=True)
    rows = dataclasses.replace(
        SMALL, blocks=tuple(dataclasses.replace(b, conv1=kernel if b.stride == 2 else b.conv1) for b in SMALL.blocks)
    )
    small = build(rows, 10, symmetric_padding=True)
    top, left = (3 - kernel[0]) // 2, (3 - kernel[1]) // 2
    for layer in wide.layers:
        weights = layer.get_weights()
        if layer.name == "block2_conv1":
            part = weights[0][top : top + kernel[0], left : left + kernel[1]]
            small.get_layer(layer.name).set_weights([part])
            masked = np.zeros_like(weights[0])
            masked[top : top + kernel[0], left : left + kernel[1]] = part
            layer.set_weights([masked])
        elif weights:
            small.get_layer(layer.name).set_weights(weights)
    images = tf.constant(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), tf.float32)
    np.testing.assert_allclose(wide(images), small(images), atol=1e-5)


def test_symmetric_padding_changes_strided_3x3_convs_alone():
    same, symmetric = build(SMALL, 10), build(SMALL, 10, symmetric_padding=True)
    assert [w.shape for w in same.weights] == [w.shape for w in symmetric.weights]
    extra = {layer.name for layer in symmetric.layers} - {layer.name for layer in same.layers}
    assert len(layers(symmetric, keras.layers.ZeroPadding2D)) == 1
    assert "block2_conv1_space" in extra


@pytest.mark.parametrize("side", [16, 64])
def test_other_sizes_and_classes(side):
    assert build(SMALL, 7, (side, side, 3)).output_shape == (None, 7)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            Block(width=4, prune=4, conv1=(3, 3), a=4, conv2=(3, 3), b=5),
            "block 1: conv2 gives 5 channels, more than the block's width of 4",
        ),
        (
            Block(width=2, prune=4, conv1=(3, 3), a=4, conv2=(3, 3), b=2),
            "block 1: width 2 is below the 4 channels that its shortcut carries",
        ),
    ],
)
def test_rows_that_fit_no_network(block, message):
    with pytest.raises(ValueError, match=message):
        build(dataclasses.replace(FINAL, stem=4, blocks=(block,)))

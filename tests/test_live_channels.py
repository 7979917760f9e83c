"""Channels known to be zero or constant, on graphs drawn by hand; what is claimed is checked by running the graph."""

import numpy as np
import pytest
import tensorflow as tf

from frenzy.accounting.live_channels import CONST, LIVE, ZERO, live_channels

IMAGE = tf.TensorSpec((None, 6, 6, 4), tf.float32)
Z, C, L = ZERO, CONST, LIVE


def variable(*shape, name="kernel"):
    return tf.Variable(np.random.default_rng(1).normal(size=shape).astype(np.float32), name=name)


def pad_channels(x, after=2):
    return tf.pad(x, [(0, 0), (0, 0), (0, 0), (0, after)])


class Weights(tf.Module):
    """What the cases compute with: kernels, and the four vectors of a batch normalisation over 4 and over 6 channels."""

    def __init__(self):
        super().__init__()
        self.k1, self.k3, self.k13 = variable(1, 1, 6, 3), variable(3, 3, 6, 3), variable(1, 3, 6, 3)
        self.depthwise, self.grouped, self.dense = variable(3, 3, 6, 1), variable(1, 1, 3, 4), variable(6 * 36, 5)
        self.transposed, self.volume = variable(3, 3, 3, 6), variable(1, 3, 3, 6, 3)
        self.mask6 = tf.constant([True] * 5 + [False])
        for channels in (4, 6):
            setattr(
                self, f"norm{channels}", [tf.Variable(np.linspace(0.5, 1, channels, dtype="float32") * i) for i in (1, 2, 3, 4)]
            )

    def norm(self, x, offset=True):
        scale, shift, mean, variance = getattr(self, f"norm{x.shape[-1]}")
        if not offset:
            scale, shift = tf.ones_like(scale), tf.zeros_like(shift)
        return tf.compat.v1.nn.fused_batch_norm(x, scale, shift, mean, variance, is_training=False)[0]


def conv(x, kernel, padding="SAME", stride=1):
    return tf.nn.conv2d(x, kernel, stride, padding)


def transposed(x, kernel):
    return tf.nn.conv2d_transpose(x, kernel, (tf.shape(x)[0], 12, 12, 3), 2)


CASES = {
    # what a consumer sees: states along the last axis
    "pad": (lambda m, x: pad_channels(x), [L] * 4 + [Z] * 2),
    "pad in front": (lambda m, x: tf.pad(x, [(0, 0), (0, 0), (0, 0), (1, 1)]), [Z] + [L] * 4 + [Z]),
    "pad with a constant": (lambda m, x: tf.pad(x, [(0, 0), (0, 0), (0, 0), (0, 2)], constant_values=2.0), [L] * 4 + [C] * 2),
    "pad then relu": (lambda m, x: tf.nn.relu(pad_channels(x)), [L] * 4 + [Z] * 2),
    "sigmoid of zeros": (lambda m, x: tf.sigmoid(pad_channels(x)), [L] * 4 + [C] * 2),
    "bn without offset": (lambda m, x: m.norm(pad_channels(x), offset=False), [L] * 4 + [C] * 2),
    "bn with offset": (lambda m, x: m.norm(pad_channels(x)), [L] * 4 + [C] * 2),
    "bn, relu": (lambda m, x: tf.nn.relu(m.norm(pad_channels(x))), [L] * 4 + [C] * 2),
    "border around constants": (lambda m, x: tf.pad(m.norm(pad_channels(x)), [(0, 0), (1, 1), (1, 1), (0, 0)]), [L] * 6),
    "border around zeros": (lambda m, x: tf.pad(pad_channels(x), [(0, 0), (1, 1), (1, 1), (0, 0)]), [L] * 4 + [Z] * 2),
    "reflected border": (lambda m, x: tf.pad(m.norm(pad_channels(x)), [(0, 0), (1, 1), (1, 1), (0, 0)], "REFLECT"), [L] * 4 + [C] * 2),
    "narrow + wide": (lambda m, x: pad_channels(x[..., :2], 4) + pad_channels(x), [L] * 4 + [Z] * 2),
    "constant + live": (lambda m, x: m.norm(pad_channels(x[..., :2], 2)) + x, [L] * 4),
    "constant + zero": (lambda m, x: m.norm(pad_channels(x)) + pad_channels(x), [L] * 4 + [C] * 2),
    "zero * live": (lambda m, x: pad_channels(x) * tf.pad(x, [(0, 0), (0, 0), (0, 0), (2, 0)]), [Z] * 2 + [L] * 2 + [Z] * 2),
    "concat with zeros": (lambda m, x: tf.concat([x, tf.zeros_like(x[..., :2])], -1), [L] * 4 + [Z] * 2),
    "concat along rows": (lambda m, x: tf.concat([pad_channels(x), pad_channels(x)], 1), [L] * 4 + [Z] * 2),
    "rows of constants joined": (lambda m, x: tf.concat([m.norm(pad_channels(x))] * 2, 1), [L] * 6),
    "average pool": (lambda m, x: tf.nn.avg_pool2d(m.norm(pad_channels(x)), 3, 2, "SAME"), [L] * 4 + [C] * 2),
    "max pool": (lambda m, x: tf.nn.max_pool2d(pad_channels(x), 3, 2, "SAME"), [L] * 4 + [Z] * 2),
    "global mean": (lambda m, x: tf.reduce_mean(pad_channels(x), (1, 2)), [L] * 4 + [Z] * 2),
    "mean over channels": (lambda m, x: tf.reduce_mean(pad_channels(x), -1, keepdims=True), [L]),
    "flatten": (lambda m, x: tf.reshape(pad_channels(x), (-1, 6 * 36)), ([L] * 4 + [Z] * 2) * 36),
    "slice": (lambda m, x: pad_channels(x)[..., 3:5], [L, Z]),
    "split": (lambda m, x: tf.split(pad_channels(x), 2, -1)[1], [L] + [Z] * 2),
    "rows reversed": (lambda m, x: tf.reverse(pad_channels(x), [1]), [L] * 4 + [Z] * 2),
    "channels reversed": (lambda m, x: tf.reverse(pad_channels(x), [3]), [L] * 6),
    "1x1 conv": (lambda m, x: conv(pad_channels(x), m.k1), [L] * 3),
    "1x1 conv of zeros": (lambda m, x: conv(tf.zeros_like(pad_channels(x)), m.k1), [Z] * 3),
    "1x1 conv of constants": (lambda m, x: conv(m.norm(tf.zeros_like(pad_channels(x))), m.k1), [C] * 3),
    "3x3 SAME conv of constants": (lambda m, x: conv(m.norm(tf.zeros_like(pad_channels(x))), m.k3), [L] * 3),
    "3x3 VALID conv of constants": (lambda m, x: conv(m.norm(tf.zeros_like(pad_channels(x))), m.k3, "VALID"), [C] * 3),
    "depthwise SAME": (
        lambda m, x: tf.nn.depthwise_conv2d(m.norm(pad_channels(x, 2)), m.depthwise, (1, 1, 1, 1), "SAME"), [L] * 6,
    ),
    "depthwise VALID": (
        lambda m, x: tf.nn.depthwise_conv2d(m.norm(pad_channels(x, 2)), m.depthwise, (1, 1, 1, 1), "VALID"), [L] * 4 + [C] * 2,
    ),
    "depthwise of zeros": (
        lambda m, x: tf.nn.depthwise_conv2d(pad_channels(x), m.depthwise, (1, 1, 1, 1), "SAME"), [L] * 4 + [Z] * 2,
    ),
    "grouped conv": (lambda m, x: conv(pad_channels(x[..., :3], 3), m.grouped), [L] * 2 + [Z] * 2),
    "divided": (lambda m, x: pad_channels(x) / (1.0 + tf.abs(pad_channels(x))), [L] * 4 + [Z] * 2),
    "a new axis": (lambda m, x: pad_channels(x)[:, None], [L] * 4 + [Z] * 2),
    "a new last axis": (lambda m, x: pad_channels(x)[..., None], [L]),
    "an axis less": (lambda m, x: pad_channels(x)[:, 0], [L] * 4 + [Z] * 2),
    "the last axis less": (lambda m, x: pad_channels(x)[..., 0], [L] * 6),
    "cut everywhere": (lambda m, x: pad_channels(x)[:, None, 1:3, 2, 3:], [L] + [Z] * 2),
    "pow": (lambda m, x: pad_channels(tf.abs(x)) ** 2.0, [L] * 4 + [C] * 2),
    "compared": (lambda m, x: tf.cast(pad_channels(x) > 0.5, tf.float32), [L] * 4 + [C] * 2),
    "clipped": (lambda m, x: tf.clip_by_value(pad_channels(x), 0.5, 1.0), [L] * 4 + [C] * 2),
    "fake quantization": (lambda m, x: tf.quantization.fake_quant_with_min_max_args(pad_channels(x), -1, 1), [L] * 4 + [C] * 2),
    "range of the whole tensor": (
        lambda m, x: tf.raw_ops.QuantizeAndDequantizeV2(input=m.norm(pad_channels(x)), input_min=0.0, input_max=0.0), [L] * 6,
    ),
    "selected": (lambda m, x: tf.where(m.mask6, pad_channels(x), 2.0 * pad_channels(x)), [L] * 4 + [C] + [Z]),
    "selected by images": (
        lambda m, x: tf.raw_ops.Select(
            condition=tf.range(tf.shape(x)[0]) % 2 > 0, x=pad_channels(x), y=1 + pad_channels(x)
        ), [L] * 6,
    ),
    "ones": (lambda m, x: tf.concat([x, tf.ones_like(x[..., :2])], -1), [L] * 4 + [C] * 2),
    "complementary error function": (lambda m, x: tf.math.erfc(pad_channels(x)), [L] * 4 + [C] * 2),
    "channel shuffle": (
        lambda m, x: tf.reshape(tf.transpose(tf.reshape(pad_channels(x), (-1, 6, 6, 2, 3)), (0, 1, 2, 4, 3)), (-1, 6, 6, 6)),
        [L, L, L, Z, L, Z],
    ),
    "channels split": (lambda m, x: tf.reshape(tf.pad(x, [(0, 0)] * 3 + [(2, 3)]), (-1, 6, 6, 3, 3)), [L] * 3),
    "channels split into zeros": (
        lambda m, x: tf.reshape(tf.pad(x[..., :1], [(0, 0)] * 3 + [(0, 5)]), (-1, 6, 6, 2, 3)), [L] + [Z] * 2,
    ),
    "constants split": (lambda m, x: tf.reshape(m.norm(tf.zeros_like(x)), (-1, 6, 6, 2, 2)), [L] * 2),
    "space to depth": (lambda m, x: tf.nn.space_to_depth(pad_channels(x), 2), ([L] * 4 + [Z] * 2) * 4),
    "depth to space of zeros": (
        lambda m, x: tf.nn.depth_to_space(tf.concat([pad_channels(x[..., :1], 1)] * 4, -1), 2), [L, Z],
    ),
    "space to batch": (lambda m, x: tf.space_to_batch(m.norm(pad_channels(x)), [2, 2], [[1, 1], [1, 1]]), [L] * 6),
    "space to batch of zeros": (lambda m, x: tf.space_to_batch(pad_channels(x), [2, 2], [[1, 1], [1, 1]]), [L] * 4 + [Z] * 2),
    "dilated depthwise": (
        lambda m, x: tf.nn.depthwise_conv2d(pad_channels(x), m.depthwise, (1, 1, 1, 1), "SAME", dilations=(2, 2)),
        [L] * 4 + [Z] * 2,
    ),
    "tiled": (lambda m, x: tf.tile(pad_channels(x[..., :1], 1), [1, 2, 1, 3]), [L, Z] * 3),
    "broadcast": (lambda m, x: tf.broadcast_to(tf.zeros_like(x[:1, :1, :1, :1]), (2, 6, 6, 4)), [Z] * 4),
    "gathered": (lambda m, x: tf.gather(pad_channels(x), [5, 0], axis=-1), [Z, L]),
    "rows gathered": (lambda m, x: tf.gather(pad_channels(x), [5, 0], axis=1), [L] * 4 + [Z] * 2),
    "stacked": (lambda m, x: tf.stack([pad_channels(x), tf.pad(x, [(0, 0)] * 3 + [(1, 1)])], 1), [L] * 5 + [Z]),
    "stacked as channels": (lambda m, x: tf.stack([x[..., 0], tf.zeros_like(x[..., 0])], -1), [L] * 2),
    "unstacked": (lambda m, x: tf.unstack(pad_channels(x), axis=1)[2], [L] * 4 + [Z] * 2),
    "local response": (lambda m, x: tf.nn.lrn(pad_channels(x), 2), [L] * 4 + [Z] * 2),
    "local response of constants": (lambda m, x: tf.nn.lrn(m.norm(pad_channels(x)), 2), [L] * 6),
    "resized": (lambda m, x: tf.image.resize(m.norm(pad_channels(x)), (9, 11)), [L] * 4 + [C] * 2),
    "transposed conv": (lambda m, x: transposed(m.norm(pad_channels(x)), m.transposed), [L] * 3),
    "transposed conv of zeros": (lambda m, x: transposed(tf.zeros_like(pad_channels(x)), m.transposed), [Z] * 3),
    "conv of a volume": (lambda m, x: tf.nn.conv3d(pad_channels(x)[:, None], m.volume, [1] * 5, "SAME"), [L] * 3),
    "conv of a volume of zeros": (
        lambda m, x: tf.nn.conv3d(tf.zeros_like(pad_channels(x))[:, None], m.volume, [1] * 5, "SAME"), [Z] * 3,
    ),
    "pool of a volume": (
        lambda m, x: tf.nn.avg_pool3d(m.norm(pad_channels(x))[:, None], (1, 3, 3), 1, "SAME"), [L] * 4 + [C] * 2,
    ),
    "summed product": (lambda m, x: tf.einsum("bhwc,cd->bhwd", pad_channels(x), m.k1[0, 0]), [L] * 3),
    "a matrix for each place": (
        lambda m, x: tf.matmul(m.norm(tf.zeros_like(pad_channels(x))), tf.tile(m.k13[0, :, :, :2], (2, 1, 1))), [L] * 2,
    ),
    "one matrix": (lambda m, x: tf.reshape(m.norm(tf.zeros_like(x)), (-1, 4)) @ m.k1[0, 0, :4], [C] * 3),
    "maximum with a constant": (lambda m, x: tf.maximum(pad_channels(x), 0.5), [L] * 4 + [C] * 2),
}  # fmt: skip


@pytest.fixture
def weights():
    return Weights()


def holds(states, first, second):
    """What the states claim, on the values of two different batches."""
    for channel, state in enumerate(states):
        a, b = first[..., channel], second[..., channel]
        if state == ZERO and np.any(a):
            return False
        if state == CONST and (np.ptp(a) > 1e-6 or np.abs(a.ravel()[0] - b.ravel()[0]) > 1e-6):
            return False
    return True


@pytest.mark.parametrize("case", CASES)
def test_states(case, weights, judge):
    function, expected = CASES[case]
    graph, _ = judge(lambda x: function(weights, x), IMAGE, module=weights)
    states = live_channels(graph)(graph.outputs[0])
    assert states.tolist() == expected
    random = np.random.default_rng(0)
    first, second = (function(weights, tf.constant(random.normal(size=(2, 6, 6, 4)), tf.float32)).numpy() for _ in range(2))
    assert holds(states, first, second)


def row_of(reports, op, convention="frenzy"):
    (row,) = [row for row in reports[convention].rows if row.op == op]
    return row


def test_1x1_skips_zeros_and_constants(weights, judge):
    _, reports = judge(lambda x: conv(tf.nn.relu(weights.norm(pad_channels(x))), weights.k1), IMAGE, module=weights)
    row = row_of(reports, "Conv2D")
    assert (row.live_in, row.live_out, row.parameters) == (4, 3, 4 * 3)
    assert row.multiplies == (1 * 1 * 4 * 3) * (6 * 6)
    # the constants' share is a bias, which this conv does not have yet
    row = row_of(reports, "Conv2D", "micronet")
    assert row.parameters == 4 * 3 + 3
    assert row.adds == (4 - 1) * 3 * (6 * 6) + 3 * (6 * 6)


def test_3x3_skips_zeros_but_reads_constants_at_borders(weights, judge):
    _, reports = judge(lambda x: conv(pad_channels(x), weights.k3), IMAGE, module=weights)
    assert row_of(reports, "Conv2D").live_in == 4
    _, reports = judge(lambda x: conv(weights.norm(pad_channels(x)), weights.k3), IMAGE, module=weights, name="same")
    assert row_of(reports, "Conv2D").live_in == 6
    _, reports = judge(lambda x: conv(weights.norm(pad_channels(x)), weights.k3, "VALID"), IMAGE, module=weights, name="valid")
    assert row_of(reports, "Conv2D").live_in == 4


def test_1x3_pads_columns(weights, judge):
    _, reports = judge(lambda x: conv(weights.norm(pad_channels(x)), weights.k13), IMAGE, module=weights)
    row = row_of(reports, "Conv2D")
    assert (row.kernel, row.live_in) == ((1, 3), 6)


def test_dense_after_flatten_reads_live_rows(weights, judge):
    _, reports = judge(lambda x: tf.reshape(pad_channels(x), (-1, 216)) @ weights.dense, IMAGE, module=weights)
    row = row_of(reports, "MatMul")
    assert (row.live_in, row.parameters) == (4 * 36, 4 * 36 * 5)


def test_add_counts_pairs_where_the_convention_does(weights, judge):
    _, reports = judge(lambda x: pad_channels(x[..., :1], 5) + pad_channels(x), IMAGE, module=weights)
    assert row_of(reports, "AddV2").adds == 4 * 6 * 6
    assert row_of(reports, "AddV2", "micronet").adds == 1 * 6 * 6

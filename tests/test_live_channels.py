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

"""Facts of single ops against arithmetic, and where batch normalisation folds."""

import numpy as np
import pytest
import tensorflow as tf

IMAGE = tf.TensorSpec((None, 9, 9, 6), tf.float32)


def weights(*shape):
    return tf.Variable(np.ones(shape, np.float32), name="weights")


def module(**variables):
    made = tf.Module()
    for name, variable in variables.items():
        setattr(made, name, variable)
    return made


def rows_of(judge, function, made, spec=IMAGE, convention="micronet"):
    return [row for row in judge(function, spec, module=made)[1][convention].rows if row.op not in ("Placeholder", "Identity")]


@pytest.mark.parametrize(
    ("kernel", "strides", "padding", "side", "macs"),
    [
        ((3, 3, 6, 4), 1, "SAME", (9, 9), (9 * 9) * (3 * 3 * 6 * 4)),
        ((3, 3, 6, 4), 2, "SAME", (5, 5), (5 * 5) * (3 * 3 * 6 * 4)),
        ((3, 3, 6, 4), 2, "VALID", (4, 4), (4 * 4) * (3 * 3 * 6 * 4)),
        ((1, 3, 6, 4), (2, 1), "SAME", (5, 9), (5 * 9) * (1 * 3 * 6 * 4)),
        ((3, 3, 6, 4), 1, [[0, 0], [2, 2], [0, 0], [0, 0]], (11, 7), (11 * 7) * (3 * 3 * 6 * 4)),
        ((3, 3, 2, 12), 1, "SAME", (9, 9), (9 * 9) * (3 * 3 * 2 * 12)),  # three groups: 2 inputs for each of 12 outputs
        ((1, 1, 1, 6), 1, "SAME", (9, 9), (9 * 9) * 6),  # as many groups as channels
    ],
)
def test_conv(judge, kernel, strides, padding, side, macs):
    made = module(kernel=weights(*kernel))
    (row,) = rows_of(judge, lambda x: tf.nn.conv2d(x, made.kernel, strides, padding), made)
    outputs = side[0] * side[1] * kernel[3]
    assert (row.multiplies, row.adds) == (macs, macs - outputs)
    assert row.output_shape == (1, *side, kernel[3])
    assert row.parameters == np.prod(kernel)
    assert (row.kernel, row.groups, row.width) == (kernel[:2], 6 // kernel[2], kernel[3])


def test_dilated_conv(judge):
    made = module(kernel=weights(3, 3, 6, 4))
    rows = rows_of(judge, lambda x: tf.nn.conv2d(x, made.kernel, 1, "SAME", dilations=2), made)
    assert sum(row.multiplies for row in rows) == (9 * 9) * (3 * 3 * 6 * 4)


def test_channels_first(judge):
    made = module(kernel=weights(3, 3, 9, 4))
    (row,) = rows_of(
        judge, lambda x: tf.nn.conv2d(x, made.kernel, 1, "SAME", data_format="NCHW"), made, tf.TensorSpec((None, 9, 5, 7))
    )
    assert row.multiplies == (5 * 7) * (3 * 3 * 9 * 4)
    assert (row.live_in, row.live_out, row.width) == (9, 4, 4)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_conv(judge, multiplier):
    made = module(kernel=weights(3, 3, 6, multiplier))
    (row,) = rows_of(judge, lambda x: tf.nn.depthwise_conv2d(x, made.kernel, (1, 2, 2, 1), "SAME"), made)
    macs = (5 * 5) * (3 * 3 * 6 * multiplier)
    assert (row.multiplies, row.adds) == (macs, macs - 5 * 5 * 6 * multiplier)
    assert (row.groups, row.width, row.parameters) == (6, 6 * multiplier, 3 * 3 * 6 * multiplier)


def test_dense_and_bias(judge):
    made = module(kernel=weights(6, 4), bias=weights(4))
    spec = tf.TensorSpec((None, 6), tf.float32)
    product, bias = rows_of(judge, lambda x: tf.nn.bias_add(x @ made.kernel, made.bias), made, spec)
    assert (product.multiplies, product.adds, product.parameters) == (6 * 4, (6 - 1) * 4, 6 * 4)
    assert (bias.multiplies, bias.adds, bias.parameters) == (0, 4, 4)


def test_transposed_kernel(judge):
    made = module(kernel=weights(4, 6))
    (row,) = rows_of(judge, lambda x: tf.matmul(x, made.kernel, transpose_b=True), made, tf.TensorSpec((None, 6), tf.float32))
    assert (row.multiplies, row.parameters) == (6 * 4, 6 * 4)


def test_attention_product_of_two_data_tensors(judge):
    (row,) = rows_of(judge, lambda x: tf.matmul(x, x, transpose_b=True), None, tf.TensorSpec((None, 7, 5), tf.float32))
    assert (row.multiplies, row.adds, row.parameters) == (7 * 7 * 5, 7 * 7 * (5 - 1), 0)


def test_pools(judge):
    made = None
    (row,) = rows_of(judge, lambda x: tf.nn.avg_pool2d(x, 3, 2, "SAME"), made)
    assert (row.multiplies, row.adds) == (5 * 5 * 6, (3 * 3 - 1) * 5 * 5 * 6)
    (row,) = rows_of(judge, lambda x: tf.nn.max_pool2d(x, (2, 3), 1, "VALID"), made)
    assert (row.multiplies, row.adds, row.kernel) == (0, (2 * 3 - 1) * 8 * 7 * 6, (2, 3))
    (row,) = rows_of(judge, lambda x: tf.reduce_mean(x, (1, 2)), made)
    assert (row.multiplies, row.adds, row.kernel) == (6, (9 * 9 - 1) * 6, (9, 9))


@pytest.mark.parametrize(
    ("function", "multiplies", "adds"),
    [
        (tf.nn.relu, 1, 0),
        (tf.nn.relu6, 2, 0),
        (tf.sigmoid, 2, 1),
        (tf.exp, 1, 0),
        (lambda x: x * x, 1, 0),
        (lambda x: x + x, 0, 1),
    ],
)
def test_elementwise(judge, function, multiplies, adds):
    (row,) = rows_of(judge, function, None)
    assert (row.multiplies, row.adds) == (multiplies * 9 * 9 * 6, adds * 9 * 9 * 6)


def test_swish_costs_three_multiplies_and_an_add(judge):
    rows = rows_of(judge, lambda x: x * tf.sigmoid(x), None)
    assert (sum(r.multiplies for r in rows), sum(r.adds for r in rows)) == (3 * 9 * 9 * 6, 9 * 9 * 6)


def test_softmax(judge):
    (row,) = rows_of(judge, tf.nn.softmax, None, tf.TensorSpec((None, 10), tf.float32))
    assert (row.multiplies, row.adds) == (2 * 10, 10 - 1)


def test_gate_of_a_channel(judge):
    """Squeeze-and-excite: the scale costs a multiply for every element of the map."""
    rows = rows_of(judge, lambda x: x * tf.reduce_mean(x, (1, 2), keepdims=True), None)
    (gate,) = [row for row in rows if row.op == "Mul"]
    assert gate.multiplies == 9 * 9 * 6


def test_a_table_that_is_looked_up_is_stored(judge):
    made = module(table=weights(10, 4))
    spec = tf.TensorSpec((None,), tf.int32)
    (row,) = rows_of(judge, lambda i: tf.gather(made.table, i), made, spec)
    assert (row.parameters, row.operation_bits, row.status) == (10 * 4, 0, "counted")


def norm(made, x, name="norm"):
    channels = x.shape[-1]
    if not hasattr(made, name):
        setattr(made, name, [weights(channels) for _ in range(4)])
    return tf.compat.v1.nn.fused_batch_norm(x, *getattr(made, name), is_training=False)[0]


@pytest.fixture
def made():
    net = module(conv=weights(3, 3, 6, 6), one=weights(1, 1, 6, 4), bias=weights(6))
    for name in ("before", "after"):
        setattr(net, name, [weights(6) for _ in range(4)])
    return net


def conv(made, x):
    return tf.nn.conv2d(x, made.conv, 1, "SAME")


def one(made, x):
    return tf.nn.conv2d(x, made.one, 1, "SAME")


ELEMENTS = 9 * 9 * 6
FOLDS = {
    # what is drawn, and (status, multiplies, adds, parameters) of each BN in order
    "behind a conv": (lambda m, x: norm(m, conv(m, x), "after"), [("folded", 0, ELEMENTS, 6)]),
    "behind a conv with a bias": (lambda m, x: norm(m, conv(m, x) + m.bias, "after"), [("folded", 0, 0, 0)]),
    "the conv is read twice": (
        lambda m, x: (lambda y: y + norm(m, y, "after"))(conv(m, x)), [("counted", ELEMENTS, ELEMENTS, 2 * 6)],
    ),
    "behind an add": (lambda m, x: norm(m, x + x, "after"), [("counted", ELEMENTS, ELEMENTS, 2 * 6)]),
    "before a conv without padding": (lambda m, x: one(m, norm(m, x, "before")), [("folded", 0, 9 * 9 * 4, 4)]),
    "before a conv with padding": (lambda m, x: conv(m, norm(m, x, "before")), [("counted", ELEMENTS, ELEMENTS, 2 * 6)]),
    "before an activation": (lambda m, x: one(m, tf.nn.relu(norm(m, x, "before"))), [("counted", ELEMENTS, ELEMENTS, 2 * 6)]),
    "both sides of one conv": (
        lambda m, x: norm(m, tf.nn.conv2d(norm(m, x, "before"), m.conv, 1, "VALID"), "after"),
        [("folded", 0, 0, 0), ("folded", 0, 7 * 7 * 6, 6)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDS)
def test_where_batch_norm_folds(judge, made, case):
    function, expected = FOLDS[case]
    rows = rows_of(judge, lambda x: function(made, x), made)
    found = [(r.status, r.multiplies, r.adds, r.parameters) for r in rows if r.op.startswith("FusedBatchNorm")]
    assert found == expected


def test_statistics_of_the_batch_are_no_inference(judge):
    made = module(scale=weights(6), shift=weights(6))
    _, reports = judge(lambda x: tf.compat.v1.nn.fused_batch_norm(x, made.scale, made.shift)[0], IMAGE, module=made)
    (row,) = reports["frenzy"].unknown
    assert "takes its statistics from the batch" in row.formula

"""Ops that other people's networks are made of: their counts as arithmetic; and normalisations that are written out."""

import numpy as np
import pytest
import tensorflow as tf
from test_rules import IMAGE, module, rows_of, weights

from frenzy.accounting import rules
from frenzy.accounting.account import find_facts
from frenzy.accounting.patterns import unfused_norms

E = 9 * 9 * 6  # elements of the image
VOLUME = tf.TensorSpec((None, 4, 9, 9, 6), tf.float32)


def test_the_table_is_sorted_and_prices_are_total():
    assert list(rules.RULES) == sorted(rules.RULES)
    assert list(rules.ELEMENTARY) == sorted(rules.ELEMENTARY)


@pytest.mark.parametrize(
    ("function", "multiplies", "adds"),
    [
        (tf.math.erf, E, 0),
        (tf.math.erfc, E, 0),
        (tf.math.expm1, E, E),
        (tf.nn.softsign, 2 * E, E),
        (tf.nn.selu, 3 * E, E),
        (tf.sign, E, 0),
        (tf.round, E, 0),
        (lambda x: x**1.5, E, 0),
        (lambda x: x > 0.5, E, 0),
        (lambda x: tf.where(x > 0, x, -x), 2 * E, 0),
        (lambda x: tf.clip_by_value(x, 0, 1), 2 * E, 0),
        (lambda x: tf.math.squared_difference(x, x), E, E),
        (lambda x: tf.nn.relu6(x + 3) * (x / 6), (2 + 1 + 1) * E, E),  # hard swish
        (tf.nn.gelu, 4 * E, 0),  # x / 2 * erfc(-x / sqrt(2))
        (lambda x: tf.nn.lrn(x), 4 * E, 3 * E),
        (lambda x: tf.image.resize(x, (18, 18)), 4 * 4 * E, 3 * 4 * E),
        (lambda x: tf.image.resize(x, (18, 18), "nearest"), 0, 0),
        (lambda x: tf.cumsum(x, axis=1), 0, (9 - 1) * 9 * 6),
        (lambda x: tf.math.cumprod(x, axis=-1), 9 * 9 * (6 - 1), 0),
        (lambda x: tf.reduce_prod(x, (1, 2)), (9 * 9 - 1) * 6, 0),
        (lambda x: tf.reduce_min(x, (1, 2)), 0, (9 * 9 - 1) * 6),
        (lambda x: tf.nn.log_softmax(tf.reshape(x, (-1, E))), 2 * E, E - 1),
        (lambda x: tf.einsum("bhwc->bwhc", x), 0, 0),
        (lambda x: tf.einsum("bhwc->bc", x), 0, (9 * 9 - 1) * 6),
        (lambda x: tf.einsum("bhwc,bhwd->bcd", x, x), 9 * 9 * 6 * 6, (9 * 9 - 1) * 6 * 6),
        (lambda x: tf.einsum("...c,...c->...", x, x), E, 9 * 9 * (6 - 1)),
        (lambda x: tf.concat([x, tf.reverse(x, [1])], -1), 0, 0),
        (lambda x: tf.reshape(tf.transpose(tf.reshape(x, (-1, 9, 9, 2, 3)), (0, 1, 2, 4, 3)), (-1, 9, 9, 6)), 0, 0),
        (lambda x: tf.quantization.fake_quant_with_min_max_args(x, num_bits=4), 0, 0),
    ],
)
def test_counts(judge, function, multiplies, adds):
    rows = rows_of(judge, function, None)
    assert (sum(r.multiplies for r in rows), sum(r.adds for r in rows)) == (multiplies, adds)
    assert all(row.status != "unknown" for row in rows)


@pytest.mark.parametrize("what", ["maps", "weights"])
def test_fake_quantization_forfeits_the_16_bit_allowance(judge, what):
    """A multiply has the bits of its wider input, which is not quantized; weights take 8 bits each and a range."""
    made = module(kernel=weights(1, 1, 6, 4))
    quantize = tf.quantization.fake_quant_with_min_max_args

    def network(x):
        return (
            tf.nn.conv2d(quantize(x), made.kernel, 1, "SAME")
            if what == "maps"
            else tf.nn.conv2d(x, quantize(made.kernel), 1, "SAME")
        )

    _, reports = judge(network, IMAGE, module=made)
    (row,) = [row for row in reports["micronet"].rows if row.op == "Conv2D"]
    macs = (9 * 9) * (6 * 4)
    assert row.operations == macs + (macs - 9 * 9 * 4)
    assert row.storage_bits == (32 * 6 * 4 if what == "maps" else 8 * 6 * 4 + 2 * 32)
    assert any("are those that count" in note for note in reports["micronet"].notes)
    assert any("are not priced here" in note for note in reports["macs"].notes)


def test_fake_quantization_says_how_wide(judge):
    graph, _ = judge(lambda x: tf.quantization.fake_quant_with_min_max_args(x, num_bits=4), IMAGE)
    assert [f.bits for f in find_facts(graph, lambda key: None).facts.values() if f.bits] == [4]


@pytest.mark.parametrize(
    ("strides", "side", "dots"), [(1, 9, 9 * 9), (2, 18, 18 * 18), (4, 36, (9 * 9) * (3 * 3))]
)  # with a stride of 4 a 3x3 kernel leaves gaps
def test_transposed_conv(judge, strides, side, dots):
    made = module(kernel=weights(3, 3, 5, 6))
    shape = (side, side, 5)
    rows = rows_of(judge, lambda x: tf.nn.conv2d_transpose(x, made.kernel, (tf.shape(x)[0], *shape), strides, "SAME"), made)
    (row,) = rows
    macs = (9 * 9) * (3 * 3 * 6 * 5)
    assert (row.multiplies, row.adds, row.parameters) == (macs, macs - dots * 5, 3 * 3 * 5 * 6)
    assert (row.output_shape, row.kernel, row.stride) == ((1, *shape), (3, 3), (strides, strides))


def test_volumes(judge):
    made = module(kernel=weights(2, 3, 3, 6, 5))
    (row,) = rows_of(judge, lambda x: tf.nn.conv3d(x, made.kernel, [1] * 5, "SAME"), made, VOLUME)
    macs = (4 * 9 * 9) * (2 * 3 * 3 * 6 * 5)
    assert (row.multiplies, row.adds, row.parameters) == (macs, macs - 4 * 9 * 9 * 5, 2 * 3 * 3 * 6 * 5)
    (row,) = rows_of(judge, lambda x: tf.nn.avg_pool3d(x, (2, 3, 3), (2, 3, 3), "SAME"), None, VOLUME)
    assert (row.multiplies, row.adds) == (2 * 3 * 3 * 6, (2 * 3 * 3 - 1) * 2 * 3 * 3 * 6)


def test_channels_first(judge):
    made = module(vectors=[weights(6) for _ in range(4)], bias=weights(6))
    spec = tf.TensorSpec((None, 6, 5, 7), tf.float32)
    pool, norm, bias = rows_of(
        judge,
        lambda x: tf.nn.bias_add(
            tf.compat.v1.nn.fused_batch_norm(
                tf.nn.max_pool2d(x, 2, 1, "VALID", "NCHW"), *made.vectors, is_training=False, data_format="NCHW"
            )[0],
            made.bias,
            "NCHW",
        ),
        made,
        spec,
    )
    assert pool.adds == 3 * (4 * 6) * 6
    assert (norm.multiplies, norm.adds, norm.parameters) == (4 * 6 * 6, 4 * 6 * 6, 2 * 6)
    assert (bias.adds, bias.parameters) == (4 * 6 * 6, 6)


def test_layer_normalisation_in_one_op(judge):
    """tf_keras reshapes to (1, rows, channels, 1), channels first, and lets a batch normalisation train on the rows."""

    def norm(x):
        rows = tf.reduce_prod(tf.shape(x)[:-1])
        flat = tf.reshape(x, (1, rows, 6, 1))
        return tf.compat.v1.nn.fused_batch_norm(flat, tf.ones(rows), tf.zeros(rows), data_format="NCHW")[0]

    (row,) = [row for row in rows_of(judge, norm, None) if row.multiplies]
    assert (row.multiplies, row.adds, row.parameters) == (2 * E, 3 * E, 0)


def test_one_number_an_image(judge):
    _, reports = judge(lambda x: tf.reduce_mean(x, (1, 2, 3)), tf.TensorSpec((32, 9, 9, 6)))
    (row,) = [row for row in reports["micronet"].rows if row.op == "Mean"]
    assert (row.multiplies, row.adds) == (1, E - 1)


def written(made, x, name="norm", **kwargs):
    if not hasattr(made, name):
        setattr(made, name, [weights(x.shape[-1]) for _ in range(4)])
    mean, variance, shift, scale = getattr(made, name)
    return tf.nn.batch_normalization(x, mean, variance, kwargs.get("shift", shift), kwargs.get("scale", scale), 1e-3)


NORMS = {
    # what is drawn, and the parameters of every normalisation that is found in it
    "scale and shift": (lambda m, x: written(m, x), [12]),
    "no scale": (lambda m, x: written(m, x, scale=None), [12]),
    "no shift": (lambda m, x: written(m, x, shift=None), [12]),
    "neither": (lambda m, x: written(m, x, shift=None, scale=None), [12]),
    "minus a constant": (lambda m, x: x * m.one - m.two, [12]),
    "literals": (lambda m, x: x * np.linspace(1, 2, 6, dtype=np.float32) + np.linspace(1, 2, 6, dtype=np.float32), [12]),
    "four axes": (lambda m, x: x * m.one[None, None, None] + m.two, [12]),
    "identities between": (lambda m, x: tf.identity(x * m.one) + m.two, [12]),
    "called twice": (lambda m, x: written(m, tf.nn.relu(written(m, x))), [12, 0]),
    "two of them": (lambda m, x: written(m, tf.nn.relu(written(m, x)), "other"), [12, 12]),
    "a constant minus": (lambda m, x: m.two - x * m.one, []),
    "the product is read twice": (lambda m, x: (lambda y: (y + m.two) * y)(x * m.one), []),
    "the product is an output": (lambda m, x: (x * m.one, x * m.one + m.two)[0], []),
    "a number": (lambda m, x: x * 2.0 + m.two, []),
    "a shift alone": (lambda m, x: x + m.two, []),
    "a scale alone": (lambda m, x: x * m.one, []),
    "a scale of every place": (lambda m, x: x * m.places + m.two, []),
    "a gate": (lambda m, x: x * tf.reduce_mean(x, (1, 2), keepdims=True) + m.two, []),
    "broadcast": (lambda m, x: x[..., :1] * m.one + m.two, []),
}


@pytest.mark.parametrize("case", NORMS)
def test_normalisations_that_are_written_out(judge, case):
    function, expected = NORMS[case]
    made = module(one=weights(6), two=weights(6), places=weights(9, 9, 6))
    graph, _ = judge(lambda x: function(made, x), IMAGE, module=made)
    facts = find_facts(graph, lambda key: None).facts
    found = [facts[name] for name, norm in unfused_norms(graph).items() if name == norm.last]
    assert [sum(s.elements for s in f.stored) for f in found] == expected
    assert [f.kind for f in facts.values()].count("batch_norm") == len(expected)
    for norm in unfused_norms(graph).values():
        assert facts[norm.first].kind == "free"
        assert facts[norm.last].begins == norm.first
        assert facts[norm.last].elements.value == E

"""What products and sums cost by the widths of maps and weights: quantizers, signs, scales, accumulators, trees of adders."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from conftest import check_report
from test_bits import DOTS, IMAGE, PLACES, RANDOM, N, conv_of, few, module_of, row_of, variable

from frenzy.accounting import CONVENTIONS, account
from frenzy.accounting.conventions.base import Terms
from frenzy.accounting.conventions.micronet import tree_bits, tree_levels
from frenzy.accounting.widths import Width, map_widths


def quantized(x, bits=8):
    return tf.quantization.fake_quant_with_min_max_args(x, -1, 1, num_bits=bits)


KEPT = {
    # between the quantizer and the reader -> bits
    "nothing": (lambda x: x, 8),
    "relu": (tf.nn.relu, 8),
    "relu6": (tf.nn.relu6, 8),
    "clipped": (lambda x: tf.clip_by_value(x, 0.0, 0.5), 8),
    "a maximum with a number": (lambda x: tf.maximum(x, 0.0), 8),
    "max pool": (lambda x: tf.nn.max_pool2d(x, 2, 1, "SAME"), 8),
    "moved": (lambda x: tf.transpose(tf.reshape(x, (-1, 4, 4, 6)), (0, 2, 1, 3)), 8),
    "padded with zeros": (lambda x: tf.pad(x[:, :, 1:], [(0, 0), (0, 0), (1, 0), (0, 0)]), 8),
    "padded with ones": (lambda x: tf.pad(x[:, :, 1:], [(0, 0), (0, 0), (1, 0), (0, 0)], constant_values=1.0), 32),
    "channels gathered": (lambda x: tf.gather(x, [5, 4, 3, 2, 1, 0], axis=-1), 8),
    "split and joined": (lambda x: tf.concat(tf.split(x, 2, -1), -1), 8),
    "joined with wider": (lambda x: tf.concat([x[..., :3], quantized(x, 12)[..., 3:]], -1), 12),
    "joined with what is not": (lambda x: tf.concat([x[..., :3], tf.exp(x)[..., 3:]], -1), 32),
    "computed": (lambda x: x * 0.5, 32),
    "averaged": (lambda x: tf.nn.avg_pool2d(x, 2, 1, "SAME"), 32),
    "signs": (tf.sign, 2),
    "decided": (lambda x: tf.cast(x > 0, tf.float32), 1),
    "half": (lambda x: tf.cast(tf.cast(tf.exp(x), tf.float16), tf.float32), 16),
    "quantized again": (lambda x: quantized(quantized(tf.exp(x), 16), 4), 4),
    "by another op": (lambda x: tf.quantization.quantize_and_dequantize_v2(tf.exp(x), 0.0, 1.0, num_bits=5), 5),
}


@pytest.mark.parametrize("case", KEPT)
def test_the_width_of_maps(judge, case):
    """Kernel of 3 bits: a multiply has the bits of the map where that is wider."""
    function, bits = KEPT[case]
    kernel = variable(few([0.5, -0.5, 1.0, 0.0, 1.5]))
    graph, reports = judge(lambda x: tf.nn.conv2d(function(quantized(x)), kernel, 1, "SAME"), IMAGE, module=module_of(kernel))
    row = row_of(reports["micronet"])
    assert map_widths(graph)(graph.nodes[row.name].inputs[0]).bits == bits
    assert row.multiply_bits == max(bits, 3)
    nonzero = np.count_nonzero(kernel) * PLACES
    assert row.operations * 32 == nonzero * max(bits, 3) + (nonzero - DOTS) * 32


@pytest.mark.parametrize(
    ("function", "bits"),
    [
        (lambda x: quantized(x) + quantized(x, 4), 8),
        (lambda x: quantized(x) * quantized(x, 10), 10),
        (lambda x: quantized(x) + 3.0, 32),  # a literal has the width of its type
        (lambda x: tf.nn.relu(quantized(x)), 8),
        (lambda x: tf.maximum(quantized(x), 0.25), 8),
        (lambda x: tf.reduce_max(quantized(x), (1, 2)), 8),
        (lambda x: tf.reduce_sum(quantized(x), (1, 2)), 32),  # a sum has the accumulator's
        (lambda x: tf.exp(quantized(x)), 8),
    ],
)
def test_the_width_of_everything_else(judge, function, bits):
    _, reports = judge(function, IMAGE)
    (row,) = [row for row in reports["micronet"].rows if row.operation_bits]
    assert row.operation_bits == bits * (row.multiplies + row.adds)


def test_a_quantizer_of_16_bits_keeps_the_allowance(judge):
    kernel = variable(RANDOM.normal(size=(1, 1, 6, 10)))
    for bits, allowed in ((16, True), (15, False)):
        reports = conv_of(judge, kernel, lambda x, bits=bits: quantized(x, bits), name=f"m{bits}")
        row = row_of(reports["micronet"])
        assert row.operation_bits == (16 if allowed else 32) * N * PLACES + 32 * (N * PLACES - DOTS)
        assert row.storage_bits == (16 if allowed else 32) * N


# What a product and a sum cost


def dots_of(kernel):
    return {
        int(n): int(count) for n, count in zip(*np.unique(np.count_nonzero(kernel, (0, 1, 2)), return_counts=True), strict=True)
    }


def test_signs_are_one_bit_and_scales_come_after_the_sum(judge):
    for name, values, scales in (("ones", [1, -1], 0), ("equal", [0.5, -0.5], 1), ("unequal", [0.5, -0.25], 2)):
        kernel = few(values, 30)
        reports = conv_of(judge, variable(kernel), name=name)
        whole, signs = row_of(reports["micronet"]), row_of(reports["micronet-signs"])
        products, sums = 30 * PLACES, sum(count for n, count in dots_of(kernel).items() if n) * PLACES
        assert whole.operation_bits == 32 * products + 32 * (products - sums)
        assert signs.operation_bits == products + 32 * scales * sums + 32 * (products - sums)
        assert whole.storage_bits == signs.storage_bits


def test_a_batch_norm_takes_the_scale_in(judge):
    """And does not fold: its scale would make other codes of every channel."""
    kernel, vectors = variable(few([0.5, -0.5])), [variable(np.ones(10)) for _ in range(4)]

    def network(x):
        return tf.compat.v1.nn.fused_batch_norm(tf.nn.conv2d(x, kernel, 1, "SAME"), *vectors, is_training=False)[0]

    _, reports = judge(network, IMAGE, module=module_of(kernel, *vectors))
    norm = row_of(reports["micronet-signs"], "FusedBatchNormV3")
    assert (norm.status, norm.multiplies, norm.adds, norm.parameters) == ("counted", DOTS, DOTS, 2 * 10)
    assert "are codes" in norm.formula
    assert row_of(reports["micronet-signs"]).operation_bits == N * PLACES + 32 * (N * PLACES - DOTS)
    folded = row_of(reports["micronet-baseline"], "FusedBatchNormV3")
    assert folded.parameters == 2 * 10  # that baseline folds all, at no cost
    assert folded.operation_bits == 0


@pytest.mark.parametrize(
    ("length", "product_bits", "most", "bits"),
    [
        (1, 8, 32, 0),
        (2, 8, 32, 8),
        (4, 8, 32, 2 * 8 + 1 * 9),
        (5, 8, 32, 2 * 8 + 1 * 9 + 1 * 10),  # the odd one waits for the last level
        (8, 8, 32, 4 * 8 + 2 * 9 + 1 * 10),
        (8, 8, 9, 4 * 8 + 2 * 9 + 1 * 9),
        (1024, 16, 20, 512 * 16 + 256 * 17 + 128 * 18 + 64 * 19 + 63 * 20),
        (9, 32, 32, 8 * 32),
    ],
)
def test_trees_of_adders(length, product_bits, most, bits):
    assert tree_bits(length, product_bits, most) == bits
    assert sum(tree_levels(length)) == length - 1


def with_terms(**choices):
    rules = CONVENTIONS["micronet"]
    return dataclasses.replace(rules, name="variant", terms=dataclasses.replace(rules.terms, **choices))


def test_accumulators(judge):
    """8-bit maps, 4-bit weights, dots of 6: three adds of 12 bits, one of 13, one of 14. A sparse dot has a smaller tree."""
    kernel = few([0.5 * k for k in (-8, -3, 1, 2, 5, 7)])
    graph, reports = judge(lambda x: tf.nn.conv2d(quantized(x), kernel, 1, "SAME"), IMAGE)
    products = N * PLACES * 8
    assert row_of(reports["micronet"]).operation_bits == products + (N * PLACES - DOTS) * 32
    assert row_of(reports["micronet-tree"]).operation_bits == products + DOTS * (3 * 12 + 1 * 13 + 1 * 14)
    for choices, adds in (
        ({"accumulator_bits": 16}, 5 * 16),
        ({"accumulator_bits": 13, "tree": True}, 3 * 12 + 2 * 13),
        ({"accumulator_bits": 12, "tree": True}, 5 * 12),
    ):
        report = account(graph, with_terms(**choices))
        check_report(report, graph)
        assert row_of(report).operation_bits == products + DOTS * adds
    sparse = kernel.copy()
    sparse[0, 0, :2, :5] = 0
    _, reports = judge(lambda x: tf.nn.conv2d(quantized(x), sparse, 1, "SAME"), IMAGE, name="sparse")
    half = DOTS // 2
    expected = 8 * (N - 10) * PLACES + half * (3 * 12 + 13 + 14) + half * (2 * 12 + 13)
    assert row_of(reports["micronet-tree"]).operation_bits == expected


def test_a_tree_of_floats_is_flat(judge):
    reports = conv_of(judge, variable(few([0.5, -0.25])))
    assert row_of(reports["micronet-tree"]).operation_bits == row_of(reports["micronet"]).operation_bits


def test_sparse_depthwise_convs_sum_channel_by_channel(judge):
    kernel = np.zeros((3, 3, 6, 1), np.float32)
    kernel[0, :, :4] = 1.5
    made = module_of(stored := variable(kernel))
    _, reports = judge(lambda x: tf.nn.depthwise_conv2d(x, stored, (1, 1, 1, 1), "SAME"), IMAGE, module=made)
    row = row_of(reports["micronet"], "DepthwiseConv2dNative")
    assert (row.multiplies, row.adds) == (3 * 4 * PLACES, (3 - 1) * 4 * PLACES)


def test_terms_default_to_32_bits():
    assert Terms() == Terms(allowance=False, allowed_bits=16, widths=False, signs=False, accumulator_bits=32, tree=False)
    assert CONVENTIONS["micronet"].terms == Terms(widths=True)
    assert Width(8, False) < Width(32)

"""Picojoules an image: Horowitz's table as arithmetic, and MicroBotNet's question, whether a classification takes under 1 uJ."""

import functools
import math
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from test_accounting_widths import quantized
from test_bits import DOTS, IMAGE, PLACES, N, few, module_of, row_of, ternary_microbotnet, variable

from frenzy import models
from frenzy.accounting import CONVENTIONS, accounts, read
from frenzy.accounting.conventions.energy import access_femtojoules, operation_femtojoules

NAMES = ("energy-45nm", "energy-45nm-memory", "macs")
MACS = 782_368  # MicroBotNet x0.32
MICROJOULE = 10**6  # pJ


@pytest.mark.parametrize(
    ("sort", "bits", "real", "picojoules"),
    [
        ("add", 8, False, 0.03),
        ("add", 32, False, 0.1),
        ("multiply", 8, False, 0.2),
        ("multiply", 32, False, 3.1),
        ("add", 16, True, 0.4),
        ("add", 32, True, 0.9),
        ("multiply", 16, True, 1.1),
        ("multiply", 32, True, 3.7),
        ("multiply", 4, False, 0.2),  # the next wider of the table
        ("multiply", 9, False, 3.1),
        ("add", 17, True, 0.9),
        ("add", 64, False, 2 * 0.1),
        ("multiply", 64, True, 4 * 3.7),
        ("sign", 1, False, 0),
    ],
)
def test_the_table(sort, bits, real, picojoules):
    assert operation_femtojoules(sort, bits, real) == round(1000 * picojoules)


@pytest.mark.parametrize(
    ("kibibytes", "picojoules"), [(8, 10), (8.1, 20), (32, 20), (33, 100), (1024, 100), (1025, 2600), (10**6, 2600)]
)
def test_memories(kibibytes, picojoules):
    assert access_femtojoules(math.ceil(8 * 1024 * kibibytes)) == 1000 * picojoules


PRODUCTS = {
    # weights and maps -> picojoules of the products and of the sums of a 1x1 conv 6 -> 10
    "floats": (few([0.1, 0.35, -0.7, 1.2, 2.9]), lambda x: x, 3.7 * N * PLACES, 0.9),
    "whole weights, float maps": (few([0.1 * k for k in range(-8, 8)]), lambda x: x, 3.7 * 56 * PLACES, 0.9),
    "8 bits": (few([0.1 * k for k in (-100, -7, 3, 19, 88)]), quantized, 0.2 * N * PLACES, 0.1),
    "signs, 8-bit maps": (few([1, -1]), quantized, 0, 0.1),
    "signs, float maps": (few([1, -1]), lambda x: x, 0, 0.9),
    "scaled signs": (few([0.5, -0.5]), lambda x: x, 3.7 * DOTS, 0.9),
    "two scales": (few([0.5, -0.25]), lambda x: x, 2 * 3.7 * DOTS, 0.9),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_products_by_type_and_width(judge, case):
    kernel, image, products, add = PRODUCTS[case]
    stored = variable(kernel)
    _, reports = judge(lambda x: tf.nn.conv2d(image(x), stored, 1, "SAME"), IMAGE, module=module_of(stored))
    row = row_of(reports["energy-45nm"])
    assert row.operations == Fraction(
        round(1000 * products) + round(1000 * add) * (np.count_nonzero(kernel) * PLACES - DOTS), 1000
    )
    assert (row.unit_parts, reports["energy-45nm"].unit, reports["energy-45nm"].score) == (1000, "pJ", None)
    memory = row_of(reports["energy-45nm-memory"])
    assert memory.operations - row.operations == 10 * math.ceil(row.storage_bits / 64)  # all of it fits 8 KiB


@pytest.mark.parametrize(
    ("function", "picojoules"),
    [
        (tf.nn.relu, 0.9),  # a comparison is an add
        (lambda x: tf.nn.relu(quantized(x)), 0.03),
        (tf.nn.relu6, 2 * 0.9),
        (lambda x: tf.nn.leaky_relu(x), 3.7 + 0.9),
        (tf.exp, 3.7),
        (lambda x: x * x, 3.7),
        (lambda x: quantized(x) + quantized(x), 0.03),
        (lambda x: tf.cast(tf.cast(x, tf.float16) * 2.0, tf.float32), 1.1),
    ],
)
def test_elements(judge, function, picojoules):
    _, reports = judge(function, IMAGE)
    assert reports["energy-45nm"].totals.operations == Fraction(round(1000 * picojoules), 1000) * 4 * 4 * 6


def works(report, *ops):
    return sum(row.operations for row in report.rows if row.op in ops)


DOT_OPS = ("Conv2D", "DepthwiseConv2dNative", "MatMul")


class Quantized(keras.layers.Layer):
    """A layer whose output is put on a grid of 8 bits."""

    def __init__(self, inner):
        super().__init__(name=inner.name)
        self.inner = inner

    def call(self, inputs):
        return quantized(self.inner(inputs))


def quantized_microbotnet():
    """Weights of 8 bits, and maps of 8 bits between layers; inside activations and gates numbers are floats."""
    model = models.microbotnet.build(0.32)
    for kernel in model.trainable_weights:
        if len(kernel.shape) > 1:
            step = np.abs(kernel.numpy()).max() / 127
            kernel.assign(np.float32(step) * np.round(kernel.numpy() / step))
    return keras.models.clone_model(model, clone_function=Quantized)


@pytest.fixture(scope="module")
def microbotnet(tmp_path_factory):
    """Reports on MicroBotNet x0.32: 32-bit floats, weights and maps of 8 bits, and its published +1/-1/0 weights."""
    networks = {
        "float": models.microbotnet.build(0.32),
        "8 bits": quantized_microbotnet(),
        "ternary": ternary_microbotnet()[0],
    }
    found = {}
    for name, model in networks.items():
        module = module_of(*model.variables)
        spec = tf.TensorSpec((None, 32, 32, 3), tf.float32)
        module.__call__ = tf.function(functools.partial(model, training=False), input_signature=[spec])
        folder = str(tmp_path_factory.mktemp("energy") / name)
        tf.saved_model.save(module, folder, signatures={})
        found[name] = accounts(read(folder), NAMES)
    return found


def test_microbotnet_at_32_bits(microbotnet):
    """782,368 multiply-accumulates at 3.7 + 0.9 pJ, less an add for each of the dots that they are summed to."""
    report = microbotnet["float"]["energy-45nm"]
    dots = sum(row.multiplies - row.adds for row in report.rows if row.op in DOT_OPS)
    assert microbotnet["float"]["macs"].totals.operations == MACS
    assert dots == sum(math.prod(row.output_shape) for row in report.rows if row.op in DOT_OPS)
    assert works(report, *DOT_OPS) * 10 == 46 * MACS - 9 * dots
    # 234,250 weights of 32 bits in 1 MiB: 100 pJ for every two
    memory = microbotnet["float"]["energy-45nm-memory"]
    assert memory.totals.operations - report.totals.operations == 100 * sum(-(-row.storage_bits // 64) for row in report.rows)


def test_microbotnet_of_ones(microbotnet):
    """A product with +1 or -1 is none, with 0 not even an add; what is not quantized costs what it did."""
    before, after = (
        [row for row in microbotnet[kind]["energy-45nm"].rows if row.op in DOT_OPS] for kind in ("float", "ternary")
    )
    ternary = [row for row in after if row.multiply_bits is None]
    assert (len(ternary), sum(row.parameters for row in ternary)) == (31, 153_792)
    for full, ones in zip(before, after, strict=True):
        assert ones.operations == (Fraction(9, 10) * ones.adds if ones in ternary else full.operations)


def test_microbotnet_of_8_bits(microbotnet):
    """Convs at 0.2 + 0.1 pJ a multiply-accumulate, less an add a dot."""
    report = microbotnet["8 bits"]["energy-45nm"]
    convs = [row for row in report.rows if row.op in DOT_OPS[:2]]
    assert {row.multiply_bits for row in convs} == {8}
    dots = sum(row.multiplies - row.adds for row in convs)
    assert works(report, *DOT_OPS[:2]) * 10 == 3 * sum(row.multiplies for row in convs) - dots


def test_can_a_classification_take_under_a_microjoule(microbotnet):
    """With 32-bit floats not, with 31 ternary tensors not yet, with 8-bit weights and maps just so: the arithmetic alone.

    Reading the weights once, from 1 MiB of cache, costs more than computing with them, at any of these widths.
    """
    found = {
        (kind, name): microbotnet[kind][name].totals.operations / MICROJOULE
        for kind in microbotnet
        for name in ("energy-45nm", "energy-45nm-memory")
    }
    assert MACS * 4.6 / MICROJOULE > 3  # the notes' "a MAC cost approaching 1 pJ" needs narrower ones than 32-bit floats
    assert found["float", "energy-45nm"] > 3
    assert 1 < found["ternary", "energy-45nm"] < found["float", "energy-45nm"] / 2
    assert found["8 bits", "energy-45nm"] < 1
    for kind in microbotnet:
        assert found[kind, "energy-45nm-memory"] > 2 * found[kind, "energy-45nm"]
    assert {CONVENTIONS[name].unit for name in ("energy-45nm", "energy-45nm-memory")} == {"pJ"}

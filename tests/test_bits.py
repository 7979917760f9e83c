"""How wide weights and maps really are: found in the values that inference reads, and priced by the challenge's rules."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from conftest import check_report, judge_folder

from frenzy import export, models
from frenzy.accounting import account, read
from frenzy.accounting.contents import MOST, SAMPLE, content, distinct, grid_bits, is_ternary

RANDOM = np.random.default_rng(0)
IMAGE = tf.TensorSpec((None, 4, 4, 6), tf.float32)
PLACES = 4 * 4
N = 6 * 10  # weights of the 1x1 kernel 6 -> 10
DOTS = PLACES * 10
ONES, MINUS, ZEROS = 12_222, 7_446, 134_124  # MicroBotNet's notes


def variable(array, dtype=np.float32):
    return tf.Variable(np.asarray(array, dtype), name="stored")


def module_of(*variables):
    made = tf.Module()
    made.variables_ = list(variables)
    return made


def row_of(report, op="Conv2D"):
    (row,) = [row for row in report.rows if row.op == op]
    return row


def conv_of(judge, kernel, image=lambda x: x, made=None, **kwargs):
    """The conv's row under every convention, for a kernel that is a variable or computed by kernel()."""
    module = tf.Module()
    module.kept = made if made is not None else kernel
    weights = kernel if callable(kernel) and not isinstance(kernel, tf.Variable) else lambda: kernel
    _, reports = judge(lambda x: tf.nn.conv2d(image(x), weights(), 1, "SAME"), IMAGE, module=module, **kwargs)
    return reports


# Values


def test_distinct():
    assert distinct(np.float32([3, 1, 3, 0, 3])) == ((0, 1), (1, 1), (3, 3))
    assert len(distinct(np.arange(256))) == MOST
    assert distinct(np.arange(257)) is None
    assert distinct(np.float32([np.nan, 1])) is None
    assert distinct(np.float32([0.0, -0.0])) == ((0, 2),)


def test_distinct_values_that_the_first_elements_do_not_show():
    late = np.zeros((1 << 20) + SAMPLE, np.float32)
    late[-3:] = 7, -7, 7
    assert distinct(late) == ((-7, 1), (0, late.size - 3), (7, 2))
    late[-300:] = np.arange(300)
    assert distinct(late) is None


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ((-0.3, 0, 0.7), 2),  # -Wn, 0, +Wp: signs and zeros, whatever the sizes
        ((-0.5, 0.5), 1),
        ((0, 0.25), 1),
        ((-0.2, -0.1, 0, 0.1), 2),  # -2..1
        (tuple(0.013 * k for k in range(-128, 128)), 8),
        ((0.0, 2.0, 5.0), 3),  # multiples of 1, up to 5
        ((-0.4, 0.0, 0.2, 0.6), 3),  # -2..3 of 0.2
        ((0.1, 0.2, 100.0), None),  # 1000 steps
        ((1.0, math.sqrt(2), 3.0), None),
        ((1.0,), None),  # fresh weights look so
    ],
)
def test_grids(values, bits):
    assert grid_bits(tuple((float(np.float32(value)), 1) for value in values)) == bits


def test_content_of_a_depthwise_kernel():
    """Two of three channels have products; the needed part alone is looked at."""
    kernel = np.zeros((3, 3, 3, 1), np.float32)
    kernel[:, 0, 0], kernel[0, 0, 2] = 1, -1
    assert content(kernel, None, (-2, -1)).terms == ((1, 1), (3, 1))
    needed = np.broadcast_to(np.array([True, False, False])[:, None], kernel.shape)
    part = content(kernel, needed, (-2, -1))
    assert (part.size, part.nonzero, part.terms, part.values) == (9, 3, ((3, 1),), ((0, 6), (1, 3)))


# Forms of stored weights


def few(values, zeros=0, count=N):
    """`count` weights that take each of the values in turn, the first `zeros` of them zero."""
    array = np.resize(np.float32(values), count)
    array[:zeros] = 0
    return RANDOM.permutation(array).reshape(1, 1, 6, 10)


FORMS = {
    # weights -> the form, and its bits
    "random": (RANDOM.normal(size=(1, 1, 6, 10)), "dense, 16 bits", 16 * N),
    "one value": (few([0.5]), "dense, 16 bits", 16 * N),
    "a mask": (few([0.5], 50), "mask + 16 bits", N + 16 * 10),
    "sparse": (few(RANDOM.normal(size=N), 50), "mask + 16 bits", N + 16 * 10),
    "five values": (few([0.1, 0.35, -0.7, 1.2, -0.9]), "3 bits + 5 values", 3 * N + 5 * 32),
    "three values": (few([0.5, -0.25, -0.9]), "2 bits + 3 values", 2 * N + 3 * 32),
    "ternary": (few([0.5, -0.25], 10), "mask + 1 bit + 2 values", N + 50 + 2 * 32),
    "sparse ternary": (few([0.5, -0.25], 50), "mask + 1 bit + 2 values", N + 10 + 2 * 32),
    "equal signs": (few([0.5, -0.5]), "1 sign bit + 1 scale", N + 32),
    "+1, -1, 0": (few([1, -1], 50), "mask + 1 sign bit + 1 scale", N + 10 + 32),
    "unequal signs": (few([0.5, -0.25]), "1 bit + 2 values", N + 2 * 32),
}


@pytest.mark.parametrize("case", FORMS)
def test_the_cheapest_form_is_taken_and_named(judge, case):
    array, text, bits = FORMS[case]
    reports = conv_of(judge, variable(array))
    row = row_of(reports["micronet"])
    assert (row.stored_as, row.storage_bits, row.parameters) == (text, bits, N)
    assert (row.weight_bits, row.nonzero) == (32, np.count_nonzero(array))
    others = row_of(reports["macs"])
    assert (others.stored_as, others.storage_bits) == ("", 32 * N)  # the others count the type
    note = "nothing is below 16 bits" if "16 bits" in text else "something is below 16 bits ('Conv2D' has few values: "
    assert any(line.startswith(note) for line in reports["micronet"].notes)


def test_the_baseline_looks_at_no_values(judge):
    ternary, random = (
        conv_of(judge, variable(array), name=name)["micronet-baseline"]
        for name, array in (("ternary", few([0.5, -0.25])), ("random", RANDOM.normal(size=(1, 1, 6, 10))))
    )
    assert ternary.totals == random.totals


def test_the_baseline_stores_halves_as_floats(judge):
    stored = variable(RANDOM.normal(size=(1, 1, 6, 10)), np.float16)
    reports = conv_of(judge, lambda: tf.cast(stored, tf.float32), made=stored)
    assert row_of(reports["micronet-baseline"]).storage_bits == 32 * 60
    assert row_of(reports["micronet"]).storage_bits == 16 * 60


def test_values_that_are_many(judge):
    """257 values are no codes, 256 are: 8 bits an element and 256 values."""
    for count, bits in ((256, 8 * 64 * 64 + 256 * 32), (257, 16 * 64 * 64)):
        kernel = np.resize(np.exp(np.linspace(0, 1, count)), (1, 1, 64, 64))
        reports = conv_of(judge, variable(kernel), lambda x: tf.tile(x, (1, 1, 1, 11))[..., :64], name=f"m{count}")
        assert row_of(reports["micronet"]).storage_bits == bits


def test_without_the_data_bits_are_those_of_the_type(tmp_path):
    made = tf.Module()
    made.kernel = variable(few([0.5, -0.25]))
    made.__call__ = tf.function(lambda x: tf.nn.conv2d(x, made.kernel, 1, "SAME"), input_signature=[IMAGE])
    tf.saved_model.save(made, str(tmp_path / "m"), signatures={})
    for path in (tmp_path / "m" / "variables").glob("variables.data*"):
        path.unlink()
    _, reports = judge_folder(tmp_path / "m")
    row = row_of(reports["micronet"])
    assert (row.stored_as, row.storage_bits, row.values) == ("dense, 16 bits", 16 * N, None)
    assert any("values are not at hand" in note for note in reports["micronet"].notes)


# Weights that the graph computes


def computed_kernels():
    """name -> (stored tensors, the kernel computed from them, (parameters, bits) of the cheapest form)."""
    scale = RANDOM.uniform(0.1, 1, 10)
    four, signs = few(np.arange(16)) - 8, np.sign(RANDOM.normal(size=(1, 1, 6, 10)))
    latent = RANDOM.normal(size=(1, 1, 6, 10))
    table = RANDOM.normal(size=16)
    packed = RANDOM.integers(0, 256, (15, 4))
    return {
        "codes of 8 bits that take 4": (
            [variable(four, np.int8), variable(scale)],
            lambda v: tf.cast(v[0], tf.float32) * v[1],
            (N + 10, 4 * N + 16 * 8 + 10 * 32),
        ),
        "signs, a scale a channel": (
            [variable(signs), variable(scale)],
            lambda v: v[1] * v[0],
            (N + 10, N + 32 + 10 * 32),
        ),
        "signs divided": (
            [variable(signs, np.float16), variable(scale)],
            lambda v: tf.cast(v[0], tf.float32) / v[1],
            (N + 10, N + 16 + 10 * 32),
        ),
        "latent weights, a scale a tensor": (
            [variable(latent)],
            lambda v: tf.where(v[0] >= 0, 1.0, -1.0) * tf.reduce_mean(tf.abs(v[0])),
            (N, N + 32),
        ),
        "latent weights, a scale a channel": (
            [variable(latent)],
            lambda v: tf.sign(v[0]) * tf.reduce_mean(tf.abs(v[0]), (0, 1, 2)),
            (N + 10, N + 32 + 10 * 32),
        ),
        "a codebook": (
            [variable(RANDOM.permutation(np.arange(N) % 16), np.uint8), variable(table)],
            lambda v: tf.reshape(tf.gather(v[1], tf.cast(v[0], tf.int32)), (1, 1, 6, 10)),
            (N, 4 * N + 16 * 32),
        ),
        "two bits unpacked": (
            [variable(packed, np.uint8)],
            lambda v: tf.reshape(
                tf.cast(
                    tf.bitwise.bitwise_and(
                        tf.bitwise.right_shift(tf.tile(v[0][:, :1], (1, 4)), tf.constant([0, 2, 4, 6], tf.uint8)), tf.constant(3, tf.uint8)
                    ),
                    tf.float32,
                ) - 1.5,
                (1, 1, 6, 10),
            ),
            (N, 2 * N + 2 * 32),
        ),
        "transposed": (
            [variable(few([0.5, -0.25]).T)],
            lambda v: tf.transpose(v[0]),
            (N, N + 2 * 32),
        ),
        "quantized per tensor": (
            [variable(latent)],
            lambda v: tf.quantization.fake_quant_with_min_max_vars(v[0], -2.0, 2.0, num_bits=4),
            (N + 2, 4 * N + 2 * 32),
        ),
        "quantized per channel": (
            [variable(latent), variable(-scale), variable(scale)],
            lambda v: tf.quantization.fake_quant_with_min_max_vars_per_channel(v[0], v[1], v[2], num_bits=5),
            (N + 20, 5 * N + 20 * 32),
        ),
        "quantized and dequantized": (
            [variable(latent)],
            lambda v: tf.quantization.quantize_and_dequantize_v2(v[0], -2.0, 2.0, num_bits=6, range_given=True),
            (N + 2, 6 * N + 2 * 32),
        ),
        "pruned by a mask": (
            [variable(latent), variable(few([1], 50))],
            lambda v: v[0] * v[1],
            (N, N + 10 * 16),
        ),
        "scaled and not quantized": (
            [variable(latent), variable(scale)],
            lambda v: v[0] * v[1],
            (N + 10, 16 * (N + 10)),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("case", computed_kernels())
def test_weights_that_the_graph_computes(judge, case):
    stored, compute, expected = computed_kernels()[case]
    row = row_of(conv_of(judge, lambda: compute(stored), made=stored)["micronet"])
    assert (row.parameters, row.storage_bits) == expected, row.stored_as


def test_what_is_no_arithmetic_is_not_run(judge):
    """A kernel that is drawn anew each time has no values that could be counted."""
    stored = variable(few([1, -1]))
    row = row_of(conv_of(judge, lambda: stored * tf.random.uniform((), 1, 2), made=stored)["micronet"])
    assert (row.stored_as, row.values) == ("dense, 16 bits", None)


def test_a_kernel_that_is_read_twice_is_stored_once(judge):
    made = tf.Module()
    made.kernel = variable(0.5 * np.sign(RANDOM.normal(size=(1, 1, 6, 6))))
    _, reports = judge(
        lambda x: tf.nn.conv2d(tf.nn.conv2d(x, made.kernel, 1, "SAME"), made.kernel, 1, "SAME"), IMAGE, module=made
    )
    rows = [row for row in reports["micronet"].rows if row.op == "Conv2D"]
    assert [(row.parameters, row.storage_bits) for row in rows] == [(36, 36 + 32), (0, 0)]
    assert rows[0].operations == rows[1].operations
    signs = [row for row in reports["micronet-signs"].rows if row.op == "Conv2D"]
    assert [row.operation_bits for row in signs] == [36 * PLACES + 32 * (6 * PLACES) + 32 * (5 * 6 * PLACES)] * 2


# MicroBotNet


def inner_kernels(model):
    """Kernels of the ten blocks with more than 1,000 elements: what its notes quantize."""
    found = [v for v in model.weights if v.name.startswith("block") and "kernel" in v.name and math.prod(v.shape) > 1000]
    assert (len(found), sum(math.prod(v.shape) for v in found)) == (31, 153_792)
    return found


def ternary_microbotnet(scales=None):
    """The notes' +1/-1 network: so many ones, minus ones and zeros, in a fixed order; or -Wn, 0, +Wp with 31 x 2 scales."""
    keras.utils.set_random_seed(0)
    model = models.microbotnet.build(0.32)
    kernels = inner_kernels(model)
    values = np.random.default_rng(1).permutation(np.repeat(np.float32([1, -1, 0]), (ONES, MINUS, ZEROS)))
    parts = np.split(values, np.cumsum([math.prod(v.shape) for v in kernels])[:-1])
    for kernel, part, (positive, negative) in zip(kernels, parts, np.ones((31, 2)) if scales is None else scales, strict=True):
        kernel.assign(np.where(part > 0, positive, np.where(part < 0, -negative, 0)).reshape(kernel.shape))
    return model, kernels


def exported(model, folder, dtype):
    names = [str(i) for i in range(10)]
    export.export(model, folder, export.Preprocessing((0.5,) * 3, (0.25,) * 3), names, weight_dtype=dtype)
    return read(folder)


def ternary_rows(report):
    return [row for row in report.rows if row.values and is_ternary(row.values)]


def signs_of(rows):
    return tuple(sum(count for row in rows for value, count in row.values if np.sign(value) == sign) for sign in (1, -1, 0))


def test_microbotnet_of_ones(tmp_path):
    """31 tensors with 153,792 weights, found in the values alone, and the published counts of their signs."""
    model, _ = ternary_microbotnet()
    graph = exported(model, tmp_path / "m", "float32")
    report = account(graph, "micronet")
    check_report(report, graph)
    rows = ternary_rows(report)
    assert (len(rows), sum(row.parameters for row in rows)) == (31, 153_792)
    assert signs_of(rows) == (ONES, MINUS, ZEROS) == (12_222, 7_446, 134_124)
    assert {abs(value) for row in rows for value, _ in row.values} == {0.0, 1.0}
    assert "31 ternary tensors of 153,792 weights: 12,222 positive, 7,446 negative, 134,124 zero" in report.notes
    assert all(row.stored_as.startswith("mask + ") for row in rows)
    assert sum(row.storage_bits for row in rows) == 153_792 + (ONES + MINUS) + 31 * 32
    kernels = [row for row in report.rows if row.stored_as and row not in rows]
    assert {row.stored_as for row in kernels} == {"dense, 32 bits"}


def test_microbotnet_with_trained_scales_at_16_bits(tmp_path):
    """-Wn, 0, +Wp of every tensor: rounded scales stay scales, and take 16 bits."""
    model, kernels = ternary_microbotnet(np.random.default_rng(2).uniform(0.05, 0.5, (31, 2)))
    export.round_weights(model, "float16")
    rows = ternary_rows(account(exported(model, tmp_path / "m", "float16"), "micronet"))
    assert (len(rows), sum(row.parameters for row in rows), signs_of(rows)) == (31, 153_792, (ONES, MINUS, ZEROS))
    expected = {tuple(float(value) for value in np.unique(kernel.numpy())) for kernel in kernels}
    assert {tuple(value for value, _ in row.values) for row in rows} == expected
    assert sum(row.storage_bits for row in rows) == 153_792 + (ONES + MINUS) + 31 * 2 * 16

"""Graph passes, one by one: equal outputs, the report that the accountant gave before, and a reason for what is left alone."""

import types

import numpy as np
import pytest
import tensorflow as tf
from optimize_case import (
    RANDOM,
    check,
    conv_then_norm,
    norm,
    norm_weights,
    ops,
    outputs,
    same_numbers_in_any_order,
    save,
    values,
)

from frenzy.optimize import linear, norms, optimize, read_network, run_passes


@pytest.fixture(autouse=True)
def _same_numbers():
    same_numbers_in_any_order()


# the arithmetic on kernels

KERNELS = {
    "conv": (types.SimpleNamespace(op="Conv2D", attrs={}), (2, 2, 4, 6), lambda x, k: tf.nn.conv2d(x, k, 1, "VALID")),
    "grouped": (types.SimpleNamespace(op="Conv2D", attrs={}), (2, 2, 2, 6), lambda x, k: tf.nn.conv2d(x, k, 1, "VALID")),
    "depthwise": (
        types.SimpleNamespace(op="DepthwiseConv2dNative", attrs={}),
        (2, 2, 4, 3),
        lambda x, k: tf.nn.depthwise_conv2d(x, k, (1, 1, 1, 1), "VALID"),
    ),
    "dense": (types.SimpleNamespace(op="MatMul", attrs={}), (4, 6), lambda x, k: tf.tensordot(x, k, 1)),
    "flipped": (
        types.SimpleNamespace(op="MatMul", attrs={"transpose_b": True}),
        (6, 4),
        lambda x, k: tf.tensordot(x, k, [[-1], [1]]),
    ),
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_scale_goes_through_a_kernel(name):
    node, shape, apply = KERNELS[name]
    kernel, images = values(*shape), values(2, 3, 3, 4)
    plain = apply(images, kernel).numpy()
    outs, ins = values(plain.shape[-1]), values(4)
    np.testing.assert_allclose(apply(images, linear.scale_outputs(node, kernel, outs)), plain * outs, rtol=1e-4)
    np.testing.assert_allclose(apply(images, linear.scale_inputs(node, kernel, ins)), apply(images * ins, kernel), rtol=1e-4)
    constant = apply(np.broadcast_to(ins, images.shape), kernel).numpy()
    np.testing.assert_allclose(constant, np.broadcast_to(linear.response(node, kernel, ins), constant.shape), rtol=1e-4)


@pytest.mark.parametrize("name", ["conv", "dense", "flipped"])
def test_inputs_are_taken_out_of_a_kernel(name):
    node, shape, apply = KERNELS[name]
    kernel, images = values(*shape), values(1, 3, 3, 4)
    kept = np.array([True, False, True, True])
    images[..., 1] = 0
    taken = apply(images[..., kept], linear.take_inputs(node, kernel, kept))
    np.testing.assert_allclose(taken, apply(images, kernel), rtol=1e-4)


# pass by pass


def biased_conv_then_norm(x, w):
    return norm(tf.nn.conv2d(x, w["kernel"], 2, "SAME") + w["bias"], w, "bn")


def norm_then_conv(x, w):
    return tf.nn.conv2d(norm(x, w, "bn"), w["kernel"], 1, "VALID")


def two_norms(x, w):
    return norm(tf.nn.conv2d(norm(x, w, "bn"), w["kernel"], 1, "VALID"), w, "second")


def depthwise_then_norm(x, w):
    return norm(tf.nn.depthwise_conv2d(x, w["kernel"], (1, 1, 1, 1), "SAME"), w, "bn")


def norm_then_depthwise(x, w):
    return tf.nn.depthwise_conv2d(norm(x, w, "bn"), w["kernel"], (1, 1, 1, 1), "VALID")


def dense_then_written_out(x, w):
    return tf.matmul(tf.reduce_mean(x, (1, 2)), w["kernel"]) * (w["bn/gamma"] * tf.math.rsqrt(w["bn/variance"])) - w["bn/beta"]


FOLDS = {
    "conv, norm": (conv_then_norm, (3, 3, 3, 4), 4, ["Conv2D", "BiasAdd"]),
    "conv, bias, norm": (biased_conv_then_norm, (3, 3, 3, 4), 4, ["Conv2D", "AddV2"]),
    "grouped conv, norm": (lambda x, w: conv_then_norm(x, w), (3, 3, 1, 6), 6, ["Conv2D", "BiasAdd"]),
    "norm, conv": (norm_then_conv, (3, 3, 3, 4), 3, ["Conv2D", "BiasAdd"]),
    "norm, conv, norm": (two_norms, (3, 3, 3, 3), 3, ["Conv2D", "BiasAdd"]),
    "depthwise, norm": (depthwise_then_norm, (3, 3, 3, 2), 6, ["DepthwiseConv2dNative", "BiasAdd"]),
    "norm, depthwise": (norm_then_depthwise, (3, 3, 3, 2), 3, ["DepthwiseConv2dNative", "BiasAdd"]),
    "dense, written out": (dense_then_written_out, (3, 5), 5, ["Mean", "MatMul", "BiasAdd"]),
}


@pytest.mark.parametrize("name", FOLDS)
def test_a_norm_folds(name, tmp_path):
    function, kernel, channels, left = FOLDS[name]
    weights = {"kernel": values(*kernel, low=-1), **norm_weights("bn", channels), **norm_weights("second", channels)}
    if "bias," in name:
        weights["bias"] = values(channels)
    folder = save(tmp_path / "was", function, (6, 6, 3), weights)
    check(folder, tmp_path / "is", (6, 6, 3), equal=name != "norm, conv, norm")
    assert [op for op in ops(tmp_path / "is") if op not in ("Placeholder", "Identity")] == left


def ternary_then_norm(x, w):
    x = norm(tf.nn.conv2d(x, w["codes"], 1, "SAME"), w, "bn")
    return norm(tf.nn.conv2d(x, w["kernel"], 1, "SAME"), w, "second")


def test_codes_are_not_destroyed(tmp_path):
    codes = RANDOM.choice([-0.25, 0.0, 0.5], (3, 3, 3, 4)).astype(np.float16)
    weights = {
        "codes": codes,
        "kernel": values(3, 3, 4, 4).astype(np.float16),
        **norm_weights("bn", 4),
        **norm_weights("second", 4),
    }
    folder = save(tmp_path / "was", ternary_then_norm, (6, 6, 3), weights)
    result = check(folder, tmp_path / "is", (6, 6, 3))  # identities go
    reasons = [reason for _, reason in result.steps[3].left]
    assert [r.split("'")[0] for r in reasons] == ["the weights of ", "the weights of "]
    assert "are codes" in reasons[0]
    assert "have 16 bits beside others that are codes: folded they would take 32" in reasons[1]
    assert "casts stay" in result.steps[4].left[0][1]
    (kept,) = [v for v in read_network(tmp_path / "is", "serving_default").weights.values() if v.shape == codes.shape]
    np.testing.assert_array_equal(kept, codes)


def shared_kernel(x, w):
    x = norm(tf.nn.conv2d(x, w["kernel"], 1, "SAME"), w, "bn")
    return tf.nn.relu(tf.nn.conv2d(tf.nn.relu(x), w["kernel"], 1, "SAME"))


def shared_norm(x, w):
    x = tf.nn.relu(norm(tf.nn.conv2d(x, w["kernel"], 1, "SAME"), w, "bn"))
    return norm(tf.nn.conv2d(x, w["other"], 1, "SAME"), w, "bn")


def computed_kernel(x, w):
    return norm(tf.nn.conv2d(x, tf.tanh(w["kernel"]), 1, "SAME"), w, "bn")


def padded_conv_behind(x, w):
    return tf.nn.conv2d(norm(x, w, "bn"), w["kernel"], 1, "SAME")


def half_precision(x, w):
    y = tf.nn.conv2d(tf.cast(x, tf.float16), tf.cast(w["kernel"], tf.float16), 1, "SAME")
    y = tf.cast(y, tf.float32)
    return norm(y, w, "bn")


LEFT = {
    "shared kernel": (shared_kernel, "the kernel of 'Conv2D' is read elsewhere too"),
    "shared norm": (shared_norm, "its 'bn/gamma' is read elsewhere too"),
    "computed kernel": (computed_kernel, "the kernel of 'Conv2D' is computed, not stored as it is read"),
    "padding": (padded_conv_behind, "between Placeholder and Conv2D: no conv or dense layer"),
    "types": (half_precision, "between Cast and the output: no conv or dense layer"),
}


@pytest.mark.parametrize("name", LEFT)
def test_a_norm_is_left_alone(name, tmp_path):
    function, reason = LEFT[name]
    weights = {"kernel": values(3, 3, 3, 3, low=-1), "other": values(3, 3, 3, 3, low=-1), **norm_weights("bn", 3)}
    network = read_network(save(tmp_path / "was", function, (6, 6, 3), weights), "serving_default")
    run_passes(network)
    step = norms.fold_norms(network)
    assert step.changed == 0
    assert step.left[0][1].startswith(reason)


# channels


def after(x, zeros, before=0):
    return tf.pad(x, [(0, 0), (0, 0), (0, 0), (before, zeros)])


def constants_into_conv(x, w):
    """3 channels and 2 zeros; BN makes constants of these, which a 1x1 conv takes in."""
    return tf.nn.conv2d(tf.nn.relu(norm(after(x, 2), w, "bn")), w["kernel"], 1, "SAME")


def constants_at_borders(x, w):
    return tf.nn.conv2d(tf.nn.relu(norm(after(x, 2), w, "bn")), w["wide"], 1, "SAME")


def constants_into_both(x, w):
    x = tf.nn.relu(norm(after(x, 2), w, "bn"))
    return tf.nn.conv2d(x, w["kernel"], 1, "SAME") + tf.nn.conv2d(x, w["wide"], 1, "SAME")


def constants_into_bias(x, w):
    return tf.nn.bias_add(tf.nn.conv2d(norm(after(x, 2), w, "bn"), w["kernel"], 1, "SAME"), w["bias"])


def constants_into_dense(x, w):
    return tf.matmul(tf.reduce_mean(norm(after(x, 2), w, "bn"), (1, 2)), w["dense"])


def around_and_between(x, w):
    """Zeros on both sides, some between others behind a join, pools and a depthwise conv on the way."""
    x = tf.concat([after(x, 1, before=1), after(x, 1)], -1)  # 0 x x x 0 x x x 0
    x = tf.nn.max_pool2d(x, 2, 2, "VALID") + tf.nn.avg_pool2d(x, 2, 2, "VALID")
    x = after(tf.nn.max_pool2d(x, 3, 3, "VALID"), 1) + after(tf.nn.conv2d(x, w["narrow"], 3, "VALID"), 9)
    return tf.nn.conv2d(x, w["joined"], 1, "SAME")


def all_zero_branch(x, w):
    zeros = tf.zeros_like(x)
    return tf.nn.conv2d(after(x, 2) + after(tf.nn.relu(zeros), 2), w["kernel"], 1, "VALID")


def needed_by_an_output(x, w):
    return after(tf.nn.relu(x), 2)


def gated(x, w):
    x = tf.nn.relu(after(x, 2))
    gate = tf.sigmoid(tf.reduce_mean(x, (1, 2), keepdims=True))
    return tf.nn.conv2d(x * gate, w["kernel"], 1, "SAME")


def subtracted(x, w):
    return tf.nn.conv2d(after(x[..., :1], 4, before=0) - after(x, 2), w["kernel"], 1, "SAME")


def depthwise_between(x, w):
    x = tf.nn.depthwise_conv2d(after(x, 2), w["depthwise"], (1, 2, 2, 1), "SAME")
    return tf.nn.conv2d(x, w["joined"], 1, "SAME")


# the vectors of a BN are sliced; the accountant knows that only live ones count. `equal` where nothing else can shrink.
CHANNELS = {
    "constants into a conv": (constants_into_conv, ["BiasAdd", "Conv2D", "FusedBatchNormV3", "Relu"], True),
    "constants at borders": (constants_at_borders, ["Conv2D", "FusedBatchNormV3", "Pad", "Relu"], False),
    "constants into both": (constants_into_both, ["AddV2", "Conv2D", "Conv2D", "FusedBatchNormV3", "Pad", "Relu"], False),
    "constants into a bias": (constants_into_bias, ["BiasAdd", "Conv2D"], True),
    "constants into a dense layer": (constants_into_dense, ["BiasAdd", "FusedBatchNormV3", "MatMul", "Mean"], True),
    "zeros between": (around_and_between, None, True),
    "a branch of zeros": (all_zero_branch, None, True),
    "needed by an output": (needed_by_an_output, ["Pad", "Relu"], False),
    "gates": (gated, ["Conv2D", "Mean", "Mul", "Relu", "Sigmoid"], True),
    "a difference": (subtracted, ["Conv2D", "Pad", "StridedSlice", "Sub"], True),
    "a depthwise conv": (depthwise_between, ["Conv2D", "DepthwiseConv2dNative"], True),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_channels(name, tmp_path):
    function, left, changed = CHANNELS[name]
    weights = {
        "bias": values(4),
        "dense": values(5, 4),
        "depthwise": values(3, 3, 5, 2),
        "joined": values(1, 1, 10, 4, low=-1),
        "kernel": values(1, 1, 5, 4, low=-1),
        "narrow": values(1, 1, 9, 1, low=-1),
        "wide": values(3, 3, 5, 4, low=-1),
        **norm_weights("bn", 5),
    }
    folder = save(tmp_path / "was", function, (6, 6, 3), weights)
    result = check(folder, tmp_path / "is", (6, 6, 3))
    assert bool(result.steps[2].changed) == changed
    if left is not None:
        assert sorted(op for op in ops(tmp_path / "is") if op not in ("Placeholder", "Identity")) == left
    if name == "constants at borders":
        assert result.steps[2].left == (
            ("Conv2D", "2 of its inputs are constants, but it pads: at borders its zeros differ from them"),
        )


def test_a_node_without_a_rule_is_named(tmp_path):
    folder = save(tmp_path / "was", lambda x, w: tf.nn.depth_to_space(after(x, 1), 2), (4, 4, 3))
    result = check(folder, tmp_path / "is", (4, 4, 3))
    assert result.steps[2].left == (("DepthToSpace", "DepthToSpace has no rule here"),)
    assert "Pad" in ops(tmp_path / "is")


def test_control_flow_is_left_alone(tmp_path):
    def function(x, w):
        x = norm(tf.nn.conv2d(x, w["kernel"], 1, "SAME"), w, "bn")
        return tf.cond(tf.reduce_sum(x) > 0, lambda: x + 1, lambda: x - 1)

    folder = save(tmp_path / "was", function, (6, 6, 3), {"kernel": values(3, 3, 3, 4, low=-1), **norm_weights("bn", 4)})
    result = optimize(folder, tmp_path / "is")
    images = RANDOM.normal(size=(2, 6, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(outputs(tmp_path / "is", images), outputs(folder, images), atol=1e-4)
    assert result.steps[3].changed == 1
    assert any(op in ops(tmp_path / "is") for op in ("If", "StatelessIf"))

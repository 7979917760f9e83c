"""Graph passes: equal outputs, the report that the accountant gave before, and a reason for what is left alone."""

import json
import types

import numpy as np
import programs
import pytest
import tensorflow as tf
import tf_keras as keras

from frenzy import export
from frenzy.accounting import accounts, read
from frenzy.models.frenzy import Block, Rows, build
from frenzy.optimize import OptimizeError, linear, lines, norms, optimize, read_network, run_passes

ROWS = Rows(
    stem_kernel=(3, 3),
    stem=4,
    blocks=(
        Block(width=4, prune=3, conv1=(3, 3), a=3, conv2=(1, 1), b=2),
        Block(width=8, prune=4, conv1=(3, 3), a=3, conv2=(1, 1), b=2, stride=2),  # 4 of 8 channels stay zero
        Block(width=8, prune=4, conv1=(1, 1), a=4, conv2=(3, 3), b=8),
    ),
)
RANDOM = np.random.default_rng(0)
START = RANDOM.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers_in_any_order():
    RANDOM.bit_generator.state = START


def values(*shape, low=0.5, high=1.5):
    return RANDOM.uniform(low, high, shape).astype(np.float32)


def save(folder, function, shape, weights=(), dtype=np.float32):
    """A SavedModel of function(images, weights) with one signature; weights are variables by name."""
    module = tf.Module()
    module.weights = {name: tf.Variable(np.asarray(value), name=name) for name, value in dict(weights).items()}

    @tf.function(input_signature=[tf.TensorSpec((None, *shape), dtype, name="images")])
    def serve(images):
        return {"logits": function(images, {n: tf.cast(v, tf.float32) for n, v in module.weights.items()})}

    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    return folder


def outputs(folder, images):
    return tf.saved_model.load(str(folder)).signatures["serving_default"](images=tf.constant(images))["logits"].numpy()


def totals(report):
    return report.totals.parameters, report.totals.storage_bits, report.totals.operation_bits


def ops(folder):
    graph = read(folder)
    return [node.op for node in graph.nodes.values() if node.name in graph.data_nodes]


def norm(x, weights, name):
    parts = (weights[f"{name}/{part}"] for part in ("gamma", "beta", "mean", "variance"))
    return tf.compat.v1.nn.fused_batch_norm(x, *parts, is_training=False)[0]


def norm_weights(name, channels):
    parts = {
        "beta": values(channels, low=-1),
        "gamma": values(channels),
        "mean": values(channels, low=-1),
        "variance": values(channels),
    }
    return {f"{name}/{part}": value for part, value in parts.items()}


def check(folder, output, shape, equal=True):
    """Optimises and compares: outputs for other images and another batch, and the report under micronet."""
    result = optimize(folder, output)
    images = RANDOM.normal(size=(5, *shape)).astype(np.float32)
    np.testing.assert_allclose(outputs(output, images), outputs(folder, images), atol=1e-4, rtol=1e-4)
    before, after = totals(result.before["micronet"]), totals(result.after["micronet"])
    assert after == before if equal else all(a <= b for a, b in zip(after, before, strict=True))
    return result


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


# a network of ours


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    """A network like Frenzy, exported, and optimised: (folder, output, result)."""
    keras.utils.set_random_seed(0)
    model = build(ROWS, num_classes=5, input_shape=(8, 8, 3))
    for variable in model.weights:
        if any(part in variable.name for part in ("moving", "gamma", "beta")):
            variable.assign(values(*variable.shape))
    export.round_weights(model, "float16")
    root = tmp_path_factory.mktemp("optimize")
    export.export(model, root / "was", export.Preprocessing((0.5,) * 3, (0.25,) * 3), [f"class {i}" for i in range(5)])
    return root / "was", root / "is", optimize(root / "was", root / "is")


def test_outputs_are_equal(residual):
    folder, output, result = residual
    images = RANDOM.normal(size=(7, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(outputs(output, images), outputs(folder, images), atol=1e-4)
    assert 0 < result.difference <= 1e-4


def test_classify_is_optimised_too(residual):
    folder, output, _ = residual
    images = tf.constant(RANDOM.integers(0, 256, (4, 8, 8, 3)), tf.uint8)
    before, after = (tf.saved_model.load(str(f)).signatures["classify"](images=images) for f in (folder, output))
    np.testing.assert_array_equal(after["classes"], before["classes"])
    np.testing.assert_array_equal(after["names"], before["names"])
    np.testing.assert_allclose(after["probabilities"], before["probabilities"], atol=1e-4)
    names = [
        name for name, _ in tf.train.list_variables(str(output / "variables" / "variables")) if name.endswith("VARIABLE_VALUE")
    ]
    assert len(names) == len(read(output).variables)  # both signatures read the same ones


def test_the_report_is_the_one_of_before(residual):
    _, _, result = residual
    assert totals(result.after["micronet"]) == totals(result.before["micronet"])


def test_biases_are_what_the_submissions_rules_add(residual):
    """frenzy: BN is free, a bias an add an output and 16 bits a channel."""
    _, _, result = residual
    made = [row for row in result.after["frenzy"].rows if row.op == "BiasAdd"]
    before, after = result.before["frenzy"].totals, result.after["frenzy"].totals
    assert len(made) == 3 * 2 + 1  # prune and conv1 of each block, and the head
    assert after.adds - before.adds == sum(row.adds for row in made)
    assert after.parameters - before.parameters == sum(row.parameters for row in made) == (3 + 3) + (4 + 3) + (4 + 4) + 5
    assert after.multiplies == before.multiplies


def test_dead_channels_are_gone(residual):
    """Behind the second block 4 of 8 channels are zero: its pads shrink, the third block's first conv reads 4."""
    _, output, result = residual
    reports = result.before["micronet"], result.after["micronet"]
    shapes = {variable.name: variable.shape for variable in read(output).variables.values()}
    assert shapes["block3_prune/kernel"] == (1, 1, 4, 4)
    assert shapes["block3_prune_bn/moving_mean"] == (4,)
    widths = [sorted(row.output_shape[-1] for row in report.rows if row.op == "Pad") for report in reports]
    assert widths == [[4, 8, 8], [4, 4, 8]]  # of the last block the shortcut is padded now, of the second conv2 alone
    assert ops(output).count("FusedBatchNormV3") == 3 + 1  # before each block and the head
    assert "Cast" not in [node.op for node in read(output).nodes.values()]


def test_what_is_left_alone_has_a_reason(residual):
    reasons = dict(residual[2].steps[3].left)
    assert set(reasons) == {
        f"frenzy/{name}_bn/FusedBatchNormV3" for name in ("block1_prune", "block2_prune", "block3_prune", "head")
    }
    assert reasons["frenzy/head_bn/FusedBatchNormV3"].startswith("between AddV2 and Relu: no conv or dense layer")
    assert "(which others read as well)" in reasons["frenzy/block2_prune_bn/FusedBatchNormV3"]


def test_the_card_goes_along(residual):
    folder, output, result = residual
    was, card = (json.loads((f / export.CARD).read_text()) for f in (folder, output))
    assert card == json.loads(json.dumps(result.card))
    assert {key: card[key] for key in ("name", "class_names", "preprocessing")} == {
        key: was[key] for key in ("name", "class_names", "preprocessing")
    }
    assert card["counts"]["micronet"] == was["counts"]["micronet"]
    assert card["variables_sha256"] == export.variables_sha256(output) != was["variables_sha256"]
    assert [step["changed"] for step in card["optimized"]["passes"]] == [step.changed for step in result.steps]
    assert card["optimized"]["max_difference"] == result.difference


def test_the_lines_say_it_all(residual):
    text = "\n".join(lines(residual[2]))
    assert "    7  batch norms folded into convs and dense layers\n" in text
    assert "left alone: 2, between AddV2 (which others read as well) and Relu" in text
    assert "micronet: " in text


def test_an_optimised_network_stays_as_it_is(residual, tmp_path):
    _, output, result = residual
    again = optimize(output, tmp_path / "again")
    assert [step.changed for step in again.steps if "nothing" not in step.name] == [0, 0, 0, 0]
    assert totals(again.after["frenzy"]) == totals(result.after["frenzy"])


def test_16_bits_again(residual, tmp_path):
    folder, _, _ = residual
    result = optimize(folder, tmp_path / "half", "float16")
    assert {v.bits for v in read(tmp_path / "half").variables.values()} == {16}
    assert result.difference <= 1e-4 < result.rounding < 0.1
    assert totals(result.after["micronet"]) == totals(result.before["micronet"])


# pass by pass


def conv_then_norm(x, w):
    return norm(tf.nn.conv2d(x, w["kernel"], 1, "SAME"), w, "bn")


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


# bad input, and what goes wrong


def small(folder):
    return save(folder, conv_then_norm, (6, 6, 3), {"kernel": values(3, 3, 3, 4, low=-1), **norm_weights("bn", 4)})


def test_other_outputs_are_refused(tmp_path, monkeypatch):
    folder = small(tmp_path / "was")
    monkeypatch.setattr(norms, "scale_outputs", lambda node, kernel, scale: kernel * scale * 1.01)
    with pytest.raises(
        OptimizeError, match=r"output 'logits' of 'serving_default' would differ by .*, more than .*; nothing is"
    ):
        optimize(folder, tmp_path / "is")
    assert [path.name for path in tmp_path.iterdir()] == ["was"]


def test_an_output_folder_of_somebody_else(tmp_path):
    (tmp_path / "is").mkdir()
    (tmp_path / "is" / "thesis.tex").write_text("precious")
    with pytest.raises(OptimizeError, match="is there and is no SavedModel; it is left alone"):
        optimize(small(tmp_path / "was"), tmp_path / "is")
    with pytest.raises(OptimizeError, match="was is the SavedModel that is read; name another folder by --output"):
        optimize(tmp_path / "was", tmp_path / "was")
    with pytest.raises(OptimizeError, match="weights of int8 cannot be written; --weight_dtype takes one of: float32, float16"):
        optimize(tmp_path / "was", tmp_path / "new", "int8")


def test_missing_weights(tmp_path):
    folder = small(tmp_path / "was")
    (folder / "variables" / "variables.data-00000-of-00001").unlink()
    with pytest.raises(OptimizeError, match=r"was cannot be loaded \(.*\); outputs could not be compared"):
        optimize(folder, tmp_path / "is")
    with pytest.raises(OptimizeError, match=r"the data of variable '.*' is not there; copy variables/ whole"):
        read_network(folder, "serving_default")


def test_images_of_any_size(tmp_path):
    folder = save(tmp_path / "was", lambda x, w: tf.reduce_mean(x, (1, 2)), (None, None, 3))
    with pytest.raises(OptimizeError, match="signature 'serving_default' takes images of any size, and borders depend on it"):
        read_network(folder, "serving_default")


def test_no_signature(tmp_path):
    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / "was"))
    with pytest.raises(OptimizeError, match="was has no signature to optimise; save it with signatures="):
        optimize(tmp_path / "was", tmp_path / "is")


def test_a_fixed_batch_stays(tmp_path):
    module = tf.Module()
    module.kernel = tf.Variable(values(3, 3, 3, 4))
    weights = norm_weights("bn", 4)
    spec = tf.TensorSpec((2, 6, 6, 3), tf.float32, name="x")
    serve = tf.function(lambda x: {"y": norm(tf.nn.conv2d(x, module.kernel, 1, "SAME"), weights, "bn")}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "was"), signatures={"mine": serve})
    assert optimize(tmp_path / "was", tmp_path / "is").steps[3].changed == 1
    found = tf.saved_model.load(str(tmp_path / "is")).signatures
    assert list(found) == ["mine"]
    assert found["mine"].structured_input_signature[1]["x"].shape == (2, 6, 6, 3)
    assert found["mine"].structured_outputs["y"].shape == (2, 6, 6, 4)


def run_tool(*args):
    return programs.start("tools/export.py", *args)


def test_the_tool(tmp_path):
    done = run_tool("--load_folder", small(tmp_path / "was"), "--optimize", "--output", tmp_path / "is")
    assert (done.returncode, done.stderr) == (0, "")
    assert "    1  batch norms folded into convs and dense layers\n" in done.stdout
    assert f"python tools/count.py --diff {tmp_path / 'was'} {tmp_path / 'is'} shows what went" in done.stdout
    wrong = run_tool("--optimize", "--output", tmp_path / "new")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "export.py: --optimize needs --load_folder, an exported SavedModel, and --output, another folder\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50"])
def test_networks_of_others(name, tmp_path):
    keras.utils.set_random_seed(0)
    options = {"alpha": 0.35} if name == "MobileNetV2" else {}
    model = getattr(keras.applications, name)(input_shape=(64, 64, 3), weights=None, classes=10, **options)
    for variable in model.weights:
        if "moving" in variable.name or "bias" in variable.name:
            variable.assign(values(*variable.shape))
    model.export(str(tmp_path / "was"))
    result = optimize(tmp_path / "was", tmp_path / "is")
    count = sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    assert (result.steps[3].changed, result.steps[3].left) == (count, ())
    assert totals(result.after["micronet"]) == totals(result.before["micronet"])
    assert result.card is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    "frenzy wrn_22_6 irnet_a_cifar irnet_c_cifar squeezenet_1_1_cifar resnet_20 microbotnet_x0.32 mobilenet_v1_cifar "
    "mobilenet_v2_cifar mobilenet_v3_small_cifar alexnet_cifar mcdonnell_20_4".split(),
)
def test_the_zoo(name, tmp_path):
    """Random statistics and biases: fresh zeros would be stored as masks."""
    from frenzy import models

    keras.utils.set_random_seed(0)
    model = models.build(name)
    for variable in model.weights:
        if variable.shape.rank == 1:
            variable.assign(values(*variable.shape) * (0.1 if "bias" in variable.name or "beta" in variable.name else 1))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # one batch sets the statistics
    model(RANDOM.normal(size=(16, *model.input_shape[1:])).astype(np.float32), training=True)
    for variable in model.weights:
        if "moving_variance" in variable.name:
            variable.assign(variable + 0.1)
    module = tf.Module()
    module.weights = {v.name: v for v in model.weights}
    spec = tf.TensorSpec(model.inputs[0].shape, tf.float32, name="images")
    serve = tf.function(lambda images: {"logits": model(images, training=False)}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "was"), signatures={"serving_default": serve})
    result = optimize(tmp_path / "was", tmp_path / "is")
    assert totals(result.after["micronet"]) == totals(result.before["micronet"])
    without = accounts(read(tmp_path / "was"), ["micronet-baseline-bn"])["micronet-baseline-bn"].totals.operations
    with_folds = accounts(read(tmp_path / "is"), ["micronet-baseline-bn"])["micronet-baseline-bn"].totals.operations
    folded = sum(step.changed for step in result.steps[2:4])
    assert with_folds < without if folded else with_folds == without  # where every channel and BN in the graph counts

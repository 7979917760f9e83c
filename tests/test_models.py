"""One narrow network of each kind runs forward and backward, at half width, and is exported; details that counts do not show."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from frenzy import models
from frenzy.accounting import account, read
from frenzy.models import alexnet, frenzy, irnet, microbotnet, mobilenet, resnet, squeezenet, wide_resnet
from frenzy.models.conv_bn import divisible
from frenzy.models.macs import count_macs


def first(network, blocks):
    """An inverted-residual network's first blocks."""
    return dataclasses.replace(network, blocks=network.blocks[:blocks])


# one network for each builder and each kind of block, small enough to run on every change
NARROW = {
    "frenzy": lambda: frenzy.build(frenzy.unpruned_rows((4, 8), 1), 10, (8, 8, 3)),
    "frenzy symmetric": lambda: frenzy.build(frenzy.unpruned_rows((4, 8), 1), 10, (8, 8, 3), symmetric_padding=True),
    "wide_resnet": lambda: wide_resnet.build(wide_resnet.wide(1, 1), 10, (16, 16, 3)),
    "wide_resnet fastai": lambda: wide_resnet.build(
        wide_resnet.Rows(8, (8, 16), 2, activated_identity=True, residual_scale=0.2), 10, (16, 16, 3)
    ),
    "mcdonnell": lambda: wide_resnet.build_mcdonnell(wide_resnet.Rows(8, (8, 16), 1), 10, (16, 16, 3)),
    "irnet A, B, C": lambda: irnet.build(
        irnet.of_kind("ABC", (irnet.Row(8), irnet.Row(16, stride=2), irnet.Row(16, repeat=2, stride=2))), 10, (16, 16, 3), 8, 32
    ),
    "microbotnet": lambda: microbotnet.build(0.25),
    "mobilenet_v1": lambda: mobilenet.build_separable(mobilenet.V1[:4], 0.25, 10, (32, 32, 3)),
    "mobilenet_v2": lambda: mobilenet.build_inverted(first(mobilenet.V2, 5), 0.25, 10, (32, 32, 3), delay=2),
    "mobilenet_v3": lambda: mobilenet.build_inverted(first(mobilenet.V3_SMALL, 5), 0.25, 10, (32, 32, 3), delay=2),
    "squeezenet": lambda: squeezenet.build(
        squeezenet.with_bypass(squeezenet.Rows(3, 8, (squeezenet.Fire(4, 8), squeezenet.Pool(), squeezenet.Fire(4, 8))), convs=True),
        10, (32, 32, 3),
    ),
    "resnet zeros": lambda: resnet.build(resnet.Rows((8, 16), 1, "zeros"), 10, (16, 16, 3)),
    "resnet conv": lambda: resnet.build(resnet.Rows((8, 16), 1, "conv", imagenet_stem=True), 10, (32, 32, 3)),
    "alexnet": lambda: alexnet.build(alexnet.Rows(alexnet.CIFAR.convs[:2], dense=(16,)), 10, (32, 32, 3)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _fresh():
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)


def images(model, batch=2):
    return tf.constant(np.random.default_rng(0).normal(size=(batch, *model.input_shape[1:])), tf.float32)


# what holds for all: checked on the narrow ones, and on every member by the slow test below


def check_gradients(model):
    """Training mode runs forward and backward; in inference mode every trainable weight moves the logits."""
    x = images(model)
    for training in (True, False):
        with tf.GradientTape() as tape:
            logits = model(x, training=training)
            loss = tf.reduce_sum(tf.square(logits) + logits)
        assert logits.shape == (2, model.output_shape[-1])
        gradients = tape.gradient(loss, model.trainable_weights)
        for variable, gradient in zip(model.trainable_weights, gradients, strict=True):
            assert gradient is not None, variable.name
            assert np.isfinite(gradient.numpy()).all(), variable.name
            assert training or np.abs(gradient.numpy()).max() > 0, variable.name


def check_mixed_float16(build):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = build()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert all(variable.dtype == tf.float32 for variable in model.weights)
    assert any(layer.compute_dtype == "float16" for layer in model.layers)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(model(images(model), training=True), tf.float32))
    assert all(gradient is not None for gradient in tape.gradient(loss, model.trainable_weights))
    return model


def save(model, folder):
    root = tf.Module()
    root.weights = model.variables
    spec = tf.TensorSpec((None, *model.input_shape[1:]), name="images")
    root.run = tf.function(lambda images: {"logits": model(images, training=False)}, input_signature=[spec])
    tf.saved_model.save(root, str(folder), signatures=root.run)


def check_export(model, folder):
    """The SavedModel gives the model's logits; the accountant knows every node and finds the same MACs."""
    save(model, folder)
    run = tf.saved_model.load(str(folder)).signatures["serving_default"]
    for batch in (1, 3):
        x = images(model, batch)
        wanted = model(x, training=False).numpy()
        np.testing.assert_allclose(run(images=x)["logits"], wanted, rtol=1e-4, atol=1e-4 + 2e-5 * np.abs(wanted).max())
    graph = read(folder)
    report = account(graph, "micronet")
    assert report.unknown == ()
    assert macs(report) == count_macs(model)


def macs(report, ops=("Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2")) -> int:
    return sum(row.multiplies for row in report.rows if row.op in ops)


@pytest.mark.parametrize("name", NARROW)
def test_gradients(name):
    check_gradients(NARROW[name]())


@pytest.mark.parametrize("name", NARROW)
def test_mixed_float16(name):
    model = check_mixed_float16(NARROW[name])
    if not name.startswith("frenzy"):
        assert model(images(model)).dtype == tf.float32  # logits keep full width


@pytest.mark.parametrize(
    "name", [name for name in NARROW if name not in ("frenzy", "microbotnet")]
)  # its accountant's MACs leave out zero channels
def test_export(name, tmp_path):
    check_export(NARROW[name](), tmp_path / "saved")


@pytest.mark.parametrize("name", ["irnet A, B, C", "mobilenet_v3", "resnet zeros"])
def test_keras_file(name, tmp_path):
    model = NARROW[name]()
    model.save(tmp_path / "model.keras")
    x = images(model)
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "model.keras")(x), model(x), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", models.ZOO)
def test_every_member_runs(name, tmp_path):
    model = models.build(name)
    check_gradients(model)
    if not name.startswith("frenzy"):
        check_export(model, tmp_path / "saved")
    del model
    check_mixed_float16(lambda: models.build(name))


def test_irnet_kinds():
    rows = irnet.of_kind("AABBBBCCCC")
    assert [row.kind for row in rows] == list("AABBBBCCCC")
    with pytest.raises(ValueError, match="block kinds 'D'; give one of A, B, C, or 10 of them, one a row"):
        irnet.of_kind("D")
    with pytest.raises(ValueError, match="block kinds 'AB'"):
        irnet.of_kind("AB")


# MicroBotNet

MICROBOTNET = {  # figures of the notes, exported: conv MACs, dense MACs, BN elements
    "microbotnet_x1.00": (4_875_264, 766_240, 83_712),
    "microbotnet_x0.32": (694_144, 88_224, 27_872),
}


@pytest.mark.parametrize("name", [pytest.param("microbotnet_x1.00", marks=pytest.mark.slow), "microbotnet_x0.32"])
def test_microbotnet_counts_of_the_saved_model(name, tmp_path):
    check_export(models.build(name), tmp_path / "saved")
    report = account(read(tmp_path / "saved"), "micronet")
    bn = sum(math.prod(row.output_shape) for row in report.rows if row.op.startswith("FusedBatchNorm"))
    assert (macs(report, ("Conv2D", "DepthwiseConv2dNative")), macs(report, ("MatMul",)), bn) == MICROBOTNET[name]


@pytest.mark.parametrize(("multiplier", "last_stage", "last"), [(0.32, 56, 1024), (1.5, 1296, 1536)])
def test_microbotnet_multiplies_the_last_stage_twice(multiplier, last_stage, last):
    model = microbotnet.build(multiplier)
    assert model.get_layer("last_stage").filters == last_stage == divisible(divisible(576 * multiplier) * multiplier)
    assert model.get_layer("last_conv").filters == last
    assert model.get_layer("last_conv").use_bias is False


def test_microbotnet_refuses():
    with pytest.raises(ValueError, match="multiplier is 0; it must be above 0"):
        microbotnet.build(0)


def conv2d(x, kernel, stride=1, groups=1):
    """A convolution by its definition: (n, h, w, c), kernel (k, k, c / groups, o), (k - 1) / 2 zeros on every side."""
    k, out = kernel.shape[0], kernel.shape[3]
    padded = np.pad(x, [(0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)])
    n, height, width, channels = x.shape
    result = np.zeros((n, -(-height // stride), -(-width // stride), out))
    for row in range(result.shape[1]):
        for column in range(result.shape[2]):
            window = padded[:, row * stride : row * stride + k, column * stride : column * stride + k]
            if groups == 1:
                result[:, row, column] = np.einsum("nhwc,hwco->no", window, kernel)
            else:
                result[:, row, column] = np.einsum("nhwc,hwc->nc", window, kernel[:, :, 0])
    assert groups in (1, channels)
    return result


def block_by_hand(x, row, weights):
    """A MicroBotNet block in NumPy, from its named weights."""

    def bn(x, name):
        gamma, beta, mean, variance = (weights[f"{name}/{w}"] for w in ("gamma", "beta", "moving_mean", "moving_variance"))
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def hard_sigmoid(x):
        return np.clip(x + 3, 0, 6) / 6

    def act(x):
        return x * hard_sigmoid(x) if row.act == "hard_swish" else np.maximum(x, 0)

    y = act(bn(conv2d(x, weights["expand/kernel"]), "expand_bn"))
    kernel = weights["dw/depthwise_kernel"].transpose(0, 1, 3, 2)
    y = bn(conv2d(y, kernel, row.stride, groups=y.shape[3]), "dw_bn")
    if row.se:
        hidden = np.maximum(y.mean((1, 2)) @ weights["se/reduce_kernel"], 0)
        y = y * hard_sigmoid(hidden @ weights["se/expand_kernel"])[:, None, None]
    y = bn(conv2d(act(y), weights["project/kernel"]), "project_bn")
    return y + x if row.stride == 1 and x.shape == y.shape else y


@pytest.mark.parametrize(
    "row", [microbotnet.SMALL[0], microbotnet.SMALL[1], microbotnet.SMALL[2]], ids=["plain", "se stride 2", "residual"]
)
def test_microbotnet_block_by_hand(row):
    random = np.random.default_rng(0)
    row = microbotnet.scaled((row,), 0.25)[0]
    inputs = keras.Input((8, 8, row.out if row.stride == 1 else 8))
    model = keras.Model(inputs, microbotnet._block(inputs, row, "block"))
    for variable in model.weights:
        low = 0.5 if variable.name.endswith("variance:0") else -1.0
        variable.assign(random.uniform(low, 1.5, variable.shape))
    weights = {v.name.removeprefix("block_").removesuffix(":0"): v.numpy() for v in model.weights}
    x = random.normal(size=(2, *model.input_shape[1:]))
    wanted = block_by_hand(x, row, weights)
    np.testing.assert_allclose(model(x), wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


# details that counts do not show


def test_squeezenet_bypasses():
    simple, complex_ = (squeezenet.with_bypass(squeezenet.VERSION_1_0, convs) for convs in (False, True))
    fires = [[row.bypass for row in rows.body if isinstance(row, squeezenet.Fire)] for rows in (simple, complex_)]
    assert fires == [[None, "identity"] * 4, ["conv", "identity"] * 4]  # fire 3, 5, 7, 9; and 2, 4, 6, 8


def test_squeezenet_refuses_sides_of_unequal_parity():
    with pytest.raises(ValueError, match="pool1: 15 rows and 16 columns; both must be even, or both odd"):
        squeezenet.build(squeezenet.VERSION_1_1, 10, (32, 34, 3))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet_1_1"])
def test_small_inputs_downsample_late(name):
    shapes = [layer.output_shape for layer in models.build(f"{name}_cifar").layers[1:]]
    sides = [shape[1] for shape in shapes if len(shape) == 4]
    assert min(sides) >= 4
    assert len([side for side in sides if side == 32]) > 2


@pytest.mark.parametrize(("channels", "rounded"), [(1, 8), (18, 24), (16, 16), (58.88, 56), (184.32, 184), (4.9, 8), (10, 16)])
def test_divisible(channels, rounded):
    assert divisible(channels) == rounded


def test_v2_at_a_width_multiplier_expands_what_it_reads():
    model = mobilenet.build_inverted(first(mobilenet.V2, 5), 0.5, 10, (32, 32, 3))
    for layer in model.layers:
        if layer.name.endswith("_expand"):
            assert layer.filters == 6 * layer.input_shape[-1]


def test_fastai_wiring_scales_the_branch():
    model = NARROW["wide_resnet fastai"]()
    assert model.get_layer("group1_1_scale").scale == 0.2


def test_resnet_refuses():
    with pytest.raises(ValueError, match="depth is 21; a CIFAR ResNet has 6 n \\+ 2 layers"):
        resnet.cifar(21)
    with pytest.raises(ValueError, match="shortcut is 'none'; allowed: 'zeros', 'conv'"):
        resnet.build(resnet.Rows((8,), 1, "none"))

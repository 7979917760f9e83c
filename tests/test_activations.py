"""Quantized feature maps and even grids: values, gradients, ranges that follow and freeze, which maps, what the accountant sees."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from test_wrap import SMALL, images, network

from frenzy import accounting, models
from frenzy.accounting.widths import map_widths
from frenzy.compress import CompressError, FreezeRanges, calibrate, compress, freeze, quantize, strip
from frenzy.compress.activations import (
    FakeQuantize,
    MovingRange,
    fake_quantize,
    feature_maps,
    map_states,
    moved_range,
    unfolded,
)
from frenzy.compress.uniform import Uniform, grid_step, to_grid
from frenzy.layers.squeeze_excite import SqueezeExcite

MAPS = [
    "images", "stem", "block1_relu", "block1_conv", "block1_add", "block2_bn", "block2_se_pool", "block2_se_relu",
    "block2_se_gate", "block2_swish", "pool",
]  # fmt: skip


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


# maths


def test_ranges_move_by_their_share():
    x = tf.constant([[-1.0, 3.0]])
    close(moved_range(0.0, 0.0, x, 1.0), (-1, 3))
    close(moved_range(-2.0, 1.0, x, 0.25), (-2 + 0.25 * 1, 1 + 0.25 * 2))
    close(moved_range(0.0, 0.0, x + 5, 1.0), (0, 8))  # 0 belongs to every range


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_fake_quantization_has_so_many_values(bits):
    x = tf.linspace(-1.0, 2.0, 10_000)
    values = np.unique(fake_quantize(x, 0.0, 1.0, bits))
    assert len(values) == 2**bits
    close(values, np.arange(2**bits) / (2**bits - 1))


def test_gradient_is_one_inside_the_range():
    x = tf.Variable([-0.6, -0.4, 0.0, 0.9, 1.1])
    with tf.GradientTape() as tape:
        value = fake_quantize(x, -0.5, 1.0, 8)
    np.testing.assert_array_equal(tape.gradient(value, x), [0, 1, 1, 1, 0])


def test_grid():
    """127 steps of 1/127, which rounded up to 4 significant bits is 9 / 1024 (8 / 1024 is too short): 0.008789."""
    step = grid_step(tf.constant(1.0), 8)
    assert float(step) == 9 / 1024
    w = tf.Variable([1.0, -0.5, 0.004, 0.005])
    with tf.GradientTape() as tape:
        value = to_grid(tf.convert_to_tensor(w), step, 127.0)
    np.testing.assert_array_equal(value, np.array([114, -57, 0, 1]) * 9 / 1024)
    np.testing.assert_array_equal(tape.gradient(value, w), np.ones(4))
    assert float(grid_step(tf.constant(0.0), 8)) > 0


@pytest.mark.parametrize("peak", [1e-3, 0.25, 0.3333, 1.0, 127 / 128, 127 * 2.0**-9, 5.0])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_grids_are_exact_in_16_bits(peak, bits):
    w = np.linspace(-peak, peak, 2001).astype(np.float32)
    value = Uniform(bits)(tf.constant(w), True, {}).numpy()
    np.testing.assert_array_equal(value, value.astype(np.float16).astype(np.float32))
    assert 2 ** (bits - 1) - 1 <= len(np.unique(value)) <= 2**bits - 1
    assert np.abs(value - w).max() <= float(grid_step(tf.constant(peak), bits)) / 2 * 1.001


# which maps


def test_feature_maps():
    assert feature_maps(unfolded(network())) == MAPS


def test_maps_of_resnet_20():
    """The images, the stem's ReLU, in each block the conv1 ReLU, conv2's BN and the sum's ReLU, and the pool."""
    assert len(feature_maps(models.build("resnet_20"))) == 1 + 1 + 9 * 3 + 1


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_unfolded_squeeze_excite_is_the_same(gate, use_bias):
    inputs = keras.Input((4, 4, 6))
    x = SqueezeExcite(2, gate, use_bias, name="first")(inputs)
    model = keras.Model(inputs, SqueezeExcite(3, gate, use_bias, name="second")(x), name="two")
    for variable in model.weights:
        variable.assign(np.random.default_rng(len(variable.name)).normal(size=variable.shape))
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 6)).astype(np.float32)
    new = unfolded(model)
    np.testing.assert_allclose(new(x), model(x), atol=1e-6)
    assert not any(isinstance(layer, SqueezeExcite) for layer in new.layers)
    assert new.count_params() == model.count_params()


# ranges


def alone(bits: int = 8, decay: float = 0.9):
    """A MovingRange and its variables, outside of any network."""
    quantizer = MovingRange(bits, decay)
    layer = keras.layers.Layer()
    return quantizer, quantizer.build((None, 2), "output", layer)


def test_the_first_batch_sets_the_range_and_later_ones_move_it():
    quantizer, variables = alone(decay=0.9)
    x = tf.constant([[-1.0, 4.0]])
    np.testing.assert_array_equal(quantizer(x * 7, False, variables), x * 7)  # nothing seen: as it is
    quantizer(x, True, variables)
    close((variables["low"], variables["high"]), (-1, 4))
    quantizer(3 * x, True, variables)
    close((variables["low"], variables["high"]), (0.9 * -1 + 0.1 * -3, 0.9 * 4 + 0.1 * 12))
    quantizer(9 * x, False, variables)
    assert int(variables["seen"]) == 2
    assert float(tf.reduce_max(quantizer(9 * x, False, variables))) == pytest.approx(0.9 * 4 + 0.1 * 12, rel=0.01)


def test_ranges_freeze_for_the_last_epochs():
    wrapped = compress(network(), "int8")
    calibrate(wrapped, [images()])
    callback = FreezeRanges(2)
    callback.set_model(wrapped)
    callback.set_params({"epochs": 5})
    frozen = {}
    for epoch in range(5):
        callback.on_epoch_begin(epoch)
        before = {name: (float(v["low"]), float(v["high"])) for name, (_, v) in map_states(wrapped).items()}
        wrapped((epoch + 2) * images(), training=True)
        after = {name: (float(v["low"]), float(v["high"])) for name, (_, v) in map_states(wrapped).items()}
        frozen[epoch] = before == after
    assert frozen == {0: False, 1: False, 2: False, 3: True, 4: True}


def test_calibration_sees_what_inference_sees_and_leaves_the_rest():
    model = network()
    wrapped = quantize(model, None, maps=lambda: MovingRange(8, 0.0))
    assert [name.removesuffix("_map") for name in map_states(wrapped)] == MAPS
    kept = [v.numpy() for layer in wrapped.layers if isinstance(layer, keras.layers.BatchNormalization) for v in layer.weights]
    calibrate(wrapped, [images(), images() / 2])
    now = [v.numpy() for layer in wrapped.layers if isinstance(layer, keras.layers.BatchNormalization) for v in layer.weights]
    assert all(np.array_equal(a, b) for a, b in zip(kept, now, strict=True))
    x = images() / 2  # with a decay of 0 the last batch alone counts
    stem = keras.Model(model.input, model.get_layer("stem").output)(x)
    _, variables = map_states(wrapped)["stem_map"]
    width = float(tf.reduce_max(x) - tf.reduce_min(x)) / 255
    reach = float(tf.reduce_max(tf.reduce_sum(tf.abs(model.get_layer("stem").kernel), (0, 1, 2)))) * width
    assert float(variables["low"]) == pytest.approx(float(tf.reduce_min(stem)), abs=reach)
    assert float(variables["high"]) == pytest.approx(float(tf.reduce_max(stem)), abs=reach)
    assert int(variables["seen"]) == 2
    assert int(variables["observing"]) == 1


def test_eight_bits_change_little_and_two_change_much():
    model = network()
    wanted = model(images()).numpy()
    errors = {}
    for bits in (2, 8):
        wrapped = compress(model, "ttq", SMALL, bits)
        exact = strip(compress(model, "ttq", SMALL))(images()).numpy()
        calibrate(wrapped, [images()])
        errors[bits] = np.abs(strip(wrapped)(images()) - exact).max()
    assert 0 < errors[8] < 0.1 * np.abs(wanted).max()
    assert errors[2] > 4 * errors[8]


# what the accountant sees


def test_every_product_of_an_exported_network_reads_eight_bits(tmp_path):
    wrapped = compress(network(), "int8")
    calibrate(wrapped, [images()])
    plain = strip(wrapped)
    assert sum(isinstance(layer, FakeQuantize) for layer in plain.layers) == len(MAPS)
    root = tf.Module()
    root.model = plain
    spec = tf.TensorSpec((None, 8, 8, 3), tf.float32, name="images")
    root.__call__ = tf.function(lambda x: plain(x, training=False), input_signature=[spec])
    tf.saved_model.save(root, str(tmp_path / "m"), signatures={})
    graph = accounting.read(str(tmp_path / "m"))
    width = map_widths(graph)
    quantizers = [node for node in graph.nodes.values() if node.op == "FakeQuantWithMinMaxVars"]
    assert len(quantizers) == len(MAPS)
    assert all(node.attrs["num_bits"] == 8 for node in quantizers)
    products = [n for n in graph.nodes.values() if n.op in ("Conv2D", "DepthwiseConv2dNative", "MatMul")]
    assert len(products) == 6
    for node in products:
        assert width(node.inputs[0]).bits == 8, node.name


# bad input


def test_a_range_that_saw_nothing():
    wrapped = compress(network(), "int8")
    expected = "small: the range of map 'images_map' is not known, no batch reached it; calibrate or train first"
    for act in (strip, freeze, lambda model: calibrate(model, [])):
        with pytest.raises(CompressError, match=expected):
            act(wrapped)


def test_a_range_of_no_numbers():
    wrapped = compress(network(), "int8")
    calibrate(wrapped, [images()])
    map_states(wrapped)["stem_map"][1]["high"].assign(float("nan"))
    with pytest.raises(
        CompressError, match=r"small: the range of map 'stem_map' is -\d.* to nan; start again at a lower learning rate"
    ):
        strip(wrapped)


def test_nothing_to_calibrate():
    with pytest.raises(CompressError, match="small has no quantized maps to calibrate; wrap it with map_bits of 2 to 8"):
        calibrate(network(), [images()])


def test_bad_settings():
    with pytest.raises(CompressError, match="bits is 0; allowed: 2 to 8"):
        MovingRange(0)
    with pytest.raises(CompressError, match=r"decay is 1\.0; it must be at least 0 and below 1: 0\.99, say"):
        MovingRange(8, 1.0)

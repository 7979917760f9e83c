"""One-bit weights: hysteresis through its loop, scales, gradients, state through checkpoints; McDonnell's constants."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from test_wrap import SMALL, network, stepper

from frenzy.compress import CompressError, compress, strip
from frenzy.compress.binary import Hysteresis, McDonnell, binarize, binary_value, mean_magnitude, sign
from frenzy.compress.tensors import channel_axis, fan_in
from frenzy.compress.wrap import quantize
from frenzy.data.split import make
from frenzy.layers.cond_conv import CondConv2D, CondDepthwiseConv2D
from frenzy.training import fit, run
from frenzy.training.recipe import Recipe


def test_the_loop():
    """Up and down with h = 0.1: signs flip at +0.1 and -0.1, not at 0; on the threshold they flip."""
    path = [0.05, -0.05, -0.099, -0.1, -0.05, 0.05, 0.099, 0.1, 0.0, -0.2]
    states, state = [], sign(tf.constant([0.05]))
    for w in path:
        state = binarize(tf.constant([w]), state, 0.1)
        states.append(float(state[0]))
    assert states == [1, 1, 1, -1, -1, -1, -1, 1, 1, -1]


def test_both_branches_meet_different_weights():
    w, state = tf.constant([0.05, 0.05, 0.2, -0.2]), tf.constant([1.0, -1.0, -1.0, 1.0])
    np.testing.assert_array_equal(binarize(w, state, 0.1), [1, -1, 1, -1])
    np.testing.assert_array_equal(binarize(w, state, 0.0), [1, 1, 1, -1])  # without a threshold: the sign


def test_sign_of_zero_is_plus():
    np.testing.assert_array_equal(sign(tf.constant([-0.5, 0.0, 0.5])), [-1, 1, 1])


def test_value_and_gradient():
    w, state = tf.Variable([0.5, -0.1]), tf.constant([1.0, 1.0])
    with tf.GradientTape() as tape:
        value = binary_value(tf.convert_to_tensor(w), state, mean_magnitude(tf.convert_to_tensor(w), None))
    np.testing.assert_allclose(value, [0.3, 0.3])  # (0.5 + 0.1) / 2
    np.testing.assert_array_equal(tape.gradient(value, w, output_gradients=tf.constant([2.0, -3.0])), [2, -3])


def test_scales_per_channel():
    w = tf.constant([[1.0, -2.0], [-3.0, 4.0]])
    assert mean_magnitude(w, None) == (1 + 2 + 3 + 4) / 4
    np.testing.assert_allclose(mean_magnitude(w, 1), [[(1 + 3) / 2, (2 + 4) / 2]])


@pytest.mark.parametrize(
    ("layer", "shape", "products", "axis"),
    [
        (keras.layers.Conv2D(4, 3), (3, 3, 5, 4), 3 * 3 * 5, 3),
        (keras.layers.DepthwiseConv2D(3), (3, 3, 4, 1), 3 * 3, 2),
        (keras.layers.Dense(4), (7, 4), 7, 1),
        (CondConv2D(6, 3, 2), (2, 3, 3, 5, 6), 3 * 3 * 5, 4),
        (CondDepthwiseConv2D(3, 2), (2, 3, 3, 5), 3 * 3, 3),
    ],
)
def test_how_shapes_are_read(layer, shape, products, axis):
    assert fan_in(layer, shape) == products
    assert channel_axis(layer, len(shape)) == axis


def quantized_layer(wrapped: keras.Model, name: str):
    ((weight, quantizer, variables),) = wrapped.get_layer(name)._weight_vars
    return weight, quantizer, variables


def test_state_follows_training_alone():
    """The latent weights are pushed about; the state moves in training steps, and inference uses what they left."""
    wrapped = compress(network(), "hysteresis", SMALL, 0, threshold=0.1)
    latent, quantizer, variables = quantized_layer(wrapped, "block1_conv")
    start = np.where(latent.numpy() < 0, -1, 1)
    np.testing.assert_array_equal(variables["state"], start)
    for value, expected in [(-0.05, start), (-0.1, -1), (0.05, -1), (0.1, 1), (-0.0999, 1)]:
        latent.assign(tf.fill(latent.shape, value))
        found = quantizer(latent, True, weights=variables)
        state = np.broadcast_to(expected, latent.shape)
        np.testing.assert_allclose(found, abs(value) * state, rtol=1e-5)
        latent.assign(tf.fill(latent.shape, 0.5))
        np.testing.assert_allclose(quantizer(latent, False, weights=variables), 0.5 * state)
        np.testing.assert_array_equal(variables["state"], state)


def test_a_threshold_relative_to_the_deviation():
    wrapped = quantize(network(), lambda: Hysteresis(1.5, relative=True), SMALL)
    latent, quantizer, variables = quantized_layer(wrapped, "block1_conv")
    for values, expected in [((0.0, 0.02), (-1, 1)), ((-0.01, 0.01), (-1, -1))]:  # deviations of 0.01: h is 0.015
        latent.assign(np.resize(values, latent.shape))
        variables["state"].assign(-tf.ones(latent.shape))
        quantizer(latent, True, weights=variables)
        np.testing.assert_array_equal(variables["state"], np.resize(expected, latent.shape))


def test_depthwise_channels_have_scales_of_their_own():
    plain = strip(quantize(network(), lambda: Hysteresis(per_channel=True), SMALL))
    kernel, latent = (model.get_layer("block2_dw").get_weights()[0] for model in (plain, network()))
    np.testing.assert_allclose(np.abs(kernel[..., 0]), np.broadcast_to(np.abs(latent).mean((0, 1, 3)), (3, 3, 8)), rtol=1e-6)


def test_mcdonnell_is_a_constant_times_the_sign():
    model = network()
    plain = strip(compress(model, "mcdonnell"))
    for name, products in (("stem", 3 * 3 * 3), ("block1_conv", 3 * 3 * 4), ("block2_dw", 3 * 3)):
        latent, value = (each.get_layer(name).get_weights()[0] for each in (model, plain))
        np.testing.assert_allclose(value, math.sqrt(2 / products) * np.where(latent < 0, -1, 1), rtol=1e-6)
    np.testing.assert_array_equal(plain.get_layer("logits").kernel, model.get_layer("logits").kernel)


def test_the_gradient_passes_mcdonnells_sign():
    wrapped = compress(network(), "mcdonnell")
    weight, quantizer, variables = quantized_layer(wrapped, "stem")
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(quantizer(weight, True, weights=variables) * 3.0)
    np.testing.assert_array_equal(tape.gradient(value, weight), tf.fill(weight.shape, 3.0))


@pytest.mark.parametrize("quantizer", [Hysteresis(0.5, relative=True, per_channel=True), McDonnell()])
def test_quantizers_round_trip(quantizer):
    copy = keras.utils.deserialize_keras_object(keras.utils.serialize_keras_object(quantizer))
    assert (type(copy), copy.get_config()) == (type(quantizer), quantizer.get_config())


def test_bad_threshold():
    with pytest.raises(CompressError, match="threshold is -1; it must be 0 or more"):
        Hysteresis(-1)


# state through a run that is cut off


class StopError(Exception):
    """The plug is pulled."""


class StopAfter(keras.callbacks.Callback):
    def __init__(self, updates: int):
        super().__init__()
        self.left = updates

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise StopError


@pytest.mark.parametrize(
    ("method", "map_bits"),
    [("hysteresis", 0), pytest.param("ttq", 8, marks=pytest.mark.slow)],
    ids=["hysteresis", "ttq with maps"],
)
def test_a_resumed_run_ends_with_the_same_state(tmp_path, method, map_bits):
    """Two epochs of four steps at once, and cut off after three: weights, signs, scales and ranges are equal to the bit."""
    random = np.random.default_rng(0)
    split = make(random.integers(0, 256, (32, 8, 8, 3)).astype(np.uint8), np.arange(32) % 5, tuple("abcde"))
    recipe = Recipe(network="small", dataset="none", epochs=2, batch_size=8, peak_lr=0.2, augmentation="none")

    def trained(folder, stop=None):
        wrapped = compress(network(), method, SMALL, map_bits)
        for resume in (False, True) if stop else (False,):
            record = run.Run(tmp_path / folder, recipe, {"data_sha256": split.sha256}, resume)
            try:
                fit.fit(wrapped, split, recipe, record, [StopAfter(stop)] if stop and not resume else (), save_every=1)
            except StopError:
                wrapped = compress(network(seed=1), method, SMALL, map_bits)
        return wrapped

    whole, resumed = trained("whole"), trained("resumed", 3)
    for one, other in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.name)
    assert any("state" in v.name or "scale" in v.name for v in whole.weights)
    start = compress(network(), method, SMALL, map_bits)
    assert any(not np.array_equal(a, b) for a, b in zip(start.weights, whole.weights, strict=True))


def test_steps_move_signs():
    wrapped = quantize(network(), lambda: Hysteresis(0.001), SMALL)
    _, _, variables = quantized_layer(wrapped, "block1_conv")
    before = variables["state"].numpy()
    _, step = stepper(wrapped, rate=1.0)
    for _ in range(3):
        step()
    flipped = (variables["state"].numpy() != before).mean()
    assert 0 < flipped < 1
    assert set(np.unique(variables["state"])) == {-1.0, 1.0}

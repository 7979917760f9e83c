"""Trained ternary quantization: zones, values and every gradient against the formulas, and the scales in training."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from test_wrap import SMALL, images, network, stepper

from frenzy.compress import CompressError, compress, strip
from frenzy.compress.ternary import TTQ, OneNegativeOne, delta, ternarize, ternary_value, zone_mean

W = tf.constant([[1.0, 0.5, 0.1], [0.0, -0.1, -0.8]])  # max|w| = 1: with t = 0.2 delta is 0.2
G = tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def test_zones():
    np.testing.assert_array_equal(ternarize(W, 0.2), [[1, 1, 0], [0, 0, -1]])
    np.testing.assert_array_equal(ternarize(W, 0.5), [[1, 0, 0], [0, 0, -1]])  # at the threshold: zero
    np.testing.assert_array_equal(ternarize(W, 0.0), [[1, 1, 1], [0, -1, -1]])
    assert delta(-2 * W, 0.25) == 0.25 * 2


def test_values():
    np.testing.assert_allclose(ternary_value(W, 3.0, 2.0, 0.2), [[3, 3, 0], [0, 0, -2]])


def gradients(wp: float, wn: float):
    variables = [tf.Variable(W), tf.Variable(wp), tf.Variable(wn)]
    with tf.GradientTape() as tape:
        value = ternary_value(*map(tf.convert_to_tensor, variables), 0.2)
    return tape.gradient(value, variables, output_gradients=G)


def test_gradients_are_the_formulas():
    dw, dwp, dwn = gradients(3.0, 2.0)
    np.testing.assert_allclose(dw, [[3 * 1, 3 * 2, 1 * 3], [1 * 4, 1 * 5, 2 * 6]])
    assert dwp == 1 + 2
    assert dwn == -6  # minus the sum over what is below -delta


def test_gradients_of_the_scales_are_differences():
    """The value is linear in Wp and Wn, so a difference of any width is the derivative."""

    def loss(wp, wn):
        return float(tf.reduce_sum(G * ternary_value(W, wp, wn, 0.2)))

    _, dwp, dwn = gradients(3.0, 2.0)
    assert float(dwp) == pytest.approx(loss(4.0, 2.0) - loss(3.0, 2.0), abs=1e-5)
    assert float(dwn) == pytest.approx(loss(3.0, 3.0) - loss(3.0, 2.0), abs=1e-5)


def test_wn_moves_the_right_way():
    """Weights of -0.8 that ought to be -2: Wn grows from 0.8, step by step, to 2."""
    wn, w = tf.Variable(0.8), tf.constant([1.0, -0.8, -0.8])
    seen = [0.8]
    for _ in range(40):
        with tf.GradientTape() as tape:
            value = ternary_value(w, tf.constant(1.0), tf.convert_to_tensor(wn), 0.2)
            loss = tf.reduce_sum((value - [1.0, -2.0, -2.0]) ** 2)
        wn.assign_sub(0.1 * tape.gradient(loss, wn))
        seen.append(float(wn))
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(2.0, abs=1e-4)


def test_scales_start_at_the_mean_of_their_zone():
    assert float(zone_mean(W, 0.2, 1)) == pytest.approx((1 + 0.5) / 2)
    assert float(zone_mean(W, 0.2, -1)) == pytest.approx(0.8)
    assert zone_mean(tf.abs(W), 0.2, -1) == 1.0  # nothing is there


def test_a_network_trains_and_strips_to_three_values():
    model = network()
    wrapped = compress(model, "ttq", SMALL, threshold=0.3)
    layer = wrapped.get_layer("block1_conv")
    scales = {v.name.split("/")[-1]: v for v in layer.trainable_variables}
    kernel = tf.convert_to_tensor(model.get_layer("block1_conv").kernel)
    assert float(scales["positive_scale:0"]) == pytest.approx(float(zone_mean(kernel, 0.3, 1)))
    assert float(scales["negative_scale:0"]) == pytest.approx(float(zone_mean(kernel, 0.3, -1)))
    started = {name: v.numpy() for name, v in scales.items()}
    _, step = stepper(wrapped)
    step()
    for name, variable in scales.items():
        assert not np.array_equal(variable, started[name]), name
    wp, wn, latent = (scales[f"{name}:0"].numpy() for name in ("positive_scale", "negative_scale", "kernel"))
    value = strip(wrapped).get_layer("block1_conv").kernel.numpy()
    limit = 0.3 * np.abs(latent).max()
    np.testing.assert_array_equal(value, np.where(latent > limit, wp, np.where(latent < -limit, -wn, 0)))
    assert len(np.unique(value)) == 3


def test_one_negative_one_has_no_scales():
    wrapped = compress(network(), "one_negative_one", SMALL)
    assert len(wrapped.trainable_variables) == len(network().trainable_variables)
    kernels = [v.numpy() for v in strip(wrapped).weights if "kernel" in v.name and v.name.startswith("block")]
    assert len(kernels) == 4
    assert all(set(np.unique(kernel)) <= {-1.0, 0.0, 1.0} for kernel in kernels)


@pytest.mark.parametrize("quantizer", [TTQ, OneNegativeOne])
def test_quantizers_round_trip(quantizer):
    copy = keras.utils.deserialize_keras_object(keras.utils.serialize_keras_object(quantizer(0.125)))
    assert type(copy) is quantizer
    assert copy.get_config() == {"threshold": 0.125}
    with pytest.raises(
        CompressError, match=r"threshold is 1\.0; of the largest weight it must be at least 0 and below 1: 0\.05"
    ):
        quantizer(1.0)


def test_inference_equals_training_for_the_same_weights():
    """BN aside, which has batch statistics in training: the quantized kernel itself."""
    wrapped = compress(network(), "ttq", SMALL)
    ((weight, quantizer, variables),) = wrapped.get_layer("block2_dw")._weight_vars
    np.testing.assert_array_equal(quantizer(weight, True, weights=variables), quantizer(weight, False, weights=variables))
    assert np.isfinite(wrapped(images())).all()

"""Every layer with state or maths of its own keeps one contract; their maths is checked against plain definitions."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from frenzy.layers import activations, channels, cond_conv, squeeze_excite, subsample

SHAPE = (6, 5, 8)  # rows, columns and channels differ, so that swapped axes show

# name -> (layer, shapes of its inputs without the batch)
LAYERS = {
    "HardSigmoid": (activations.HardSigmoid, [SHAPE]),
    "HardSwish": (activations.HardSwish, [SHAPE]),
    "Subsample": (lambda: subsample.Subsample(2), [SHAPE]),
    "ZeroPadChannels": (lambda: channels.ZeroPadChannels(3), [SHAPE]),
    "SqueezeExcite": (squeeze_excite.SqueezeExcite, [SHAPE]),
    "SqueezeExcite hard": (lambda: squeeze_excite.SqueezeExcite(2, "hard_sigmoid", use_bias=False), [SHAPE]),
    "SqueezeExcite hidden": (lambda: squeeze_excite.SqueezeExcite(hidden=3), [SHAPE]),
    "Routing": (lambda: cond_conv.Routing(4), [SHAPE]),
    "CondConv2D 1x1": (lambda: cond_conv.CondConv2D(7, 1, 4), [SHAPE, (4,)]),
    "CondConv2D 3x3": (lambda: cond_conv.CondConv2D(7, 3, 4, stride=2, padding="valid"), [SHAPE, (4,)]),
    "CondDepthwiseConv2D": (lambda: cond_conv.CondDepthwiseConv2D(3, 4, stride=2), [SHAPE, (4,)]),
}


@pytest.fixture(autouse=True)
def _seeded():
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)


def randoms(shapes, batch=2, dtype="float32"):
    random = np.random.default_rng(0)
    return [tf.constant(random.normal(size=(batch, *shape)), dtype) for shape in shapes]


def model_of(layer, shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, layer(inputs[0] if len(inputs) == 1 else inputs))


def call(model, arrays):
    return model(arrays[0] if len(arrays) == 1 else arrays)


def check_layer(make, shapes, folder):
    """Config round trip, build, dtype, output shape, one training step, SavedModel and .keras reload with equal output."""
    layer = make()
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(copy) is type(layer)
    assert copy.get_config() == layer.get_config()
    assert keras.utils.get_registered_name(type(layer)) == f"frenzy>{type(layer).__name__}"

    model, arrays = model_of(layer, shapes), randoms(shapes)
    out = call(model, arrays)
    assert out.dtype == tf.float32
    full = [(2, *shape) for shape in shapes]
    assert tuple(layer.compute_output_shape(full[0] if len(full) == 1 else full)) == tuple(out.shape)
    assert tuple(model.output_shape[1:]) == tuple(out.shape[1:])

    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(call(model, arrays) - 1.0))
    for variable, gradient in zip(layer.trainable_weights, tape.gradient(loss, layer.trainable_weights), strict=True):
        assert np.abs(gradient.numpy()).max() > 0, variable.name
        variable.assign_sub(0.01 * gradient)
    if layer.trainable_weights:
        assert tf.reduce_mean(tf.square(call(model, arrays) - 1.0)) < loss

    check_reload(model, shapes, folder)


def check_reload(model, shapes, folder):
    specs = [tf.TensorSpec((None, *shape)) for shape in shapes]
    root = tf.Module()
    root.model, root.run = model, tf.function(lambda *arrays: call(model, arrays), input_signature=specs)
    tf.saved_model.save(root, str(folder / "saved"))
    model.save(folder / "model.keras")
    loaded, keras_file = tf.saved_model.load(str(folder / "saved")), keras.models.load_model(folder / "model.keras")
    for batch in (1, 3):
        arrays = randoms(shapes, batch)
        wanted = call(model, arrays).numpy()
        np.testing.assert_allclose(loaded.run(*arrays).numpy(), wanted, atol=1e-5)
        np.testing.assert_allclose(call(keras_file, arrays).numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_contract(name, tmp_path):
    check_layer(*LAYERS[name], tmp_path)


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def half(request):
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param.removeprefix("mixed_")
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("name", LAYERS)
def test_mixed_precision(name, half):
    make, shapes = LAYERS[name]
    layer = make()
    arrays = randoms(shapes)
    out = layer(arrays[0] if len(arrays) == 1 else arrays)
    assert out.dtype == half
    assert all(variable.dtype == tf.float32 for variable in layer.weights)
    keras.mixed_precision.set_global_policy("float32")
    full = model_of(make(), shapes)
    full.set_weights(layer.get_weights())
    wanted = call(full, arrays)
    np.testing.assert_allclose(tf.cast(out, tf.float32), wanted, atol=0.1, rtol=0.1)


# activations


def test_hard_activations():
    x = np.array([-4.0, -3.0, -1.5, 0.0, 1.5, 3.0, 4.0], np.float32)
    gate = np.array([0, 0, 1.5 / 6, 3 / 6, 4.5 / 6, 1, 1], np.float32)
    np.testing.assert_allclose(activations.hard_sigmoid(x), gate, rtol=1e-6)
    np.testing.assert_allclose(activations.hard_swish(x), x * gate, rtol=1e-6)


def test_hard_sigmoid_is_not_the_one_of_keras():
    assert activations.hard_sigmoid(tf.constant(2.0)).numpy() == pytest.approx(5 / 6)
    assert keras.activations.hard_sigmoid(tf.constant(2.0)).numpy() == pytest.approx(0.2 * 2 + 0.5)


@pytest.mark.parametrize("name", sorted(activations.ACTIVATIONS))
def test_activation_layers_compute_their_function(name):
    x = randoms([SHAPE])[0] * 4
    np.testing.assert_allclose(activations.layer(name, "act")(x), activations.function(name)(x), rtol=1e-6)


def test_unknown_activation():
    with pytest.raises(ValueError, match=r"no activation 'gelu'; known: hard_sigmoid, hard_swish, relu, relu6, sigmoid"):
        activations.layer("gelu", "act")


# squeeze and excite


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
def test_squeeze_excite_is_its_formula(gate):
    layer = squeeze_excite.SqueezeExcite(2, gate)
    x = randoms([SHAPE])[0].numpy()
    layer.build(x.shape)
    layer.set_weights([np.random.default_rng(1).normal(size=w.shape) for w in layer.weights])
    a, a_bias, b, b_bias = layer.get_weights()
    hidden = np.maximum(x.mean((1, 2)) @ a + a_bias, 0)
    scores = hidden @ b + b_bias
    gates = 1 / (1 + np.exp(-scores)) if gate == "sigmoid" else np.clip(scores + 3, 0, 6) / 6
    np.testing.assert_allclose(layer(x), x * gates[:, None, None, :], rtol=1e-4, atol=1e-5)


def test_squeeze_excite_weights():
    layer = squeeze_excite.SqueezeExcite(4)
    layer.build((None, 8, 8, 96))
    assert layer.count_params() == 2 * 96 * 96 // 4 + 96 // 4 + 96  # 2 Ne^2 / R and biases


def test_squeeze_excite_refuses():
    with pytest.raises(ValueError, match=r"se: 6 channels do not divide by the reduction of 4; give 'hidden' instead"):
        squeeze_excite.SqueezeExcite(4, name="se").build((None, 2, 2, 6))
    with pytest.raises(ValueError, match="no activation 'soft'"):
        squeeze_excite.SqueezeExcite(gate="soft")
    with pytest.raises(ValueError, match="reduction is 0 and hidden None; both must be 1 or more"):
        squeeze_excite.SqueezeExcite(0)


# conditional convolutions


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(1, 1, "same"), (1, 2, "same"), (3, 1, "same"), (3, 2, "valid"), (5, 2, "same")]
)
def test_cond_conv_is_the_sum_over_experts(kernel, stride, padding):
    x, routing = randoms([SHAPE, (4,)], batch=3)
    layer = cond_conv.CondConv2D(7, kernel, 4, stride=stride, padding=padding)
    out = layer([x, routing])
    experts = [tf.nn.conv2d(x, layer.kernel[m], stride, padding.upper()) for m in range(4)]
    wanted = sum(routing[:, m, None, None, None] * experts[m] for m in range(4))
    np.testing.assert_allclose(out, wanted, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, "same"), (3, 2, "valid"), (5, 2, "same")])
def test_depthwise_cond_conv_is_the_sum_over_experts(kernel, stride, padding):
    x, routing = randoms([SHAPE, (4,)], batch=3)
    layer = cond_conv.CondDepthwiseConv2D(kernel, 4, stride=stride, padding=padding)
    out = layer([x, routing])
    strides = (1, stride, stride, 1)
    experts = [tf.nn.depthwise_conv2d(x, layer.kernel[m][..., None], strides, padding.upper()) for m in range(4)]
    wanted = sum(routing[:, m, None, None, None] * experts[m] for m in range(4))
    np.testing.assert_allclose(out, wanted, atol=1e-4)


def test_routing_is_its_formula():
    layer = cond_conv.Routing(4)
    x = randoms([SHAPE])[0]
    out = layer(x)
    kernel, bias = layer.get_weights()
    np.testing.assert_allclose(out, 1 / (1 + np.exp(-(x.numpy().mean((1, 2)) @ kernel + bias))), rtol=1e-5)
    assert layer.count_params() == 8 * 4 + 4  # Ni M + M


@pytest.mark.parametrize("make", [lambda: cond_conv.CondConv2D(64, 3, 4), lambda: cond_conv.CondDepthwiseConv2D(3, 4)])
def test_experts_are_drawn_apart_with_the_fans_of_one_kernel(make):
    layer = make()
    layer([tf.zeros((1, 4, 4, 64)), tf.zeros((1, 4))])
    experts = layer.kernel.numpy()
    fan_in = 9 * 64 if experts.ndim == 5 else 9
    for m in range(4):
        assert experts[m].std() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
        assert all(not np.allclose(experts[m], experts[other]) for other in range(m))


def test_a_seeded_initializer_counts_up():
    initialize = cond_conv.each_expert(keras.initializers.HeNormal(seed=5))
    experts = initialize((2, 3, 3, 4, 4), tf.float32)
    np.testing.assert_array_equal(experts[1], keras.initializers.HeNormal(seed=6)((3, 3, 4, 4)))


def test_cond_conv_refuses():
    with pytest.raises(ValueError, match="mixed: routing for 3 experts, but there are 4; make both equal"):
        cond_conv.CondConv2D(7, 1, 4, name="mixed")([tf.zeros((1, 4, 4, 8)), tf.zeros((1, 3))])
    with pytest.raises(ValueError, match="padding is 'full'; allowed: 'same', 'valid'"):
        cond_conv.CondConv2D(7, 1, 4, padding="full")
    with pytest.raises(ValueError, match="kernel_size 3, experts 0, stride 1; each must be 1 or more"):
        cond_conv.CondDepthwiseConv2D(3, 0)
    with pytest.raises(ValueError, match="experts is 0; it must be 1 or more"):
        cond_conv.Routing(0)


# the rest


def test_subsample_takes_every_second_pixel():
    x = randoms([SHAPE])[0]
    np.testing.assert_array_equal(subsample.Subsample(2)(x), x.numpy()[:, ::2, ::2])
    with pytest.raises(ValueError, match="stride is 0; it must be 1 or more"):
        subsample.Subsample(0)


def test_zero_pad_channels():
    x = randoms([SHAPE])[0].numpy()
    out = channels.ZeroPadChannels(3)(x).numpy()
    np.testing.assert_array_equal(out[..., :8], x)
    assert not out[..., 8:].any()
    with pytest.raises(ValueError, match="cannot pad by -1 channels; 'after' must be 0 or more"):
        channels.ZeroPadChannels(-1)

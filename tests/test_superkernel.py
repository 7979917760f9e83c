"""Superkernels against plain definitions: norms, masks, gradients, and the small convolutions that they stand for."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from test_layers import check_layer

from frenzy import stateless
from frenzy.layers import indicators, live
from frenzy.layers.indicators import Indicators
from frenzy.layers.superkernel import SuperKernelConv2D, SuperKernelDepthwiseConv2D
from frenzy.training.step import is_kernel

FRACTIONS = (0.25, 0.5, 1.0)
SHAPE = (6, 5, 4)


@pytest.fixture(autouse=True)
def _seeded():
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)


def randoms(*shape, dtype="float32"):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


# maths


def test_an_indicator_is_exact_and_has_the_gradient_of_a_sigmoid():
    x = tf.constant([-2.0, -1e-6, 0.0, 0.3, 5.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = indicators.indicator(x)
    assert y.numpy().tolist() == [0, 0, 1, 1, 1]
    s = 1 / (1 + np.exp(-x.numpy().astype(np.float64)))
    np.testing.assert_allclose(tape.gradient(y, x), s * (1 - s), rtol=1e-5)


def test_nested_options_count_if_all_before_them_do():
    assert indicators.nested(tf.constant([1.0, 0.0, 1.0])).numpy().tolist() == [1, 1, 0, 0]
    assert indicators.nested(tf.zeros(0)).numpy().tolist() == [1]


@pytest.mark.parametrize(
    ("channels", "fractions", "expected"),
    [(16, (0.1, 0.25, 0.5, 1), (2, 4, 8, 16)), (200, (0.1, 0.25, 0.5, 1), (20, 50, 100, 200)), (3, (0.1, 0.25, 1), (1, 3))],
)
def test_widths_are_rounded_fractions_each_once(channels, fractions, expected):
    assert indicators.widths_of(channels, fractions) == expected


def test_norms_are_root_mean_squares_of_the_groups():
    """A 3x5 kernel of 4 -> 8 channels: rows at distance 1; columns at 1 and 2; channels 2..4 and 4..8 of what those leave."""
    kernel, widths = randoms(3, 5, 4, 8, dtype="float64"), (2, 4, 8)
    thresholds = Indicators(
        tf.constant([9.0], tf.float64), tf.constant([0, 9.0], tf.float64), tf.constant([0.5, 0.7], tf.float64)
    )
    margins, found = indicators.decide(tf.constant((kernel**2).sum(2)), 4, thresholds, widths)

    def rms(part):
        return np.sqrt((part**2).mean())

    np.testing.assert_allclose(margins.rows, [rms(kernel[[0, 2]]) - 9])
    np.testing.assert_allclose(margins.columns, [rms(kernel[:, [1, 3]]), rms(kernel[:, [0, 4]]) - 9])
    left = kernel[1:2, 1:4]  # the middle row, and columns up to distance 1
    np.testing.assert_allclose(margins.width, [rms(left[..., 2:4]) - 0.5, rms(left[..., 4:]) - 0.7])
    assert [each.numpy().tolist() for each in found[:2]] == [[0], [1, 0]]
    assert indicators.spatial_mask(found, (3, 5)).numpy().tolist() == [[0] * 5, [0, 1, 1, 1, 0], [0] * 5]


def test_gradients_are_those_of_the_relaxed_form():
    """Central differences of the form whose indicators move along the sigmoid from where they are, in float64."""
    kernel, widths, inputs = 0.3 * randoms(3, 3, 2, 4, dtype="float64"), (1, 2, 4), 2
    start = [kernel, *(np.array(each, np.float64) for each in ([0.2], [0.9], [0.1, 0.4]))]
    weights = tf.constant(randoms(3, 3, 2, 4, dtype="float64"))

    def value(arrays, step):
        kernel, *thresholds = arrays
        _, found = indicators.decide(tf.reduce_sum(tf.square(kernel), 2), inputs, Indicators(*thresholds), widths, step)
        mask, wide = indicators.spatial_mask(found, (3, 3)), indicators.live_channels(found, widths)
        cost = tf.reduce_sum(mask) * tf.reduce_sum(wide)
        return tf.reduce_sum(weights * kernel * mask[:, :, None, None] * wide) + 0.1 * cost

    points: list[np.ndarray] = []

    def remembered(x):
        points.append(x.numpy())
        return indicators.indicator(x)

    variables = [tf.Variable(each) for each in start]
    with tf.GradientTape() as tape:
        loss = value([tf.convert_to_tensor(v) for v in variables], remembered)
    gradients = tape.gradient(loss, variables)

    def relaxed(arrays):
        at = iter(points)

        def step(x):
            x0 = next(at)
            return (x0 >= 0).astype(np.float64) - tf.sigmoid(x0) + tf.sigmoid(x)

        return float(value([tf.constant(each) for each in arrays], step))

    for number, gradient in enumerate(gradients):
        found = np.zeros_like(start[number])
        for place in np.ndindex(found.shape):
            ends = []
            for change in (1e-6, -1e-6):
                moved = [each.copy() for each in start]
                moved[number][place] += change
                ends.append(relaxed(moved))
            found[place] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(gradient, found, atol=1e-7)
        assert np.abs(found).max() > 1e-3


# layers


@pytest.mark.parametrize(
    "make",
    [
        lambda: SuperKernelConv2D(8, (3, 5), FRACTIONS, strides=2, use_bias=True),
        lambda: SuperKernelConv2D(8, 2, FRACTIONS, search_kernel=False, padding="valid"),
        lambda: SuperKernelDepthwiseConv2D((5, 3), strides=2, use_bias=True),
    ],
    ids=["3x5/2", "2x2 as it is", "depthwise"],
)
def test_contract(make, tmp_path):
    check_layer(make, [SHAPE], tmp_path)


PAIRS = list(itertools.product((1, 3), (1, 3, 5)))


@pytest.mark.parametrize(("stride", "size"), [(1, (7, 6)), (2, (8, 8)), (2, (7, 6)), (3, (8, 8))])
def test_masked_equals_the_small_convolution(stride, size):
    """Every kernel, every width: what is cut off is exactly 0, the rest is Conv2D's, symmetrically padded; cost() is its cost."""
    x = tf.constant(randoms(2, *size, 4))
    layer = SuperKernelConv2D(8, (3, 5), FRACTIONS, strides=stride, use_bias=True)
    y = layer(x)
    layer.bias.assign(randoms(8))
    for number, (kernel, width) in enumerate(itertools.product(PAIRS, layer.widths)):
        if size[0] % 2 and number % 2:
            continue  # half of them will do for odd sizes
        layer.impose(kernel, width)
        assert layer.decision() == (kernel, width)
        half = [(side - 1) // 2 for side in kernel]
        small = keras.layers.Conv2D(width, kernel, stride)
        padded = tf.pad(x, [(0, 0), (half[0],) * 2, (half[1],) * 2, (0, 0)])
        small.build(padded.shape)
        rows, columns = (slice(whole // 2 - h, whole // 2 + h + 1) for whole, h in zip((3, 5), half, strict=True))
        small.set_weights([layer.kernel.numpy()[rows, columns, :, :width], layer.bias.numpy()[:width]])
        y = layer(x).numpy()
        np.testing.assert_allclose(y[..., :width], small(padded), atol=1e-5)
        assert not y[..., width:].any()
        parameters, multiplies = layer.cost()
        assert float(parameters) == kernel[0] * kernel[1] * 4 * width
        assert float(multiplies) == kernel[0] * kernel[1] * 4 * width * y.shape[1] * y.shape[2]
        assert float(layer.cost(inputs=3)[0]) == kernel[0] * kernel[1] * 3 * width
        assert layer.live().numpy().tolist() == [1] * width + [0] * (8 - width)


@pytest.mark.parametrize(("stride", "training"), [(1, True), (2, False), (2, True)])
def test_depthwise_follows_its_producer(stride, training):
    x = randoms(2, 8, 8, 4)
    x[..., 3:] = 0
    layer = SuperKernelDepthwiseConv2D((3, 5), strides=stride, use_bias=True)
    alive = tf.constant([1.0, 1, 1, 0])
    layer([x, alive])
    layer.bias.assign(randoms(4))
    for kernel in PAIRS:
        layer.impose(kernel, 4)
        half = [(side - 1) // 2 for side in kernel]
        small = keras.layers.DepthwiseConv2D(kernel, stride)
        padded = tf.pad(x[..., :3], [(0, 0), (half[0],) * 2, (half[1],) * 2, (0, 0)])
        small.build(padded.shape)
        rows, columns = (slice(whole // 2 - h, whole // 2 + h + 1) for whole, h in zip((3, 5), half, strict=True))
        small.set_weights([layer.depthwise_kernel.numpy()[rows, columns, :3], layer.bias.numpy()[:3]])
        y = layer([x, alive], training=training).numpy()
        np.testing.assert_allclose(y[..., :3], small(padded), atol=1e-5)
        assert not y[..., 3:].any()
        assert float(layer.cost(inputs=3)[0]) == kernel[0] * kernel[1] * 3


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_group_of_zeros_has_finite_gradients(policy):
    layer = SuperKernelConv2D(8, 3, FRACTIONS, dtype=policy)
    x = tf.constant(randoms(2, 6, 6, 4))
    layer(x)
    layer.kernel.assign(layer.kernel * np.array([1, 1, 1, 1, 0, 0, 0, 0]))
    with tf.GradientTape() as tape:
        y = layer(x, training=True)
        loss = tf.reduce_sum(tf.square(tf.cast(y, tf.float32))) + layer.cost()[0]
    assert y.dtype == layer.compute_dtype
    assert all(v.dtype == tf.float32 for v in layer.weights)
    for variable, gradient in zip(layer.trainable_weights, tape.gradient(loss, layer.trainable_weights), strict=True):
        assert gradient.dtype == tf.float32
        assert np.isfinite(gradient).all(), variable.name
    assert layer.decision() == ((3, 3), 8)  # on: 1e-6 is above a threshold of 0


def test_weight_decay_acts_on_kernels_alone():
    layers = SuperKernelConv2D(8, 3, FRACTIONS), SuperKernelDepthwiseConv2D(3)
    for layer in layers:
        layer.build((None, 6, 6, 4))
    assert {v.name.split("/")[-1].split(":")[0] for layer in layers for v in layer.trainable_weights if is_kernel(v)} == {
        "kernel",
        "depthwise_kernel",
    }
    assert [v.name.split("/")[-1] for v in layers[0].trainable_weights if not is_kernel(v)] == [
        "threshold_rows:0", "threshold_columns:0", "threshold_width:0",
    ]  # fmt: skip


def test_dropped_indicators_follow_from_the_seed():
    layer = SuperKernelConv2D(64, (5, 5), (0.25, 0.5, 0.75, 1.0), dropout=0.4)
    x = tf.ones((1, 6, 6, 2))
    whole = layer(x).numpy()

    def drawn(number):
        with stateless.layers_seed(tf.constant([number, 0])):
            return layer(x, training=True).numpy()

    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert not np.array_equal(drawn(1), drawn(2))
    np.testing.assert_array_equal(layer(x, training=False), whole)
    ones = Indicators(tf.ones((1, 2)), tf.ones((1, 2)), tf.ones((1, 3)))
    found = np.array([np.concatenate(layer._dropped(ones), 1) for _ in range(300)])
    assert set(np.unique(found)) == {0, np.float32(1 / (1 - np.float32(0.4)))}
    assert abs((found == 0).mean() - 0.4) < 4 * np.sqrt(0.4 * 0.6 / found.size)
    layer.drop_rate.assign(0)
    np.testing.assert_allclose(drawn(1), whole, atol=1e-6)


def _gradients(layer, x):
    with stateless.layers_seed(tf.constant([1, 2])), tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(layer(x, training=True)))
    return tape.gradient(loss, layer.trainable_weights)


def test_replicas_agree_with_one_process():
    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    with strategy.scope():
        layer = SuperKernelConv2D(8, 3, FRACTIONS, dropout=0.4)
        layer.build((None, 6, 6, 4))
    x = tf.constant(randoms(2, 6, 6, 4))

    alone = SuperKernelConv2D(8, 3, FRACTIONS, dropout=0.4, name=layer.name)
    alone.build((None, 6, 6, 4))
    alone.set_weights(layer.get_weights())
    found = strategy.run(tf.function(lambda x: _gradients(layer, x)), (x,))
    for one, other in zip(found, _gradients(alone, x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SuperKernelConv2D(8, 2, name="it"), r"it: kernel_size is 2; two odd sides are needed: \(3, 3\), say"),
        (lambda: SuperKernelConv2D(8, 3, padding="full", name="it"), "it: padding is 'full'; allowed: 'same'"),
        (lambda: SuperKernelConv2D(8, 3, strides=(1, 2), name="it"), "it: strides must be one number for rows and columns"),
        (lambda: SuperKernelConv2D(8, 3, dropout=1.0, name="it"), "it: dropout is 1.0; it must be at least 0 and below 1"),
        (lambda: SuperKernelConv2D(0, 3, name="it"), "it: filters is 0; it must be 1 or more"),
        (
            lambda: SuperKernelConv2D(8, 3, (0.5, 0.7), name="it"),
            r"it: fractions are \(0.5, 0.7\); numbers above 0 of which the",
        ),
        (
            lambda: SuperKernelConv2D(8, 2, strides=2, search_kernel=False, name="it"),
            r"it: a kernel of \(2, 2\) cannot be padded evenly; pad the map, and take 'valid'",
        ),
        (lambda: live.LiveUnion(3, 4, name="it"), "it: 4 of 3 channels are static; it must be 0 to 3"),
        (lambda: live.MaskedReLU(4, name="it"), "it: max_value is 4; allowed: None, 6"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_decision_that_is_no_option():
    layer = SuperKernelConv2D(8, 3, FRACTIONS, name="it")
    layer.build((None, 6, 6, 4))
    for kernel, width in (((2, 3), 8), ((3, 5), 8), ((3, 3), 3)):
        with pytest.raises(
            ValueError, match=r"it: kernel .* channels are no option; sides are odd, up to \(3, 3\), channels one"
        ):
            layer.impose(kernel, width)


# what knows of live channels


def test_what_is_live_in_sums_and_joined_maps():
    short, long = tf.constant([1.0, 0.0]), tf.constant([1.0, 1.0, 0.0, 0.0])
    assert live.LiveUnion(5)([short, long]).numpy().tolist() == [1, 1, 0, 0, 0]
    assert live.LiveUnion(5, static=3)([long]).numpy().tolist() == [1, 1, 1, 0, 0]
    assert live.LiveUnion(2)(tf.constant([1 / 0.6, 0.0])).numpy().tolist() == [1, 0]
    assert live.LiveJoin((0, 3))([short]).numpy().tolist() == [1, 0, 1, 1, 1]
    assert live.LiveJoin()([short, short]).numpy().tolist() == [1, 0, 1, 0]
    for layer in (live.LiveUnion(5, 3), live.LiveJoin((0, 3)), live.MaskedReLU(6), live.MaskedBatchNormalization(False)):
        again = keras.layers.deserialize(keras.layers.serialize(layer))
        assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("max_value", [None, 6])
def test_relu_lets_the_gradient_of_a_cut_channel_pass(max_value):
    x = tf.constant([[-1.0, 0.5, 7.0, 0.0]])
    alive = tf.constant([1.0, 1.0, 1.0, 0.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = live.masked_relu(x, alive, max_value)
    assert y.numpy().tolist() == [[0, 0.5, 6 if max_value else 7, 0]]
    assert tape.gradient(y, x).numpy().tolist() == [[0, 1, 0 if max_value else 1, 1]]


@pytest.mark.parametrize(
    ("gates", "learned", "synchronized"), [(True, True, False), (True, False, True), (False, True, True), (False, False, False)]
)
def test_masked_batch_normalization_is_batch_normalization_where_live(gates, learned, synchronized):
    x, alive = randoms(4, 3, 3, 5) + 1, tf.constant([1.0, 0, 1, 1, 0])
    if not gates:
        x = x * alive.numpy()
    config = {"momentum": 0.8, "epsilon": 1e-3, "center": learned, "scale": learned}
    plain = keras.layers.BatchNormalization(**config)
    masked = live.MaskedBatchNormalization(gates, synchronized=synchronized, **config)
    plain.build(x.shape)
    masked.build([x.shape, (5,)])
    weights = [1 + np.abs(randoms(*v.shape)) for v in plain.weights]
    plain.set_weights(weights)
    masked.set_weights(weights)
    for training in (False, True):
        np.testing.assert_allclose(masked([x, alive], training=training), plain(x, training=training) * alive, atol=1e-5)
    n = 4 * 3 * 3  # the fused kernel keeps the variance of n - 1 values, across replicas it is of n
    kept = [np.array(each) for each in plain.get_weights()]
    if synchronized:
        kept[-1] = weights[-1] * 0.8 + (kept[-1] - weights[-1] * 0.8) * (n - 1) / n
    for one, other in zip(masked.get_weights(), kept, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gates", [True, False])
def test_the_gradient_of_live_is_output_times_gradient(gates):
    """So much would the loss change, to first order, if the channel went; a channel that is off has one where its map is there."""
    x, upstream = tf.constant(randoms(4, 3, 3, 3)), randoms(4, 3, 3, 3)
    layer = live.MaskedBatchNormalization(gates)
    alive = tf.ones(3)
    with tf.GradientTape() as tape:
        tape.watch(alive)
        y = layer([x, alive], training=True)
        loss = tf.reduce_sum(y * upstream)
    np.testing.assert_allclose(tape.gradient(loss, alive), (y.numpy() * upstream).sum((0, 1, 2)), rtol=1e-3, atol=1e-3)


def test_a_channel_that_comes_in_as_zeros_has_the_gradient_of_unit_variance():
    x = tf.zeros((2, 2, 2, 1))
    upstream = tf.constant(randoms(2, 2, 2, 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = live.MaskedBatchNormalization(gates=False, epsilon=1e-5)([x, tf.zeros(1)], training=True)
    assert not y.numpy().any()
    np.testing.assert_allclose(tape.gradient(y, x, upstream), upstream - tf.reduce_mean(upstream), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("gates", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("training", [True, False])
def test_lifted_channels_let_the_gradient_pass_a_plain_relu(gates, dtype, training):
    """As one that knows what is live does, for a map that differs by nothing that a sum would show."""
    alive = tf.constant([1.0, 0, 1, 0])
    x = tf.cast(randoms(4, 3, 3, 4) * (1 if gates else alive.numpy()), dtype)
    upstream = tf.cast(randoms(4, 3, 3, 4), dtype)

    def run(lifts):
        layer = live.MaskedBatchNormalization(
            gates, lifts, dtype=keras.mixed_precision.Policy(f"mixed_{dtype}" if dtype != "float32" else dtype)
        )
        with tf.GradientTape() as tape:
            tape.watch(alive)
            normalised = layer([x, alive], training=training)
            y = tf.nn.relu(normalised) if lifts else live.masked_relu(normalised, alive)
        return y.numpy(), tape.gradient(y, [alive, layer.beta], upstream)

    (plain, plain_gradients), (lifted, gradients) = run(False), run(True)
    assert not plain[..., 1::2].any()
    assert (lifted[..., 1::2] > 0).all()
    np.testing.assert_allclose(lifted.astype(np.float32), plain.astype(np.float32), atol=2e-7)
    for ours, theirs in zip(gradients, plain_gradients, strict=True):
        assert ours[1] == theirs[1]
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    assert not gates or gradients[0][1] != 0  # it can learn that it is wanted

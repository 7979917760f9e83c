"""Every method on a network with all that tfmot refuses: wrapped, trained, saved, restored, stripped; and what is no input."""

import itertools

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

from frenzy import models
from frenzy.compress import METHODS, CompressError, Rule, calibrate, check, compress, quantize, select, strip
from frenzy.compress.activations import FakeQuantize, MovingRange
from frenzy.compress.prune import maskable, normalised_masks, prune_in_rounds, rounds, set_masks
from frenzy.compress.rewire import Added, rewired
from frenzy.compress.tensors import EVERY_CONV, EVERY_KERNEL, IN_BLOCKS, kernels, short_name
from frenzy.compress.wrap import WRAPPERS
from frenzy.layers.activations import HardSwish
from frenzy.layers.channels import ZeroPadChannels
from frenzy.layers.squeeze_excite import SqueezeExcite

SMALL = Rule("^block.*kernel$")  # the whole of the small network's blocks
OPTIONS = {"prune": {"steps": 4}, "cluster": {"clusters": 4}}


def network(seed: int = 0) -> keras.Model:
    """Two blocks: pre-activation with a channel pad; depthwise with squeeze-and-excite and hard activations. (n, 8, 8, 3) -> (n, 5)."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((8, 8, 3), name="images")
    x = shortcut = layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU(name="block1_relu")(layers.BatchNormalization(name="block1_bn")(x))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="block1_conv")(x)
    x = layers.Add(name="block1_add")([x, ZeroPadChannels(4, name="block1_pad")(shortcut)])
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="block2_dw")(x)
    x = layers.BatchNormalization(name="block2_bn")(x)
    x = SqueezeExcite(2, "hard_sigmoid", use_bias=False, name="block2_se")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(HardSwish(name="block2_swish")(x))
    return keras.Model(inputs, layers.Dense(5, name="logits")(x), name="small")


def images(count: int = 6) -> tf.Tensor:
    return tf.constant(np.random.default_rng(1).normal(size=(count, 8, 8, 3)), tf.float32)


def stepper(model: keras.Model, rate: float = 0.05):
    """The optimizer, and a step of it on the same few images that returns the loss and the gradients."""
    optimizer = keras.optimizers.SGD(rate, 0.9, jit_compile=False)
    optimizer.build(model.trainable_variables)
    labels = tf.constant([0, 1, 2, 3, 4, 0])

    def step():
        with tf.GradientTape() as tape:
            logits = model(images(), training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss, gradients

    return optimizer, step


def wrapped_for(method: str, model: keras.Model) -> keras.Model:
    rule = SMALL if METHODS[method].rule == IN_BLOCKS else None
    return compress(model, method, rule, **OPTIONS.get(method, {}))


# what every method keeps


@pytest.mark.parametrize("method", METHODS)
def test_contract(method, tmp_path):
    """The original stays; every variable gets a gradient; the loss falls; state survives a checkpoint; strip keeps the logits."""
    model = network()
    before = model.get_weights()
    wrapped = wrapped_for(method, model)
    assert [layer.name for layer in wrapped.layers if layer.name == "block1_bn"]
    optimizer, step = stepper(wrapped)
    losses = []
    for _ in range(5):
        loss, gradients = step()
        losses.append(float(loss))
    for variable, gradient in zip(wrapped.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.name
    assert losses[-1] < losses[0]
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)

    path = tf.train.Checkpoint(model=wrapped, optimizer=optimizer).save(str(tmp_path / "state"))
    again = wrapped_for(method, network(seed=1))
    restored, go_on = stepper(again)
    tf.train.Checkpoint(model=again, optimizer=restored).restore(path).assert_existing_objects_matched().assert_consumed()
    np.testing.assert_array_equal(wrapped(images()), again(images()))
    assert float(step()[0]) == pytest.approx(float(go_on()[0]), abs=1e-6)
    np.testing.assert_allclose(wrapped(images()), again(images()), atol=1e-5)

    plain = strip(wrapped)
    np.testing.assert_allclose(plain(images()), wrapped(images(), training=False), atol=1e-6)
    assert not any(isinstance(layer, WRAPPERS) for layer in plain.layers)
    if not METHODS[method].map_bits:
        assert [type(layer) for layer in plain.layers] == [type(layer) for layer in model.layers]
        assert [v.name for v in plain.weights] == [v.name for v in model.weights]
    check(plain)


def test_only_what_the_rule_takes_is_changed():
    model = network()
    plain = strip(compress(model, "ttq", Rule("block1.*kernel$")))
    for old, new in zip(model.weights, plain.weights, strict=True):
        assert (len(np.unique(new)) == 3) == (old.name == "block1_conv/kernel:0")
        if old.name != "block1_conv/kernel:0":
            np.testing.assert_array_equal(old, new)


def test_methods_follow_each_other():
    """Pruned, then on a grid of 8 bits with maps of 8: zeros stay zeros."""
    pruned = maskable(network(), SMALL)
    set_masks(pruned, 0.5)
    sparse = strip(pruned)
    wrapped = compress(sparse, "int8")
    calibrate(wrapped, [images()])
    plain = strip(wrapped)
    for tensor in select(sparse, Rule("^block[12]_(conv|dw).*kernel$")):
        zeros = sparse.get_layer(tensor.layer).get_weights()[0] == 0
        assert zeros.any()
        assert (plain.get_layer(tensor.layer).get_weights()[0][zeros] == 0).all()


def test_quantizers_of_tfmot():
    quantizers = tfmot.quantization.keras.quantizers
    wrapped = quantize(
        network(),
        lambda: quantizers.LastValueQuantizer(num_bits=8, per_axis=False, symmetric=True, narrow_range=True),
        EVERY_KERNEL,
        lambda: quantizers.MovingAverageQuantizer(num_bits=8, per_axis=False, symmetric=False, narrow_range=False),
    )
    plain = strip(wrapped)
    np.testing.assert_allclose(plain(images()), wrapped(images(), training=False), atol=1e-6)
    kernel = plain.get_layer("block1_conv").get_weights()[0]
    original = network().get_layer("block1_conv").get_weights()[0]
    assert np.abs(kernel - original).max() <= np.abs(original).max() / 127 / 2 * 1.001
    assert plain.get_layer("block1_add_map").get_config()["low"] == -6.0


def test_latent_weights_alone_decay():
    from frenzy.training.step import is_kernel

    wrapped = quantize(network(), METHODS["ttq"].make, SMALL, MovingRange)
    kernel_names = {short_name(v) for v in wrapped.trainable_variables if is_kernel(v)}
    assert kernel_names == {"kernel", "depthwise_kernel"}
    scales = [v.name for v in wrapped.trainable_variables if "scale" in v.name]
    assert len(scales) == 2 * 4  # block1_conv, block2_dw, block2_se_reduce, block2_se_expand
    assert sum(map(is_kernel, wrapped.trainable_variables)) == len(kernels(network()))


# which tensors


def test_the_rule_of_microbotnet():
    found = select(models.build("microbotnet_x0.32"), IN_BLOCKS)
    assert (len(found), sum(tensor.size for tensor in found)) == (31, 153_792)
    assert {tensor.weight for tensor in found} == {"kernel", "depthwise_kernel", "reduce_kernel", "expand_kernel"}
    assert all(tensor.layer.startswith("block") for tensor in found)


def test_the_rule_of_resnet_20():
    found = select(models.build("resnet_20"), IN_BLOCKS)
    blocks = 6 * 9 * 16 * 16 + 9 * 16 * 32 + 5 * 9 * 32 * 32 + 9 * 32 * 64 + 5 * 9 * 64 * 64
    assert (len(found), sum(tensor.size for tensor in found)) == (18, blocks)


def test_rules():
    model = network()
    assert [tensor.name for tensor in select(model, EVERY_CONV)] == [
        "stem/kernel",
        "block1_conv/kernel",
        "block2_dw/depthwise_kernel",
    ]
    assert len(select(model, EVERY_KERNEL)) == 6
    assert [tensor.name for tensor in select(model, Rule(more_than=200))] == ["block1_conv/kernel"]  # 3 * 3 * 4 * 8


# pruning and clustering


def test_normalised_masks():
    """By rms 1 and 10 the magnitudes are 0.6, 0.8, 1.2, 1.249 and 0.5, 0.7, 1.3, 1.249: half of eight go."""
    weights = {"a": np.array([0.6, -0.8, 1.2, -(1.56**0.5)]), "b": np.array([5.0, 7.0, -13.0, 157**0.5])}
    assert all(np.mean(w**2) == pytest.approx(rms**2) for w, rms in zip(weights.values(), (1, 10), strict=True))
    masks = normalised_masks(weights, 0.5)
    np.testing.assert_array_equal(masks["a"], [0, 0, 1, 1])
    np.testing.assert_array_equal(masks["b"], [0, 0, 1, 1])
    np.testing.assert_array_equal(normalised_masks(weights, 1 / 8)["b"], [0, 1, 1, 1])


def test_rounds():
    assert rounds(0.35) == pytest.approx([0.1, 0.2, 0.3, 0.35])
    assert rounds(0.3) == pytest.approx([0.1, 0.2, 0.3])
    with pytest.raises(CompressError, match="share is 0; of the weights that go in a round"):
        rounds(0.5, 0)


def test_what_is_pruned_stays_pruned():
    model = maskable(network(), SMALL)
    _, step = stepper(model)
    seen, sizes = [], sum(tensor.size for tensor in select(network(), SMALL))

    def finetune(now, sparsity):
        step()
        seen.append(np.concatenate([v.numpy().ravel() == 0 for v in now.variables if short_name(v).endswith("mask")]))
        assert seen[-1].sum() == round(sparsity * sizes)
        return sparsity

    assert prune_in_rounds(model, 0.25, finetune) == 0.25
    assert len(seen) == 3
    for before, after in itertools.pairwise(seen):
        assert after[before].all()
    zeros = sum((v.numpy() == 0).sum() for v in strip(model).weights if "kernel" in v.name)
    assert zeros == round(0.25 * sizes)


def test_no_masks():
    with pytest.raises(CompressError, match="small has no masks; make it maskable first"):
        set_masks(network(), 0.5)


def pruned(updates: int, **options) -> keras.Model:
    """The small network after so many updates under tfmot's pruning, stripped."""
    wrapped = compress(network(), "prune", **options)
    _, step = stepper(wrapped)
    for _ in range(updates):
        step()
    return strip(wrapped)


def test_polynomial_pruning_reaches_its_sparsity():
    plain = pruned(6, rule=SMALL, sparsity=0.75, steps=6)
    for tensor in select(plain, SMALL):
        value = next(v.numpy() for v in plain.get_layer(tensor.layer).weights if short_name(v) == tensor.weight)
        assert (value == 0).sum() == tensor.size - round(tensor.size * 0.25), tensor.name


def test_two_of_four_neighbours_are_zero():
    kernel = pruned(2, rule=Rule("block1_conv"), zeros="2:4").get_layer("block1_conv").get_weights()[0]
    zeros = kernel.transpose(3, 0, 1, 2).reshape(-1, 4) == 0  # four input channels
    assert (zeros.sum(-1) == 2).all()


def test_blocks_of_zeros():
    kernel = pruned(4, rule=Rule("se/expand"), block="2x4", sparsity=0.5, steps=4).get_layer("block2_se").get_weights()[1]
    blocks = (kernel == 0).reshape(2, 2, 2, 4).transpose(0, 2, 1, 3).reshape(4, 8)  # (4, 8) in blocks of 2x4
    assert sorted(blocks.sum(-1)) == [0, 0, 8, 8]


def test_clusters_and_their_zeros():
    masked = maskable(network(), SMALL)
    set_masks(masked, 0.5)
    wrapped = compress(strip(masked), "cluster", SMALL, clusters=5, preserve_sparsity=True)
    _, step = stepper(wrapped)
    step()
    plain = strip(wrapped)
    for tensor in select(plain, SMALL):
        value = next(v.numpy() for v in plain.get_layer(tensor.layer).weights if short_name(v) == tensor.weight)
        assert 2 <= len(np.unique(value)) <= 5
        assert 0 in value


# rewiring


def test_rewired_keeps_weights_and_logits():
    model = network()
    twice = rewired(model, [Added(keras.layers.Activation("linear", name="same"), ("block1_add",))], {"block1_add": "same"})
    np.testing.assert_array_equal(model(images()), twice(images()))
    assert len(twice.layers) == len(model.layers) + 1
    assert twice.get_layer("block2_dw").input.node.layer.name == "same"


# bad input


def sequential():
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)], name="stack")


def nested():
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, keras.layers.Flatten()(network()(inputs)), name="outer")


def mixed():
    inputs = keras.Input((8, 8, 3))
    conv = keras.layers.Conv2D(4, 3, dtype=keras.mixed_precision.Policy("mixed_float16"), name="half")
    return keras.Model(inputs, conv(inputs), name="mixed")


def third():
    return keras3.Sequential([keras3.Input((8, 8, 3)), keras3.layers.Conv2D(4, 3)])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (third, r"keras\.src.*Sequential \(Keras 3\) is no tf_keras model; build it with tf_keras: tfmot takes no other"),
        (sequential, r"stack is no functional model; build it as keras\.Model\(inputs, outputs\)"),
        (nested, "outer: layer 'small' is a model itself; call its layers in one model"),
        (mixed, "mixed: layer 'half' computes in float16, which tfmot refuses; build the network with precision float32"),
        (lambda: maskable(network(), SMALL), "small: layer 'block1_conv' is wrapped already; strip the network first"),
    ],
    ids=["keras 3", "sequential", "nested", "mixed precision", "wrapped"],
)
@pytest.mark.parametrize("method", ["ttq", "prune", "cluster"])
def test_networks_that_cannot_be_wrapped(make, expected, method):
    with pytest.raises(CompressError, match=expected):
        compress(make(), method, EVERY_KERNEL)


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("magic", {}, "no method 'magic'; known: ttq, one_negative_one, hysteresis, mcdonnell, int8, prune"),
        ("ttq", {"clusters": 4}, "ttq has no option 'clusters'; it takes threshold"),
        ("mcdonnell", {"bits": 4}, "mcdonnell has no option 'bits'; it takes none"),
        ("ttq", {"rule": Rule("[")}, r"tensors '\[' is no regular expression: .*; 'block\.\*kernel\$' is one"),
        ("ttq", {}, r"small: no tensor of more than 1000 elements and 2 axes or more matches .* kernels are stem/kernel, .* and 2 more"),
        ("ttq", {"map_bits": 9, "rule": SMALL}, "bits is 9; allowed: 2 to 8"),
        ("int8", {"bits": 1}, "bits is 1; allowed: 2 to 8"),
        ("prune", {"map_bits": 8, "rule": SMALL}, "prune leaves feature maps as they are; strip its network"),
        ("prune", {"sparsity": 1.0, "rule": SMALL}, r"sparsity is 1\.0; the share of zeros must be at least 0 and below 1"),
        ("prune", {"block": "4", "rule": SMALL}, "block is '4'; two whole numbers above 0 are needed: 4x1 for blocks"),
        ("prune", {"block": "4x1", "rule": SMALL}, r"block 4x1: block1_conv/kernel is \(3, 3, 4, 8\), and tfmot prunes blocks of matrices"),
        ("prune", {"block": "4x1", "zeros": "2:4", "rule": SMALL}, "cannot be had together; leave one out"),
        ("prune", {"zeros": "4:4", "rule": SMALL}, "zeros 4:4: m zeros of n neighbours need m below n: 2:4, say"),
        ("cluster", {"clusters": 1, "rule": SMALL}, "clusters is 1; it must be 2 or more"),
        ("cluster", {"clusters": 2, "preserve_sparsity": True, "rule": SMALL}, "clusters is 2; it must be 3 or more to keep zeros"),
        ("cluster", {"clusters": 40, "rule": SMALL}, "clusters is 40: block2_se/reduce_kernel has 32 elements; take fewer"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(method, options, expected):
    with pytest.raises(CompressError, match=expected):
        compress(network(), method, **options)


def test_finished_maps_are_layers():
    assert FakeQuantize(0.0, 1.0, 2, name="m").get_config()["bits"] == 2
    with pytest.raises(CompressError, match="bits is 16; allowed: 2 to 8"):
        FakeQuantize(0.0, 1.0, 16)


def test_the_zoos_depthwise_convs_cluster():
    """They are of a class of their own."""
    model = models.build("microbotnet_x0.32")
    wrapped = compress(model, "cluster", Rule("^block9_(dw|expand).*kernel$"), clusters=4)
    plain = strip(wrapped)
    assert type(plain.get_layer("block9_dw")) is type(model.get_layer("block9_dw"))
    assert len(np.unique(plain.get_layer("block9_dw").depthwise_kernel)) <= 4

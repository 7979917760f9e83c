"""Which channels belong together, in networks of the zoo and in small ones, and networks without some of them."""

import re

import numpy as np
import pytest
import tf_keras as keras

from frenzy import models
from frenzy.compress.netadapt.channels import Candidate, Channels
from frenzy.compress.netadapt.kinds import OUT
from frenzy.compress.netadapt.resources import multiply_accumulates, parameters
from frenzy.compress.tensors import CompressError, short_name
from frenzy.models.macs import count_macs

QUICK = ("alexnet_cifar", "resnet_20", "microbotnet_x0.32", "squeezenet_1_1_cifar", "frenzy_small")
# more of what others are
LEFT_OUT = (
    "wrn_28_10",
    "mcdonnell_20_10",
    "mcdonnell_26_10",
    "resnet_32",
    "resnet_44",
    "resnet_56",
    "irnet_a",
    "irnet_b",
    "irnet_c",
)
ZOO = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in models.ZOO if name not in LEFT_OUT]


@pytest.fixture(autouse=True)
def _fresh():
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)


def scattered(model):
    """Random biases and statistics, so that nothing is zero by chance."""
    random = np.random.default_rng(0)
    for variable in model.weights:
        if short_name(variable) in ("bias", "beta", "moving_mean", "expand_bias"):
            variable.assign(0.1 * random.normal(size=variable.shape))
        if short_name(variable) in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))


def silence(channels, alive):
    """Zeroes all that makes the channels that are not alive: filters, biases, and BN's scale, offset and mean."""
    for name, kind in channels.kinds.items():
        layer = channels.model.get_layer(name)
        dead = ~alive[channels.made(name)]
        for variable in layer.weights:
            weight = short_name(variable)
            axes = kind.axes.get(weight, {}) if kind else {}
            made = [axis for axis, side in axes.items() if side == OUT]
            made += [0] if weight in ("beta", "gamma", "moving_mean") and axes else []
            if made:
                shape = [-1 if axis == made[0] else 1 for axis in range(len(variable.shape))]
                variable.assign(np.where(dead.reshape(shape), 0, variable.numpy()))


def some_of_each(channels, share=0.4):
    """alive (bool): a random share of every group is not."""
    random = np.random.default_rng(1)
    gone = [c for group in channels.groups for c in random.permutation(group.classes)[: int(share * len(group.classes))]]
    return channels.without(gone)


def images(model, n=2):
    return np.random.default_rng(2).normal(size=(n, *model.input_shape[1:])).astype(np.float32)


@pytest.mark.parametrize("name", ZOO)
def test_channels_of_zeros_can_go(name):
    """Slicing a group that is zero leaves the logits, for a random share of every group of the network."""
    model = models.build(name)
    scattered(model)
    channels = Channels(model)
    alive = some_of_each(channels)
    assert alive.sum() < len(alive)
    silence(channels, alive)
    candidate = Candidate(channels, alive)
    small = candidate.build()
    expected = model(images(model)).numpy()
    np.testing.assert_allclose(small(images(model)).numpy(), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert sum(np.prod(v.shape) for v in small.weights) < sum(np.prod(v.shape) for v in model.weights)
    assert parameters(candidate.layers) == sum(int(np.prod(v.shape)) for v in small.trainable_weights)
    assert multiply_accumulates(candidate.layers) == count_macs(small)
    assert [layer.output for layer in candidate.layers] == [layer.output_shape for layer in small.layers[1:]]
    assert Channels(small).count == alive.sum()


def groups(name, **kwargs):
    return {group.name: len(group.classes) for group in Channels(models.build(name, **kwargs)).groups}


def test_alexnet_has_a_group_a_layer():
    channels = Channels(models.build("alexnet_cifar"))
    found = {group.name: len(group.classes) for group in channels.groups}
    assert found == {"conv1": 64, "conv2": 192, "conv3": 384, "conv4": 256, "conv5": 256, "dense1": 4096, "dense2": 4096}
    assert all(group.layers == (group.name,) for group in channels.groups)
    assert channels.locked == {"logits": "it is the network's output"}


def test_residual_adds_tie_layers():
    """ResNet-20's stream: 16 channels that all groups carry, 16 more of two groups, 32 of the last; and a group a block within."""
    channels = Channels(models.build("resnet_20"))
    found = {group.name: group for group in channels.groups}
    inner = {f"group{group}_{i}_conv1": 16 << group - 1 for group in (1, 2, 3) for i in (1, 2, 3)}
    stream = {"stem": 16, "group2_1_conv2": 16, "group3_1_conv2": 32}
    assert {name: len(group.classes) for name, group in found.items()} == inner | stream
    last = tuple(f"group3_{i}_conv2" for i in (1, 2, 3))
    middle = tuple(f"group2_{i}_conv2" for i in (1, 2, 3))
    assert found["group3_1_conv2"].layers == last
    assert found["group2_1_conv2"].layers == middle + last
    assert found["stem"].layers == ("stem", *(f"group1_{i}_conv2" for i in (1, 2, 3)), *middle, *last)


def test_depthwise_convs_and_gates_follow():
    channels = Channels(models.build("microbotnet_x0.32"))
    assert not any("dw" in group.name or "_se" in group.name for group in channels.groups)
    expand = next(group for group in channels.groups if group.name == "block5_expand")
    small = channels.cut(channels.without(expand.classes[:8]))
    width = len(expand.classes) - 8
    assert small.get_layer("block5_dw").depthwise_kernel.shape == (5, 5, width, 1)
    assert small.get_layer("block5_se").get_config()["hidden"] == len(expand.classes) // 4
    assert small.get_layer("block5_project").kernel.shape[2] == width


def test_concat_splits():
    found = groups("squeezenet_1_1_cifar")
    assert (found["fire2_squeeze"], found["fire2_expand1x1"], found["fire2_expand3x3"]) == (16, 64, 64)
    assert "head" not in found


def test_bypasses_tie_halves_of_a_concat():
    found = {group.name: group.layers for group in Channels(models.build("squeezenet_simple_bypass_cifar")).groups}
    assert found["fire2_expand1x1"] == ("fire2_expand1x1", "fire3_expand1x1")
    assert found["fire2_expand3x3"] == ("fire2_expand3x3", "fire3_expand3x3")


def test_rows_of_a_dense_layer_behind_flatten():
    """In (h, w, c) order channel c's rows are s C + c, for every place s."""
    inputs = keras.Input((2, 3, 1))
    x = keras.layers.Conv2D(4, 1, name="conv")(inputs)
    x = keras.layers.Dense(5, name="logits")(keras.layers.Flatten()(x))
    channels = Channels(keras.Model(inputs, x))
    (group,) = channels.groups
    small = channels.cut(channels.without([group.classes[2]]))
    kept = [s * 4 + c for s in range(2 * 3) for c in (0, 1, 3)]
    np.testing.assert_array_equal(small.get_layer("logits").kernel, channels.model.get_layer("logits").kernel.numpy()[kept])


def test_norms_are_summed_over_tied_layers():
    inputs = keras.Input((4, 4, 1))
    first = keras.layers.Conv2D(2, 1, use_bias=False, name="first")(inputs)
    second = keras.layers.Conv2D(2, 1, use_bias=False, name="second")(first)
    out = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([first, second])))
    channels = Channels(keras.Model(inputs, out))
    channels.model.get_layer("first").set_weights([np.array([[[[3.0, -1.0]]]])])
    channels.model.get_layer("second").set_weights([np.array([[[[3.0, 1.0], [4.0, 0.0]]]])])
    (group,) = channels.groups
    assert group.layers == ("first", "second")
    np.testing.assert_allclose(channels.norms()[list(group.classes)], [3 + np.hypot(3, 4), 1 + 1])


def conv_and_head(between, **options):
    inputs = keras.Input((4, 4, 3))
    x = between(keras.layers.Conv2D(8, 3, name="conv", **options)(inputs))
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(keras.layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: conv_and_head(keras.layers.PReLU(name="odd")), r"odd \(PReLU\) is no layer that channels can be followed"),
        (
            lambda: conv_and_head(keras.layers.Conv2D(8, 1, groups=2, name="odd")),
            r"odd \(Conv2D\) is left alone: it has 2 groups",
        ),
        (
            lambda: conv_and_head(keras.layers.BatchNormalization(axis=1, name="odd")),
            r"odd \(BatchNormalization\) is left alone: it works along axis 1",
        ),
        (
            lambda: conv_and_head(keras.layers.Activation("softmax", name="odd")),
            r"odd \(Activation\) is left alone: its softmax sums over channels",
        ),
        (lambda: conv_and_head(keras.layers.Reshape((4, 8), name="odd")), r"odd \(Reshape\) mixes channels with places"),
    ],
    ids=["unknown", "groups", "axis", "softmax", "reshape"],
)
def test_a_layer_that_cannot_be_cut_is_named(model, reason):
    if "Reshape" in reason:
        inputs = keras.Input((4, 4, 3))
        x = keras.layers.Conv2D(8, 3, name="conv")(inputs)  # 2x2 out
        x = keras.layers.Flatten()(keras.layers.Reshape((8, 4), name="odd")(x))
        made = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    else:
        made = model()
    channels = Channels(made)
    assert channels.groups == ()
    assert re.search(reason, channels.locked["conv"])


def test_a_layer_without_channels_is_refused():
    channels = Channels(models.build("resnet_20"))
    (group,) = (group for group in channels.groups if group.name == "group1_1_conv1")
    with pytest.raises(CompressError, match="group1_1_conv1 would keep no channel; leave it one at least"):
        channels.cut(channels.without(group.classes))


def test_networks_of_two_inputs_are_refused():
    inputs = [keras.Input((4,)), keras.Input((4,))]
    model = keras.Model(inputs, keras.layers.Add()(inputs), name="two")
    with pytest.raises(CompressError, match="two has 2 inputs and 1 outputs; one of each is needed"):
        Channels(model)


def test_subclassed_networks_are_refused():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(CompressError, match="own is no functional network"):
        Channels(Own(name="own"))

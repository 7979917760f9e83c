"""Networks rebuilt in PyTorch: the same logits, the same gradients, the same weights learn. Left out without PyTorch."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from frenzy import models
from frenzy.layers import activations, channels, subsample
from frenzy.models.arrays import named_weights

torch = pytest.importorskip("torch")
torch_peer = pytest.importorskip("tools.benchmarks.torch_peer")
layers = keras.layers
NETWORKS = {
    "frenzy_small": None, "microbotnet_x0.25": None, "squeezenet_1_1_cifar": None, "fd_mobilenet_x0.25": (64, 64, 3),
    "mobilenet_v3_small": (64, 64, 3), "squeezenet_1_0": (64, 64, 3), "irnet_b_cifar": None, "resnet_20": None,
}  # fmt: skip


def random_weights(model):
    """Every weight, statistics of batch norms too, away from what it began with."""
    random = np.random.default_rng(0)
    for name, variable in named_weights(model).items():
        if name.endswith(("moving_variance", "gamma")):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif not name.endswith("kernel"):
            variable.assign(random.normal(0, 0.1, variable.shape))
    return model


def pictures(shape, count=2):
    return np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_zoo_computes_the_same(name):
    keras.utils.set_random_seed(0)
    model = random_weights(models.build(name, 10, NETWORKS[name]))
    network = torch_peer.convert(model, pictures(model.input_shape[1:]))
    learn = [parameter.numel() for parameter in network.parameters() if parameter.requires_grad]
    assert sorted(learn) == sorted(int(np.prod(variable.shape)) for variable in model.trainable_variables)


# layer -> on (8, 7, 6)
LAYERS = {
    "activation relu": lambda: layers.Activation("relu"),
    "activation sigmoid": lambda: layers.Activation("sigmoid"),
    "average pool same": lambda: layers.AveragePooling2D(3, 2, "same"),
    "average pool valid": lambda: layers.AveragePooling2D(2),
    "batch norm": lambda: layers.BatchNormalization(epsilon=0.1),
    "batch norm without offset": lambda: layers.BatchNormalization(center=False),
    "batch norm without scale": lambda: layers.BatchNormalization(scale=False),
    "conv even kernel": lambda: layers.Conv2D(5, (2, 4), padding="same"),
    "conv grouped": lambda: layers.Conv2D(4, 3, groups=2),
    "conv same stride 2": lambda: layers.Conv2D(5, 3, 2, "same", use_bias=False),
    "depthwise multiplied": lambda: layers.DepthwiseConv2D((3, 1), depth_multiplier=2),
    "global pool": layers.GlobalAveragePooling2D,
    "global pool kept": lambda: layers.GlobalAveragePooling2D(keepdims=True),
    "hard sigmoid": activations.HardSigmoid,
    "hard swish": activations.HardSwish,
    "max pool same": lambda: layers.MaxPooling2D(3, 2, "same"),
    "pad channels": lambda: channels.ZeroPadChannels(3),
    "relu6": lambda: layers.ReLU(6.0),
    "rescaling": lambda: layers.Rescaling(0.2, 0.5),
    "subsample": lambda: subsample.Subsample(2),
    "zeros around": lambda: layers.ZeroPadding2D(((1, 0), (0, 2))),
}


def around(layer):
    """The layer between convolutions, then what flattens."""
    x = inputs = keras.Input((8, 7, 3), name="images")
    x = layer(layers.Conv2D(6, 1, name="before")(x))
    x = layers.Conv2D(4, 1, name="behind")(x) if len(x.shape) == 4 else x
    return random_weights(keras.Model(inputs, layers.Dense(3, name="logits")(layers.Flatten()(x))))


def gradients_of_both(model, images):
    """{weight: (gradient by TensorFlow, by PyTorch)} of half the squared logits, in training."""
    network = torch_peer.convert(model, images).train()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images, training=True) ** 2) / 2
    theirs = {
        id(v): g.numpy() for v, g in zip(model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True)
    }
    (network(torch_peer.pictures(images)) ** 2).sum().div(2).backward()
    modules = {name: module for module, (name, _, _) in zip(network.layers, network.steps, strict=True)}
    found = {}
    for name, variable in named_weights(model).items():
        layer, role = name.split("/")
        if role == "kernel" and id(variable) in theirs:
            module = next(each for each in modules[layer].modules() if hasattr(each, "weight"))
            found[name] = theirs[id(variable)], module.weight.grad.numpy()
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_layers_compute_and_learn_the_same(name):
    keras.utils.set_random_seed(0)
    found = gradients_of_both(around(LAYERS[name]()), pictures((8, 7, 3), 4))
    assert {"before/kernel", "logits/kernel"} <= found.keys()
    for ours, theirs in found.values():
        theirs = theirs.transpose(2, 3, 1, 0) if theirs.ndim == 4 else theirs.T
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4 * np.abs(ours).max())


def test_zeros_around_a_picture_become_the_padding_of_what_alone_reads_them():
    x = inputs = keras.Input((8, 8, 3))
    zeros = layers.ZeroPadding2D(1, name="zeros")(x)
    alone = keras.Model(inputs, layers.Flatten()(layers.Conv2D(4, 3, 2, name="conv")(zeros)))
    network = torch_peer.convert(alone, pictures((8, 8, 3)))
    assert [type(module).__name__ for module in network.layers] == ["Identity", "Conv2d", "Lines"]
    assert network.layers[1].padding == (1, 1)
    inputs = keras.Input((8, 8, 3))
    zeros = layers.ZeroPadding2D(1)(inputs)
    both = layers.Concatenate()([layers.Conv2D(4, 3)(zeros), layers.DepthwiseConv2D(3)(zeros)])
    network = torch_peer.convert(keras.Model(inputs, layers.Flatten()(both)), pictures((8, 8, 3)))
    assert isinstance(network.layers[0], torch.nn.ZeroPad2d)


def test_only_what_nothing_else_reads_is_overwritten():
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(3, 1)(inputs)
    y = layers.Add()([layers.ReLU(name="shared")(x), x])
    model = keras.Model(inputs, layers.Flatten()(layers.ReLU(name="alone")(y)))
    network = torch_peer.convert(model, pictures((4, 4, 3)))
    modules = {name: module for module, (name, _, _) in zip(network.layers, network.steps, strict=True)}
    assert (modules["shared"].inplace, modules["alone"].inplace) == (False, True)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            lambda: layers.LayerNormalization(name="it"),
            "'it' is a LayerNormalization, which has no rule here; known: Activation,",
        ),
        (lambda: layers.Conv2D(3, 1, activation="relu", name="it"), "'it' holds an activation; give that a layer of its own"),
        (lambda: layers.Activation("tanh", name="it"), "'it' is the activation 'tanh'; known here: hard_sigmoid,"),
        (lambda: layers.Activation("hard_sigmoid", name="it"), "'it' is tf_keras's own hard_sigmoid"),
        (lambda: layers.ReLU(2.0, name="it"), "'it' is a ReLU of slope, threshold or an unusual limit"),
        (lambda: layers.Reshape((7, 8, 6), name="it"), "'it' makes .*; only lines"),
        (lambda: layers.MaxPooling2D(2, 1, "same", name="it"), "'it' pads .*; PyTorch pools with as many before"),
    ],
)
def test_what_has_no_form_in_pytorch_is_named(layer, message):
    model = around(layer())
    with pytest.raises(torch_peer.PeerError, match=message):
        torch_peer.convert(model, pictures((8, 7, 3)))


def test_a_layer_that_is_used_twice_is_named():
    inputs = keras.Input((4, 4, 3))
    twice = layers.Conv2D(3, 1, name="twice")
    model = keras.Model(inputs, layers.Flatten()(twice(twice(inputs))))
    with pytest.raises(torch_peer.PeerError, match="'twice' is used 2 times; give every use a layer of its own"):
        torch_peer.convert(model, pictures((4, 4, 3)))


def test_other_logits_are_an_error(monkeypatch):
    model = around(layers.ReLU())
    monkeypatch.setitem(torch_peer.RULES, layers.ReLU, lambda layer, arrays, alone: torch.nn.Identity())
    with pytest.raises(torch_peer.PeerError, match=r"logits in PyTorch are .* off; at most .* is allowed"):
        torch_peer.convert(model, pictures((8, 7, 3)))

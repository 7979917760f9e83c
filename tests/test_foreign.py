"""Networks that nobody here built: the classifiers of both Keras packages, and models of every make, counted from their files.

The slow test builds the smallest of every family; with FRENZY_EVERY_CLASSIFIER=1 all of them, the deeper and wider ones too.

Parameters are held against Keras's own count, layer by layer: a BN's four vectors are two in inference, and the `count` of a
Normalization is read by nobody, while its mean and variance are stored even where Keras holds them as literals.

MACs, in millions, beside what is published, and why they differ:

network         ours       published
ResNet50        3,857.97   4,089 (torchvision), whose stride is on the 3x3 of a bottleneck, not on its first 1x1: 3 x 77.07 more
MobileNetV2       300.77   300 (paper, rounded), 301 (torchvision)
EfficientNetB0    385.81   386 (torchvision)
DenseNet121     2,834.16   2,834 (torchvision)
Xception        8,357.40   none found
NASNetMobile      563.64   564 (paper; tf_keras)
ConvNeXtTiny    4,455.53   4,456 (torchvision)
MobileNetV3Large  216.59   217 (torchvision; tf_keras). tf_keras leaves the image's size open here and in the next: counted at 224x224
MobileNetV3Small   56.51   57 (torchvision); tf_keras's docstring says 66, which does not fit
"""

import math
import os

import keras as keras_3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from conftest import judge_folder
from test_saved_model import MACS, conv_row, save

from frenzy.accounting import account, read
from frenzy.accounting.account import find_facts

PACKAGES = {"tf_keras": tf_keras, "keras": keras_3}
SMALLEST_OF_A_FAMILY = frozenset(
    "ConvNeXtTiny DenseNet121 EfficientNetB0 EfficientNetV2B0 InceptionResNetV2 InceptionV3 MobileNet MobileNetV2 "
    "MobileNetV3Large MobileNetV3Small NASNetMobile RegNetX002 RegNetY002 ResNet50 ResNet50V2 ResNetRS50 VGG16 "
    "Xception".split()
)
CLASSIFIERS = [
    (package, name)
    for package, keras in PACKAGES.items()
    for name in sorted(dir(keras.applications))
    if name[0].isupper() and callable(getattr(keras.applications, name))
    if name in SMALLEST_OF_A_FAMILY or os.environ.get("FRENZY_EVERY_CLASSIFIER")
]
MULTIPLY_ACCUMULATES = {
    "ResNet50": 3_857_973_248,
    "MobileNetV2": 300_774_272,
    "EfficientNetB0": 385_814_752,
    "DenseNet121": 2_834_161_664,
    "Xception": 8_357_403_496,
    "NASNetMobile": 563_638_816,
    "ConvNeXtTiny": 4_455_531_264,
    "MobileNetV3Large": 216_589_760,
    "MobileNetV3Small": 56_510_400,
}


def layers_of(model):
    """Every layer once, those of nested models instead of the model."""
    found = {}
    for layer in model.layers:
        found.update({id(inner): inner for inner in layers_of(layer)} if hasattr(layer, "layers") else {id(layer): layer})
    return list(found.values())


def parameters_of(model):
    """Keras's count with 2 a channel for a BN, and mean and variance, 2 a channel, for a Normalization."""
    total = model.count_params()
    for layer in layers_of(model):
        own = sum(math.prod(w.shape) for w in layer.weights)
        if type(layer).__name__ == "BatchNormalization":
            total += 2 * layer.moving_mean.shape[0] - own
        if type(layer).__name__ == "Normalization":
            total += 2 * math.prod(layer.mean.shape) - own
    return total


def macs_of(model):
    """The kernels of convs and dense layers, once for every output position."""
    return sum(
        math.prod(layer.output.shape[1:-1]) * math.prod(weight.shape)
        for layer in layers_of(model)
        if "Conv" in type(layer).__name__ or type(layer).__name__ == "Dense"
        for weight in layer.weights
        if len(weight.shape) > 1
    )


def export(model, folder):
    """As Keras writes it, without the values, which nothing here needs."""
    model.export(str(folder), **({"verbose": False} if isinstance(model, keras_3.Model) else {}))
    for path in (folder / "variables").glob("variables.data*"):
        path.unlink()
    return folder


def check(model, folder):
    """No op is unknown, and no parameter is lost or counted twice; returns the multiply-accumulates."""
    open_sizes = None in model.input_shape[1:]
    graph = read(export(model, folder), input_shape=(224, 224, 3) if open_sizes else None)
    assert account(graph, "micronet").unknown == ()
    facts = find_facts(graph, lambda key: None).facts.values()
    assert sum(s.elements for f in facts for s in f.stored) == parameters_of(model)
    return sum(f.macs.value for f in facts)


SMALL = {
    "tf_keras": lambda: tf_keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None),
    "keras": lambda: keras_3.applications.MobileNet((96, 96, 3), alpha=0.25, weights=None),
}


@pytest.mark.parametrize("package", PACKAGES)
def test_small_classifiers(tmp_path, package):
    model = SMALL[package]()
    assert check(model, tmp_path / "m") == macs_of(model)


@pytest.mark.slow
@pytest.mark.parametrize(("package", "name"), CLASSIFIERS)
def test_classifiers(tmp_path, package, name):
    keras = PACKAGES[package]
    try:
        model = getattr(keras.applications, name)(weights=None)
        macs = check(model, tmp_path / "m")
        open_sizes = None in model.input_shape[1:]
        assert macs == MULTIPLY_ACCUMULATES.get(name, macs) == (macs if open_sizes else macs_of(model))
    finally:
        keras.backend.clear_session()


def every_layer(keras):
    """A small network of the layers that classifiers are made of, and some that are not."""
    x = inputs = keras.Input((16, 16, 4))
    x = keras.layers.Conv2D(8, 3, use_bias=False, padding="same")(x)
    x = keras.layers.BatchNormalization(scale=False)(x)
    x = keras.layers.Activation("gelu")(x)
    x = keras.layers.SeparableConv2D(8, 3, strides=2, padding="same")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.LeakyReLU()(x)
    x = keras.layers.Conv2D(12, 3, groups=4, dilation_rate=2, padding="same")(x)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.Conv2DTranspose(6, 3, strides=2, padding="same")(x)
    x = keras.layers.PReLU(shared_axes=(1, 2))(x)
    x = keras.layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.AveragePooling2D(2)(x)
    x = keras.layers.UnitNormalization()(x)
    x = keras.layers.Concatenate()([x, keras.layers.Softmax()(x)])
    x = keras.layers.Reshape((64, 12))(x)
    x = keras.layers.MultiHeadAttention(2, 5)(x, x)
    x = keras.layers.Conv1D(7, 3, activation="elu")(x)
    x = keras.layers.Permute((2, 1))(x)
    x = keras.layers.Dense(9, activation="hard_sigmoid")(x)
    x = keras.layers.GlobalMaxPooling1D()(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="swish")(x))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_layer(tmp_path, package):
    convs = (16 * 16) * (3 * 3 * 4 * 8) + (8 * 8) * (3 * 3 * 8 + 8 * 8) + (8 * 8) * (3 * 3 * (8 // 4) * 12)
    transposed = (8 * 8) * (3 * 3 * 12 * 6)
    attention = 64 * 12 * (3 * 10) + 2 * (64 * 64 * 10) + 64 * 10 * 12
    rest = 62 * (3 * 12 * 7) + 7 * 62 * 9 + 9 * 3
    assert check(every_layer(PACKAGES[package]), tmp_path / "m") == convs + transposed + attention + rest


@pytest.mark.parametrize("package", PACKAGES)
def test_a_layer_that_is_called_twice(tmp_path, package):
    """Parameters once, operations twice; a nested model counts as its layers do."""
    keras = PACKAGES[package]
    inner_input = keras.Input((8, 8, 3))
    inner_norm = keras.layers.BatchNormalization()(keras.layers.Conv2D(3, 3, padding="same", use_bias=False)(inner_input))
    inner = keras.Model(inner_input, inner_norm)
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)])(inner(inner(inputs))))
    assert check(model, tmp_path / "m") == 2 * (8 * 8 * 3) * (3 * 3 * 3) + 8 * 8 * 3 * 2


@pytest.mark.parametrize("package", PACKAGES)
def test_a_model_of_two_inputs(tmp_path, package):
    keras = PACKAGES[package]
    image, facts = keras.Input((8, 8, 3), name="image"), keras.Input((7,), name="facts")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(5, 3, padding="same")(image))
    model = keras.Model([image, facts], keras.layers.Concatenate()([x, keras.layers.Dense(2)(facts)]))
    graph = read(export(model, tmp_path / "m"))
    found = find_facts(graph, lambda key: None)
    assert not found.unknown
    assert sum(s.elements for f in found.facts.values() for s in f.stored) == model.count_params()
    assert sum(f.macs.value for f in found.facts.values()) == MACS + 7 * 2


def test_a_module_written_by_hand(tmp_path):
    class Block(tf.Module):
        def __init__(self):
            super().__init__()
            random = np.random.default_rng(0)
            self.kernel = tf.Variable(random.normal(size=(3, 3, 3, 5)).astype(np.float32))
            self.mean, self.scale = tf.Variable(np.ones(5, np.float32)), tf.Variable(np.ones(5, np.float32))
            self.tables = [tf.Variable(random.normal(size=(5, 5)).astype(np.float32)) for _ in range(2)]

        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32)])
        def __call__(self, x):
            x = tf.nn.conv2d(x, self.kernel, 1, "SAME") * self.scale - self.mean * self.scale
            for table in self.tables:
                x = tf.nn.relu(tf.einsum("bhwc,cd->bhwd", x, table))
            return tf.math.l2_normalize(tf.reduce_max(x, (1, 2)), -1)

    _, reports = judge_folder(save(tmp_path / "m", Block()))
    report = reports["micronet"]
    assert report.unknown == ()
    assert conv_row(report).multiplies == MACS
    assert sum(row.multiplies for row in report.rows if row.op == "Einsum") == 2 * (8 * 8) * (5 * 5)

"""For the tests of the training step: a small network, images, and a step taken on them."""

import dataclasses

import numpy as np
import tensorflow as tf
import tf_keras as keras

from frenzy.data import augment
from frenzy.data.split import Split
from frenzy.layers.dropout import Dropout
from frenzy.training.recipe import Recipe
from frenzy.training.step import inner, make_optimizer, make_step, set_rates

RECIPE = Recipe(
    network="made up", dataset="made up", epochs=2, batch_size=8, schedule="constant", peak_lr=0.1, momentum=0.0,
    nesterov=False, weight_decay=0.0, augmentation="none",
)  # fmt: skip
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (32, 8, 8, 3)).astype(np.uint8)
LABELS = (np.arange(32) % 4).astype(np.int32)
SPLIT = Split(IMAGES, LABELS, tuple("abcd"), "made up")
SEED = tf.constant((3, 5), tf.int32)


def network(norm=False, dropout=0.0):
    keras.utils.set_random_seed(2)
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, strides=2, name="conv")(x)
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    if norm:
        x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.Flatten()(keras.layers.ReLU()(x))
    x = Dropout(dropout, name="dropout")(x) if dropout else x
    return keras.Model(inputs, keras.layers.Dense(4, name="dense", dtype="float32")(x))


def recipe_of(**fields):
    return dataclasses.replace(RECIPE, **fields)


def after(recipe, model=None, taught=None, steps=1, rate=0.1, compiled=False):
    """The model after some steps on the first 16 images, the last step's loss, and the optimizer."""
    model = model or network()
    optimizer = make_optimizer(recipe)
    inner(optimizer).build(model.trainable_variables)
    step = tf.function(make_step(model, optimizer, recipe, SPLIT.mean, SPLIT.std), jit_compile=compiled)
    for _ in range(steps):
        set_rates(optimizer, rate, recipe.momentum)
        loss, _ = step(IMAGES[:16], LABELS[:16], SEED, *([] if taught is None else [taught]))
    return model, float(loss), optimizer


def inputs():
    return augment.normalise(IMAGES[:16], SPLIT.mean, SPLIT.std)


def plain_gradients(model, loss_of):
    with tf.GradientTape() as tape:
        loss = loss_of(model(inputs(), training=True))
    variables = model.trainable_variables
    return dict(zip([v.name for v in variables], tape.gradient(loss, variables), strict=True))


def assert_moved_by(model, gradients, rate=0.1, atol=1e-6):
    for before, now in zip(network().trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_allclose(now, before - rate * gradients[now.name], atol=atol, err_msg=now.name)

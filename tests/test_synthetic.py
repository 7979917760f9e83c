"""Drawn images: fixed by a seed, balanced, beyond a linear classifier and within reach of a small network."""

import time

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from frenzy.data import load
from frenzy.data.split import DataError
from frenzy.data.synthetic import HUES, SHAPES, TEXTURES, class_names, generate

CLASSES = (10, 100)


@pytest.mark.parametrize("classes", CLASSES)
def test_the_seed_says_which_images(classes):
    first, again, other = (generate(classes, 300, seed) for seed in (1, 1, 2))
    for ours, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert first[0].dtype == np.uint8
    assert first[0].shape == (300, 32, 32, 3)
    assert np.mean(first[0] != other[0]) > 0.9
    assert np.any(first[1] != other[1])


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_classes_are_balanced_and_named(classes, split):
    found = load(f"synthetic{classes}", split)
    count = {"train": 10_000, "test": 2_000}[split]
    assert np.bincount(found.labels).tolist() == [count // classes] * classes
    assert len(set(found.class_names)) == classes
    np.testing.assert_allclose(found.images.mean((0, 1, 2)) / 255, found.mean, atol=0.03)
    np.testing.assert_allclose(found.images.std((0, 1, 2)) / 255, found.std, atol=0.05)


def test_train_and_test_share_no_image():
    train, test = (load("synthetic10", split) for split in ("train", "test"))
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in test.images}


def test_names_follow_the_labels():
    assert class_names(10) == tuple(SHAPES)
    assert len(SHAPES) * len(HUES) * len(TEXTURES) == 100
    assert class_names(100)[10 * 2 + 2 * 2 + 1] == "striped red cross"


def test_a_hue_is_what_its_class_says():
    """Within the shape red outweighs the rest where the class is red, and so for green and blue."""
    images, labels = generate(100, 2000)
    names = class_names(100)
    for channel, hue in enumerate(("red", "green", "blue")):
        chosen = images[[hue in names[label] and "plain" in names[label] for label in labels]].astype(int)
        strongest = chosen.reshape(len(chosen), -1, 3)
        excess = strongest[..., channel] - np.delete(strongest, channel, -1).max(-1)
        assert len(chosen) == 2000 // (len(HUES) * len(TEXTURES))
        assert np.all(np.sort(excess, axis=1)[:, -20] > 60)


@pytest.mark.parametrize("size", [16, 48])
def test_other_sizes(size):
    found = load("synthetic10", "test", image_size=size)
    assert found.images.shape == (2_000, size, size, 3)


def test_a_disc_covers_what_its_radius_says():
    """Of a plain disc pi (0.85 r)^2 pixels differ from the background, r between 0.42 and 0.66 of half the side."""
    grid = (np.arange(32, dtype=np.float32) + 0.5) / 16 - 1
    u, v = np.meshgrid(grid / 0.5, grid / 0.5)
    covered = np.clip(SHAPES["disc"](u, v) * 0.5 * 16 + 0.5, 0, 1).sum()
    assert covered == pytest.approx(np.pi * (0.85 * 0.5 * 16) ** 2, rel=0.01)


@pytest.mark.parametrize(("classes", "count", "size"), [(7, 10, 32), (10, 0, 32), (10, 10, 4)])
def test_what_cannot_be_drawn(classes, count, size):
    with pytest.raises(DataError, match=f"{count} images {size}x{size} of {classes} classes; classes are 10 or 100"):
        generate(classes, count, size=size)


def test_10_000_images_take_less_than_3_seconds():
    start = time.process_time()
    generate(10, 2_000)
    assert time.process_time() - start < 3 * 2_000 / 10_000


def linear_accuracy(classes):
    """Of ridge regression on the pixels, fitted on the training images and read on the test images."""
    train, test = (load(f"synthetic{classes}", split) for split in ("train", "test"))
    x, z = (np.c_[s.images.reshape(len(s.images), -1) / np.float32(255) - 0.5, np.ones(len(s.images))] for s in (train, test))
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ np.eye(classes)[train.labels])
    return np.mean((z @ weights).argmax(1) == test.labels)


@pytest.mark.slow
@pytest.mark.parametrize("classes", CLASSES)
def test_beyond_a_linear_classifier(classes):
    assert linear_accuracy(classes) < 0.6


def small_network(classes):
    layers = keras.layers
    x = inputs = keras.Input((32, 32, 3))
    for width, stride in ((16, 1), (32, 2), (64, 2), (96, 2)):
        x = layers.Conv2D(width, 3, stride, "same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalMaxPooling2D()(x)))


@pytest.mark.slow
@pytest.mark.parametrize("classes", CLASSES)
def test_within_reach_of_a_small_network(classes):
    keras.utils.set_random_seed(0)
    train, test = (load(f"synthetic{classes}", split) for split in ("train", "test"))
    model, epochs = small_network(classes), 8
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * (len(train.images) // 100))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, ["accuracy"])
    scale = tf.constant(1 / 128, tf.float32)
    model.fit(tf.cast(train.images, tf.float32) * scale - 1, train.labels, 100, epochs, verbose=0)
    assert model.evaluate(tf.cast(test.images, tf.float32) * scale - 1, test.labels, verbose=0)[1] > 0.9

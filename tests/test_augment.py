"""Augmentation: what it may do to an image, and that a seed says which."""

import numpy as np
import pytest
import tensorflow as tf

from frenzy.data import augment

SEED = tf.constant([1, 2], tf.int32)
IMAGES = tf.constant(np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8))


@pytest.mark.parametrize("function", [augment.flip, augment.pad_and_crop, augment.crop_and_flip])
def test_shape_type_and_seed(function):
    first, again, other = function(IMAGES, SEED), function(IMAGES, SEED), function(IMAGES, SEED + 1)
    assert first.shape == IMAGES.shape
    assert first.dtype == tf.uint8
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_flip_mirrors_about_half():
    flipped = augment.flip(IMAGES, SEED).numpy()
    mirrored = [np.array_equal(new, old[:, ::-1]) for new, old in zip(flipped, IMAGES.numpy(), strict=True)]
    kept = [np.array_equal(new, old) for new, old in zip(flipped, IMAGES.numpy(), strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 10 < sum(mirrored) < 30


def test_crops_are_windows_of_the_padded_image():
    cropped = augment.pad_and_crop(IMAGES, SEED, pad=2).numpy()
    corners = set()
    for new, old in zip(cropped, IMAGES.numpy(), strict=True):
        padded = np.pad(old, ((2, 2), (2, 2), (0, 0)), "reflect")
        found = [(r, c) for r in range(5) for c in range(5) if np.array_equal(new, padded[r : r + 8, c : c + 8])]
        assert found
        corners.update(found)
    assert len(corners) > 10


def test_normalise():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    expected = (IMAGES.numpy() / 255 - mean) / std
    np.testing.assert_allclose(augment.normalise(IMAGES, mean, std), expected, atol=1e-5)

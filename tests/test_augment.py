"""Augmentation: what it may do to an image, and that a seed says which."""

import math

import numpy as np
import pytest
import tensorflow as tf

from frenzy.data import augment
from frenzy.data.split import DataError

SEED = tf.constant([1, 2], tf.int32)
IMAGES = tf.constant(np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8))


FLOATS = tf.cast(IMAGES, tf.float32)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
TARGETS = tf.one_hot(np.arange(40) % 10, 10)
MOVES = (augment.flip, augment.pad_and_crop, augment.crop_and_flip)


def random_pad(images, seed):
    return augment.pad_and_crop(images, seed, pad=2, mode="RANDOM")


def zero_pad(images, seed):
    return augment.pad_and_crop(images, seed, pad=2, mode="CONSTANT")


def smaller(images, seed):
    return augment.pad_and_crop(images, seed, pad=0, size=6)


def cut(images, seed):
    return augment.cutout(images, seed, 4)


@pytest.mark.parametrize("function", [*MOVES, random_pad, zero_pad, cut])
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
    expected = (IMAGES.numpy() / 255 - MEAN) / STD
    np.testing.assert_allclose(augment.normalise(IMAGES, MEAN, STD), expected, atol=1e-5)


@pytest.mark.parametrize("images", [IMAGES, FLOATS])
@pytest.mark.parametrize("seed", [(1, 2), (-3, 4)])
def test_crop_and_flip_is_what_it_was(images, seed):
    """Written with TensorFlow's own padding and random numbers: runs that began with these can be resumed."""
    seeds = tf.random.split(tf.constant(seed, tf.int32), 2)
    corners = tf.random.stateless_uniform((40, 2), seeds[0], 0, 9, tf.int32).numpy()
    chosen = tf.random.stateless_uniform((40, 1, 1, 1), seeds[1]).numpy() < 0.5
    padded = np.pad(images.numpy(), ((0, 0), (4, 4), (4, 4), (0, 0)), "reflect")
    cropped = np.stack([image[r : r + 8, c : c + 8] for image, (r, c) in zip(padded, corners, strict=True)])
    expected = np.where(chosen, cropped[:, :, ::-1], cropped)
    np.testing.assert_array_equal(augment.crop_and_flip(images, tf.constant(seed, tf.int32)), expected)


def windows(image, padded, size):
    """The places at which `image` is found in `padded`; -1 in `padded` fits anything."""
    places = [(r, c) for r in range(len(padded) - size + 1) for c in range(len(padded[0]) - size + 1)]
    parts = {(r, c): padded[r : r + size, c : c + size] for r, c in places}
    return [place for place, part in parts.items() if np.all((part == image) | (part < 0))]


@pytest.mark.parametrize(("function", "border"), [(zero_pad, 0), (random_pad, -1)])
def test_padding_with_zeros_and_with_anything(function, border):
    corners = set()
    for new, old in zip(function(IMAGES, SEED).numpy(), IMAGES.numpy().astype(int), strict=True):
        found = windows(new, np.pad(old, ((2, 2), (2, 2), (0, 0)), constant_values=border), 8)
        assert len(found) == 1
        corners.update(found)
    assert len(corners) > 10


def test_random_borders_are_even_and_each_its_own():
    images = tf.zeros((200, 8, 8, 3), tf.uint8)
    filled = augment.pad_and_crop(images, SEED, mode="RANDOM").numpy()
    borders = filled[filled > 0]
    assert set(np.unique(borders)) == set(range(1, 256))
    assert borders.mean() == pytest.approx((1 + 255) / 2, abs=2)
    assert len({image.tobytes() for image in filled}) > 190


def test_crops_of_another_size():
    corners = set()
    for new, old in zip(smaller(IMAGES, SEED).numpy(), IMAGES.numpy(), strict=True):
        (found,) = windows(new, old, 6)
        corners.add(found)
    assert corners == {(r, c) for r in range(3) for c in range(3)}


def test_an_oblong_is_cropped_within_both_sides():
    images = tf.constant(np.arange(200 * 6 * 9).reshape(200, 6, 9, 1) % 251, tf.int32)
    cropped = augment.pad_and_crop(images, SEED, pad=0, size=5).numpy()
    first = cropped[:, 0, 0, 0] - images.numpy()[:, 0, 0, 0]
    assert set(first % 251) == {9 * r + c for r in range(2) for c in range(5)}


@pytest.mark.parametrize(("pad", "size"), [(8, None), (0, 9), (2, 13)])
def test_crops_that_do_not_fit(pad, size):
    with pytest.raises(ValueError, match=f"pad {pad} and crop {size}: the images are 8 high; pad less than that"):
        augment.pad_and_crop(IMAGES, SEED, pad=pad, size=size)


def test_padding_modes_are_named():
    with pytest.raises(ValueError, match="no padding mode 'EDGE'; known: REFLECT, CONSTANT, RANDOM"):
        augment.pad_and_crop(IMAGES, SEED, mode="EDGE")


def test_cutout_cuts_a_square():
    """A 4 x 4 square about any of 8 x 8 pixels: 2 to 4 of each side are left of it, and 16 pixels at the most."""
    cut_out = augment.cutout(tf.ones((3000, 8, 8, 3)), SEED, 4).numpy() == 0
    assert np.all(cut_out.any(3) == cut_out.all(3))
    rows, columns = cut_out[..., 0].any(2).sum(1), cut_out[..., 0].any(1).sum(1)
    np.testing.assert_array_equal(cut_out[..., 0].sum((1, 2)), rows * columns)
    # the middle is 0..7, and 2, 3, 4, 4, 4, 4, 4 and 3 pixels of -2..1 about it are inside
    np.testing.assert_allclose(np.bincount(rows) / 3000, [0, 0, 1 / 8, 2 / 8, 5 / 8], atol=0.03)
    line = np.array([3, 4, 4, 4, 4, 4, 3, 2]) / 8  # of the 8 middles, how many take a pixel with them
    np.testing.assert_allclose(cut_out[..., 0].mean(0), np.outer(line, line), atol=0.03)


def test_cutout_with_a_probability():
    cut_out = augment.cutout(tf.ones((3000, 8, 8, 1)), SEED, 4, p=0.3).numpy()
    assert np.mean((cut_out == 0).any((1, 2, 3))) == pytest.approx(0.3, abs=0.03)
    np.testing.assert_array_equal(augment.cutout(IMAGES, SEED, 4, p=0.0), IMAGES)


def logit(values):
    share = np.clip(np.asarray(values) / 255, 1e-7, 1 - 1e-7)
    return np.log(share / (1 - share))


def test_brightness_moves_medium_grey():
    """0.5 becomes 0.4 to 0.6, evenly; the logits of an image move by one number; black and white stay."""
    grey = augment.brightness(tf.fill((2000, 1, 1, 1), 127.5), SEED).numpy() / 255
    assert 0.4 - 1e-6 <= grey.min() < 0.403 < 0.597 < grey.max() <= 0.6 + 1e-6
    assert grey.std() == pytest.approx(0.2 / math.sqrt(12), rel=0.05)
    image = tf.constant([[10.0, 100.0, 200.0]])[None, ..., None]
    moved = logit(augment.brightness(image, SEED)) - logit(image)
    np.testing.assert_allclose(moved, moved.mean(), atol=1e-4)
    ends = tf.constant([[0.0, 255.0]])[None, ..., None]
    np.testing.assert_allclose(augment.brightness(ends, SEED), ends, atol=1e-3)


def test_contrast_scales_logits():
    """By 0.8 to 1.25, log-uniformly: a grey of logit 1 becomes one of logit 0.8 to 1.25, and medium grey stays."""
    images = tf.fill((2000, 1, 1, 1), 255 / (1 + math.exp(-1)))
    scales = np.log(logit(augment.contrast(images, SEED).numpy()))
    assert math.log(0.8) - 1e-4 <= scales.min() < -0.22 < 0.22 < scales.max() <= math.log(1.25) + 1e-4
    assert scales.std() == pytest.approx(2 * math.log(1.25) / math.sqrt(12), rel=0.05)
    grey = tf.fill((20, 1, 1, 1), 127.5)
    np.testing.assert_allclose(augment.contrast(grey, SEED), grey, rtol=1e-6)


def test_lighting_is_brightness_then_contrast():
    seeds = tf.random.split(SEED, 2)
    expected = augment.contrast(augment.brightness(IMAGES, seeds[0]), seeds[1])
    np.testing.assert_allclose(augment.lighting(IMAGES, SEED, p=1.0), expected, atol=0.02)
    np.testing.assert_allclose(augment.lighting(IMAGES, SEED, p=0.0), FLOATS, atol=1e-3)


@pytest.mark.parametrize("function", [augment.brightness, augment.contrast])
def test_lighting_with_a_probability(function):
    changed = np.abs(function(tf.fill((2000, 1, 1, 1), 60.0), SEED, p=0.75) - 60) > 1e-3
    assert np.mean(changed) == pytest.approx(0.75, abs=0.03)


def test_mixup_mixes_images_as_targets():
    """Image i is full of its own number, target i is one-hot: the mixture of either tells that of the other."""
    images = tf.constant(np.broadcast_to(np.arange(40.0)[:, None, None, None], (40, 2, 2, 3)), tf.float32)
    mixed, targets = (tensor.numpy() for tensor in augment.mixup(images, tf.eye(40), SEED))
    np.testing.assert_allclose(mixed[:, 0, 0, 0], targets @ np.arange(40.0), rtol=1e-5)
    np.testing.assert_allclose(mixed, np.broadcast_to(mixed[:, :1, :1, :1], mixed.shape))
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
    assert np.all(np.diag(targets) >= 0.5)
    partners = [np.flatnonzero(row > 0).tolist() for row in targets]
    assert all(i in row and len(row) <= 2 for i, row in enumerate(partners))
    assert len({next(j for j in row if j != i) for i, row in enumerate(partners) if len(row) == 2}) > 30


def test_mixup_shares_are_betas():
    """E (k - 1/2)^2 = 1 / (4 (2 alpha + 1)) for the share k of the image itself, alpha 0.4."""
    images = tf.one_hot(tf.range(4000), 4000)[:, None, None, :]
    kept = tf.linalg.diag_part(tf.squeeze(augment.mixup(images, tf.zeros((4000, 2)), SEED)[0])).numpy()
    assert np.mean((kept[kept < 1] - 0.5) ** 2) == pytest.approx(1 / (4 * 1.8), rel=0.03)


def test_mixup_needs_a_beta():
    with pytest.raises(ValueError, match="mixup with alpha 0; it must be above 0"):
        augment.mixup(FLOATS, TARGETS, SEED, 0)


def test_smoothed_labels():
    np.testing.assert_allclose(
        augment.smooth_labels(tf.constant([[0.0, 1.0, 0.0, 0.0]]), 0.2), [[0.05, 0.8 + 0.05, 0.05, 0.05]]
    )
    with pytest.raises(ValueError, match=r"labels smoothed by 1\.5; it must be 0 to 1"):
        augment.smooth_labels(TARGETS, 1.5)


PURE = (*MOVES, random_pad, zero_pad, smaller, cut, augment.brightness, augment.contrast, augment.lighting)


@pytest.mark.parametrize("function", PURE)
def test_xla_gives_the_same(function):
    for seed in (SEED, -SEED):
        expected, found = function(IMAGES, seed), tf.function(function, jit_compile=True)(IMAGES, seed)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found / 255, expected / 255, atol=1e-5)


def test_xla_mixes_the_same():
    found = tf.function(augment.mixup, jit_compile=True)(FLOATS / 255, TARGETS, SEED)
    for ours, theirs in zip(found, augment.mixup(FLOATS / 255, TARGETS, SEED), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("function", PURE)
def test_sizes_may_be_open(function):
    spec = tf.TensorSpec((None, None, None, 3), tf.uint8)
    traced = tf.function(function, input_signature=[spec, tf.TensorSpec((2,), tf.int32)])
    np.testing.assert_allclose(traced(IMAGES, SEED), function(IMAGES, SEED), atol=1e-2)


def run_policy(name, images=None, seed=SEED):
    images = tf.image.resize(IMAGES, (64, 64), "nearest") if images is None else images
    return augment.augmented(images, seed, name, MEAN, STD)


@pytest.mark.parametrize("name", augment.POLICIES)
def test_policies_normalise_and_follow_their_seed(name):
    first, again, other = run_policy(name), run_policy(name), run_policy(name, seed=SEED + 1)
    side = augment.policy(name).size or 64
    assert first.shape == (40, side, side, 3)
    assert first.dtype == tf.float32
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other) == (name != "none")


@pytest.mark.parametrize("name", augment.POLICIES)
def test_policies_under_xla(name):
    """In shares of 255 grey levels, on smooth images: there, coordinates that round otherwise read nearly the same."""
    places = np.arange(32)
    waves = 127 + 100 * np.sin(places[:, None] / 6 + places / 8 + np.arange(4)[:, None, None])
    images = tf.image.resize(np.stack([waves] * 3, -1), (64, 64) if name == "irnet" else (32, 32))
    images = tf.cast(images, tf.uint8)
    found = tf.function(run_policy, jit_compile=True)(name, images)
    np.testing.assert_allclose(found * min(STD), run_policy(name, images) * min(STD), atol=1e-5)


def test_the_rows_are_sorted_and_cite():
    assert list(augment.POLICIES) == sorted(augment.POLICIES)
    assert all(row.source for row in augment.POLICIES.values())


def test_no_policy_is_normalisation_alone():
    np.testing.assert_array_equal(run_policy("none", IMAGES), augment.normalise(IMAGES, MEAN, STD))


def test_crop_flip_is_crop_and_flip():
    expected = augment.normalise(augment.crop_and_flip(IMAGES, SEED), MEAN, STD)
    np.testing.assert_array_equal(run_policy("crop_flip", IMAGES), expected)


def test_a_further_step_changes_none_before_it():
    """crop_flip_cutout is crop_flip but for the squares, which are 0: the mean."""
    plain, cut_out = run_policy("crop_flip"), run_policy("crop_flip_cutout")
    assert 0.01 < np.mean(plain != cut_out) < 16 * 16 / 64**2
    np.testing.assert_array_equal(cut_out, tf.where(cut_out == 0, 0.0, plain))


def test_mcdonnells_pixels_keep_their_mean():
    """x / 255, with squares and nothing else at 0 where the image is white."""
    found = run_policy("mcdonnell", tf.fill((40, 32, 32, 3), tf.constant(255, tf.uint8))).numpy()
    assert found.min() == 0
    assert found.max() == pytest.approx(1)
    assert np.mean(found == 0) == pytest.approx(18 * 18 / 32**2, abs=0.12)


def test_irnet_takes_windows():
    images = tf.constant(np.random.default_rng(1).integers(0, 256, (6, 64, 64, 3)).astype(np.uint8))
    expected = augment.normalise(images, MEAN, STD).numpy()
    for new, old in zip(run_policy("irnet", images).numpy() + 10, expected, strict=True):
        assert windows(new, old + 10, 56) or windows(new[:, ::-1], old + 10, 56)


def test_policies_are_named():
    with pytest.raises(DataError, match="no augmentation 'random'; known: crop_flip, crop_flip_cutout, fastai"):
        augment.augmented(IMAGES, SEED, "random", MEAN, STD)

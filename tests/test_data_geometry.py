"""Rotation, zoom and warp: the matrices are fastai's, the resampling is bilinear, and one pass equals the product."""

import math

import numpy as np
import pytest
import tensorflow as tf

from frenzy.data import geometry

SEED = tf.constant([1, 2], tf.int32)
# smooth: coordinates that round otherwise under XLA then read nearly the same
WAVES = 127 + 100 * np.sin(np.arange(12)[:, None] / 4 + np.arange(12) / 5 + np.arange(20)[:, None, None] / 3)
IMAGES = tf.constant(np.stack([WAVES, WAVES[::-1], WAVES[:, ::-1]], -1).astype(np.uint8))
FUNCTIONS = (geometry.geometric, geometry.rotate, geometry.warp, geometry.zoom)


def single(matrix):
    return tf.constant(np.array(matrix, np.float32)[None])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_shape_type_and_seed(function):
    first, again, other = function(IMAGES, SEED), function(IMAGES, SEED), function(IMAGES, SEED + 1)
    assert first.shape == IMAGES.shape
    assert first.dtype == tf.float32
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1
    assert np.abs(first - tf.cast(IMAGES, tf.float32)).max() > 1


def test_xla_gives_the_same():
    """Of all three in one, which compiles for seconds."""
    compiled = tf.function(geometry.geometric, jit_compile=True)(IMAGES, SEED)
    np.testing.assert_allclose(compiled / 255, geometry.geometric(IMAGES, SEED) / 255, atol=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_sizes_may_be_open(function):
    spec = tf.TensorSpec((None, None, None, 3), tf.uint8)
    traced = tf.function(function, input_signature=[spec, tf.TensorSpec((2,), tf.int32)])
    np.testing.assert_allclose(traced(IMAGES, SEED), function(IMAGES, SEED), atol=1e-2)


def test_the_identity_reads_what_is_there():
    same = geometry.resample(IMAGES, tf.eye(3, batch_shape=(20,)))
    np.testing.assert_allclose(same, tf.cast(IMAGES, tf.float32), atol=1e-3)


def test_a_probability_of_0_changes_nothing():
    np.testing.assert_allclose(geometry.geometric(IMAGES, SEED, p=0.0), tf.cast(IMAGES, tf.float32), atol=1e-3)


def test_probability_p_changes_that_share():
    images = tf.repeat(IMAGES[:1], 400, 0)
    changed = np.abs(geometry.zoom(images, SEED, 1.5, p=0.75) - tf.cast(images, tf.float32)).max((1, 2, 3)) > 0.5
    assert changed.mean() == pytest.approx(0.75, abs=0.07)


def test_half_a_pixel_is_the_mean_of_two():
    """Pixels 0, 10, 20 of a 1 x 3 image stand at -1, 0, 1: half a pixel to the right is +1/2; the border is mirrored."""
    image = tf.constant([0, 10, 20], tf.uint8)[None, None, :, None]
    shifted = geometry.resample(image, single([[1, 0, 0.5], [0, 1, 0], [0, 0, 1]]))
    np.testing.assert_allclose(tf.squeeze(shifted), [(0 + 10) / 2, (10 + 20) / 2, (20 + 10) / 2], atol=1e-5)
    shifted = geometry.resample(image, single([[1, 0, -3.0], [0, 1, 0], [0, 0, 1]]))
    np.testing.assert_allclose(tf.squeeze(shifted), [10, 20, 10], atol=1e-4)  # places -3, -2, -1


def test_a_quarter_turn():
    image = np.random.default_rng(0).integers(0, 256, (1, 5, 5, 3)).astype(np.uint8)
    turned = geometry.resample(tf.constant(image), geometry.rotation(tf.constant([math.pi / 2]), 5, 5))
    np.testing.assert_allclose(turned[0], np.rot90(image[0]), atol=1e-3)


def test_half_a_turn_of_an_oblong():
    image = np.random.default_rng(0).integers(0, 256, (1, 4, 7, 1)).astype(np.uint8)
    turned = geometry.resample(tf.constant(image), geometry.rotation(tf.constant([math.pi]), 4, 7))
    np.testing.assert_allclose(turned, image[:, ::-1, ::-1], atol=1e-3)


def test_a_circle_stays_one_in_an_oblong():
    """Lengths in pixels, (w - 1) / 2 and (h - 1) / 2 a unit, are kept by a turn."""
    matrix = geometry.rotation(tf.constant([0.3]), 9, 33)[0].numpy()
    unit = np.array([(33 - 1) / 2, (9 - 1) / 2])
    for point in ([0.1, 0.0], [0.0, 0.7], [0.2, -0.4]):
        assert np.linalg.norm((matrix @ [*point, 1])[:2] * unit) == pytest.approx(
            np.linalg.norm(np.array(point) * unit), rel=1e-5
        )


@pytest.mark.parametrize("focus", [(0.0, 0.0), (0.5, 0.5), (1.0, 0.25)])
def test_a_zoom_keeps_its_focus(focus):
    matrix = geometry.magnification(*(tf.constant([value]) for value in (2.0, *focus)))[0].numpy()
    place = [2 * value - 1 for value in focus]
    np.testing.assert_allclose(matrix @ [*place, 1], [*place, 1], atol=1e-6)
    np.testing.assert_allclose(matrix[:2, :2], np.eye(2) / 2)


def test_a_warp_brings_its_corners_to_the_images():
    """fastai's: the quadrilateral (-1-m3, -1-m1), (-1-m2, 1+m1), (1+m3, -1-m0), (1+m2, 1+m0) goes to the square."""
    m = np.random.default_rng(0).uniform(-0.2, 0.2, (6, 4)).astype(np.float32)
    for matrix, (m0, m1, m2, m3) in zip(geometry.warping(tf.constant(m)).numpy(), m, strict=True):
        drawn_out = [(-1 - m3, -1 - m1), (-1 - m2, 1 + m1), (1 + m3, -1 - m0), (1 + m2, 1 + m0)]
        for point, corner in zip(drawn_out, [(-1, -1), (-1, 1), (1, -1), (1, 1)], strict=True):
            x, y, scale = matrix @ [*point, 1]
            np.testing.assert_allclose((x / scale, y / scale), corner, atol=1e-5)


def test_a_warp_by_nothing_is_the_identity():
    np.testing.assert_allclose(geometry.warping(tf.zeros((1, 4)))[0], np.eye(3), atol=1e-6)


def test_the_composition_is_the_product():
    """Of pure zooms about the centre by 1.2 and by 1.5 the product is one by 1.8; a warp is applied first, a turn last."""
    middle, twice = (
        tf.constant([0.5]),
        [geometry.magnification(tf.constant([k]), *[tf.constant([0.5])] * 2) for k in (1.2, 1.5)],
    )
    np.testing.assert_allclose(geometry._product(*twice), geometry.magnification(tf.constant([1.8]), middle, middle), rtol=1e-6)
    seeds = tf.random.split(SEED, 3)
    parts = [
        geometry._rotations(IMAGES, seeds[0], 10.0, 1.0),
        geometry._magnifications(IMAGES, seeds[1], 1.1, 1.0),
        geometry._warpings(IMAGES, seeds[2], 0.2, 1.0),
    ]
    expected = geometry.resample(IMAGES, tf.constant(parts[0].numpy() @ parts[1].numpy() @ parts[2].numpy()))
    np.testing.assert_allclose(geometry.geometric(IMAGES, SEED, p=1.0), expected, atol=0.01)


def test_random_matrices_stay_within_their_ranges():
    images = tf.zeros((2000, 8, 8, 1))
    angles = geometry._rotations(images, SEED, 10.0, 1.0).numpy()
    degrees = np.degrees(np.arctan2(angles[:, 1, 0], angles[:, 0, 0]))
    assert -10 <= degrees.min() < -9.5 < 9.5 < degrees.max() <= 10
    assert degrees.std() == pytest.approx(20 / math.sqrt(12), rel=0.05)
    scales = 1 / geometry._magnifications(images, SEED, 1.1, 1.0).numpy()[:, 0, 0]
    assert 1 <= scales.min() < 1.005 < 1.095 < scales.max() <= 1.1 + 1e-6


def test_what_cannot_be_done():
    with pytest.raises(ValueError, match=r"zoom up to 0\.9; it must be 1 or more"):
        geometry.zoom(IMAGES, SEED, 0.9)
    with pytest.raises(ValueError, match=r"warp by 0\.5; it must be at least 0 and below 0\.5"):
        geometry.warp(IMAGES, SEED, 0.5)

"""Rotation, zoom and perspective warp of batches, composed into one bilinear resampling. Stateless, and compiled by XLA.

Coordinates are fastai's: x to the right and y down, -1 and 1 on the centres of the outermost pixels. A matrix (n, 3, 3) takes
homogeneous (x, y, 1) of the output to the place in the input that is read there; beyond the borders images are mirrored.
Source: fastai 1.0, vision/transform.py and vision/image.py.
"""

import math

import tensorflow as tf

from frenzy.data.randomness import split, uniform


def sides(images: tf.Tensor) -> list:
    """n, h, w, c: Python ints where the shape is static, tensors where not."""
    dynamic = tf.shape(images)
    return [dynamic[i] if side is None else side for i, side in enumerate(images.shape)]


def _matrix(*rows: tuple) -> tf.Tensor:
    """Three rows of three tensors (n,) -> (n, 3, 3)."""
    return tf.stack([tf.stack(row, -1) for row in rows], -2)


def _product(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """(n, 3, 3), (n, 3, 3) -> (n, 3, 3), in full float32 on every device."""
    return tf.reduce_sum(first[:, :, :, None] * second[:, None, :, :], 2)


def _places(side, matrix_side: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Coordinates of -1..1, mirrored at the borders -> the pixel before (int32), and the share of the one after."""
    last = tf.cast(side - 1, tf.float32)
    place = (matrix_side + 1) * (last / 2)
    period = tf.maximum(2 * last, 1)
    place = tf.abs(place - period * tf.floor(place / period + 0.5))
    before = tf.clip_by_value(tf.cast(place, tf.int32), 0, tf.maximum(side - 2, 0))
    return before, place - tf.cast(before, tf.float32)


def resample(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """(n, h, w, c), float32 (n, 3, 3) -> float32 (n, h, w, c): bilinear, mirrored beyond the borders."""
    count, height, width, channels = sides(images)
    x, y = tf.linspace(-1.0, 1.0, width)[None, None, :], tf.linspace(-1.0, 1.0, height)[None, :, None]
    entries = matrices[:, :, :, None, None]
    scale_x, scale_y, scale = (entries[:, i, 0] * x + entries[:, i, 1] * y + entries[:, i, 2] for i in range(3))
    rows, down = _places(height, scale_y / scale)
    columns, right = _places(width, scale_x / scale)
    pixels = tf.reshape(images, (-1, channels))
    corner = (tf.range(count)[:, None, None] * height + rows) * width + columns
    below, beside = width * tf.minimum(height - 1, 1), tf.minimum(width - 1, 1)

    def read(indices: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.cast(tf.gather(pixels, indices), tf.float32), (count, height, width * channels))

    right, down = (tf.repeat(share, channels, axis=-1) for share in (right, down))
    upper, lower = read(corner), read(corner + below)
    upper += right * (read(corner + beside) - upper)
    lower += right * (read(corner + below + beside) - lower)
    return tf.reshape(upper + down * (lower - upper), (count, height, width, channels))


def rotation(radians: tf.Tensor, height, width) -> tf.Tensor:
    """Angles (n,) -> (n, 3, 3): what is seen turns against the clock for positive angles; circles stay circles."""
    sine, cosine = tf.sin(radians), tf.cos(radians)
    tall, wide = (tf.cast(tf.maximum(side - 1, 1), tf.float32) for side in (height, width))
    zero, one = tf.zeros_like(sine), tf.ones_like(sine)
    return _matrix((cosine, -sine * (tall / wide), zero), (sine * (wide / tall), cosine, zero), (zero, zero, one))


def magnification(scales: tf.Tensor, x_focus: tf.Tensor, y_focus: tf.Tensor) -> tf.Tensor:
    """Scales, 1 and more, and which point of 0..1 across and down stays in place, (n,) each -> (n, 3, 3)."""
    seen = 1 / scales
    zero, one = tf.zeros_like(seen), tf.ones_like(seen)
    return _matrix(
        (seen, zero, (1 - seen) * (2 * x_focus - 1)), (zero, seen, (1 - seen) * (2 * y_focus - 1)), (zero, zero, one)
    )


def _to_corners(corners: list[tuple[tf.Tensor, tf.Tensor]]) -> tf.Tensor:
    """The map of (-1, -1), (1, -1), (1, 1), (-1, 1) to four points (x, y), (n,) each -> (n, 3, 3), up to scale.

    Source: Heckbert, "Fundamentals of Texture Mapping and Image Warping", 1989, section 2.2.3, for the unit square.
    """
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = corners
    sum_x, sum_y = ax - bx + cx - dx, ay - by + cy - dy
    scale = (bx - cx) * (dy - cy) - (dx - cx) * (by - cy)
    g = (sum_x * (dy - cy) - (dx - cx) * sum_y) / scale
    h = ((bx - cx) * sum_y - sum_x * (by - cy)) / scale
    rows = [(bx - ax + g * bx, dx - ax + h * dx, ax), (by - ay + g * by, dy - ay + h * dy, ay), (g, h, tf.ones_like(g))]
    return _matrix(*((u / 2, v / 2, one + u / 2 + v / 2) for u, v, one in rows))


def warping(magnitudes: tf.Tensor) -> tf.Tensor:
    """(n, 4) -> (n, 3, 3): the right, left, bottom and top side, in this order, is drawn out by its magnitude at either end.

    The inverse, up to scale, of the map of the square to the quadrilateral: fastai's symmetric_warp.
    """
    right, left, bottom, top = tf.unstack(magnitudes, 4, -1)
    corners = [(-1 - top, -1 - left), (1 + top, -1 - right), (1 + bottom, 1 + right), (-1 - bottom, 1 + left)]
    first, second, third = tf.unstack(_to_corners(corners), 3, -2)
    inverse = tf.stack([tf.linalg.cross(second, third), tf.linalg.cross(third, first), tf.linalg.cross(first, second)], -1)
    return inverse / inverse[:, 2:, 2:]


def _chosen(matrices: tf.Tensor, count, seed: tf.Tensor, p: float) -> tf.Tensor:
    """Each matrix with probability p, else the identity."""
    return tf.where(uniform((count, 1, 1), seed) < p, matrices, tf.eye(3))


def _rotations(images: tf.Tensor, seed: tf.Tensor, degrees: float, p: float) -> tf.Tensor:
    count, height, width, _ = sides(images)
    seeds = split(seed, 2)
    radians = uniform((count,), seeds[0], -math.radians(degrees), math.radians(degrees))
    return _chosen(rotation(radians, height, width), count, seeds[1], p)


def _magnifications(images: tf.Tensor, seed: tf.Tensor, largest: float, p: float) -> tf.Tensor:
    if largest < 1:
        raise ValueError(f"zoom up to {largest}; it must be 1 or more")
    count = sides(images)[0]
    seeds = split(seed, 3)
    focus = uniform((count, 2), seeds[1])
    return _chosen(magnification(uniform((count,), seeds[0], 1.0, largest), focus[:, 0], focus[:, 1]), count, seeds[2], p)


def _warpings(images: tf.Tensor, seed: tf.Tensor, magnitude: float, p: float) -> tf.Tensor:
    if not 0 <= magnitude < 0.5:
        raise ValueError(f"warp by {magnitude}; it must be at least 0 and below 0.5")
    count = sides(images)[0]
    seeds = split(seed, 2)
    return _chosen(warping(uniform((count, 4), seeds[0], -magnitude, magnitude)), count, seeds[1], p)


def rotate(images: tf.Tensor, seed: tf.Tensor, degrees: float = 10.0, p: float = 1.0) -> tf.Tensor:
    """(n, h, w, c) -> float32: with probability p turned by up to `degrees` either way."""
    return resample(images, _rotations(images, seed, degrees, p))


def zoom(images: tf.Tensor, seed: tf.Tensor, largest: float = 1.1, p: float = 1.0) -> tf.Tensor:
    """(n, h, w, c) -> float32: with probability p enlarged 1 to `largest` times about a random point."""
    return resample(images, _magnifications(images, seed, largest, p))


def warp(images: tf.Tensor, seed: tf.Tensor, magnitude: float = 0.2, p: float = 1.0) -> tf.Tensor:
    """(n, h, w, c) -> float32: with probability p seen askew, each of the four sides drawn out or in by up to `magnitude`."""
    return resample(images, _warpings(images, seed, magnitude, p))


def geometric(
    images: tf.Tensor, seed: tf.Tensor, degrees: float = 10.0, largest: float = 1.1, magnitude: float = 0.2, p: float = 0.75
) -> tf.Tensor:
    """(n, h, w, c) -> float32: rotation, zoom and warp, each with probability p, in one resampling by their product.

    The seed is split in three, in that order, so that each is what it would be alone with its own part.
    """
    seeds = split(seed, 3)
    turned = _product(_rotations(images, seeds[0], degrees, p), _magnifications(images, seeds[1], largest, p))
    return resample(images, _product(turned, _warpings(images, seeds[2], magnitude, p)))

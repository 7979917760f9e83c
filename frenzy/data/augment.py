"""Augmentation as pure functions on batches; all randomness is stateless, from a seed of shape (2,).

Images are of 0..255, uint8 for as long as pixels are only moved, float32 once they are mixed or shaded. Everything compiles
under XLA, and gives the same there as without, up to rounding where values are mixed.
"""

import math

import numpy as np
import tensorflow as tf

from frenzy.data.geometry import geometric, rotate, sides, warp, zoom
from frenzy.data.policies import POLICIES, Policy, policy
from frenzy.data.randomness import integers, permutation, smaller_share, split, uniform, values

__all__ = [
    "POLICIES", "Policy", "augmented", "brightness", "contrast", "crop_and_flip", "cutout", "flip", "geometric", "mixup",
    "normalise", "pad_and_crop", "policy", "rotate", "smooth_labels", "warp", "zoom",
]  # fmt: skip

MODES = ("REFLECT", "CONSTANT", "RANDOM")


def normalise(images: tf.Tensor, mean, std) -> tf.Tensor:
    """0..255 (n, h, w, 3) -> float32 (n, h, w, 3): (x / 255 - mean) / std, mean and std per channel on the 0..1 scale."""
    spread = np.asarray(std, np.float64)
    scale, shift = 1 / (255 * spread), np.asarray(mean, np.float64) / spread
    return tf.cast(images, tf.float32) * tf.constant(scale, tf.float32) - tf.constant(shift, tf.float32)


def _read(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor, filler: tf.Tensor | None = None) -> tf.Tensor:
    """images[i, rows[i], columns[i]] for int32 rows (n, y), columns (n, x) -> (n, y, x, c), as one gather.

    Places outside an image read `filler` (m, c) instead, m being 1 or n * y * x. Without a filler all must lie inside.
    """
    count, height, width, channels = sides(images)
    pixels = tf.reshape(images, (-1, channels))
    places = (tf.range(count)[:, None] * height + rows)[:, :, None] * width + columns[:, None, :]
    if filler is not None:
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        own = tf.reshape(tf.range(tf.size(places)), tf.shape(places)) if filler.shape[0] != 1 else 0
        places = tf.where(inside, places, count * height * width + own)
        pixels = tf.concat([pixels, filler], 0)
    return tf.gather(pixels, places)


def _mirrored(columns: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """(n, x) -> (n, x): each row reversed with probability 1/2."""
    chosen = uniform((sides(columns)[0], 1), seed) < 0.5
    return tf.where(chosen, tf.reverse(columns, [1]), columns)


def _reflected(places: tf.Tensor, side) -> tf.Tensor:
    """-side < place < 2 side - 1, mirrored at the centres of the outermost pixels."""
    return side - 1 - tf.abs(side - 1 - tf.abs(places))


def _window(images: tf.Tensor, seed: tf.Tensor, pad: int, size: int | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Rows (n, size), columns (n, size) of a random window of the images padded by `pad`; size None: the images' own."""
    count, height, width, _ = sides(images)
    rows, columns = (size or height, size or width)
    for side, name in ((images.shape[1], "high"), (images.shape[2], "wide")):
        if side is not None and (pad >= side or (size or 0) > side + 2 * pad):
            raise ValueError(f"pad {pad} and crop {size}: the images are {side} {name}; pad less than that, crop within it")
    places = [side + 2 * pad - seen + 1 for side, seen in ((height, rows), (width, columns))]
    corner = integers((count, 2), seed, places)
    return corner[:, :1] + tf.range(rows) - pad, corner[:, 1:] + tf.range(columns) - pad


def _crop(images: tf.Tensor, seeds: tf.Tensor, pad: int, mode: str, size: int | None, mirror: bool) -> tf.Tensor:
    """Pad, crop by seeds[0] and, where wanted, mirror by seeds[1], in one gather; RANDOM values by the inverted seeds[0]."""
    if mode not in MODES:
        raise ValueError(f"no padding mode {mode!r}; known: {', '.join(MODES)}")
    count, height, width, channels = sides(images)
    rows, columns = _window(images, seeds[0], pad, size)
    if mirror:
        columns = _mirrored(columns, seeds[1])
    if mode == "REFLECT" or not pad:
        return _read(images, _reflected(rows, height), _reflected(columns, width))
    if mode == "CONSTANT":
        return _read(images, rows, columns, tf.zeros((1, channels), images.dtype))
    shape = (count * sides(rows)[1] * sides(columns)[1],)
    return _read(images, rows, columns, tf.cast(values(shape, channels, tf.bitwise.invert(seeds[0])), images.dtype))


def flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """(n, h, w, c) -> the same shape; each image mirrored left to right with probability 1/2."""
    count, height, width, _ = sides(images)
    rows = tf.broadcast_to(tf.range(height), (count, height))
    return _read(images, rows, _mirrored(tf.broadcast_to(tf.range(width), (count, width)), seed))


def pad_and_crop(images: tf.Tensor, seed: tf.Tensor, pad: int = 4, mode: str = "REFLECT", size: int | None = None) -> tf.Tensor:
    """(n, h, w, c) -> (n, size, size, c), or the same shape: padded by `pad` pixels on every side, then cropped at a random place
    per image. Modes: REFLECT mirrors at the outermost pixels, CONSTANT pads with zeros, RANDOM with values of 0..255."""
    return _crop(images, seed[None], pad, mode, size, mirror=False)


def crop_and_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The usual pair for CIFAR: reflect-pad by 4, crop, mirror. uint8 or float (n, h, w, c) -> the same."""
    return _crop(images, split(seed, 2), 4, "REFLECT", None, mirror=True)


def cutout(images: tf.Tensor, seed: tf.Tensor, size: int, p: float = 1.0) -> tf.Tensor:
    """(n, h, w, c) -> the same: with probability p a square of size x size becomes 0, cut off where it reaches over a border.

    Its middle is any pixel alike. Source: DeVries and Taylor, arXiv 1708.04552; 0 is the mean if it comes after normalisation.
    """
    count, height, width, channels = sides(images)
    seeds = split(seed, 3)
    chosen = uniform((count, 1), seeds[2]) < p
    bands = []
    for i, side in enumerate((height, width)):
        first = integers((count, 1), seeds[i], side) - size // 2
        bands.append((tf.range(side) >= first) & (tf.range(side) < first + size))
    kept = ~((bands[0] & chosen)[:, :, None] & tf.repeat(bands[1], channels, axis=1)[:, None, :])
    flat = tf.reshape(images, (count, height, width * channels))
    return tf.reshape(flat * tf.cast(kept, images.dtype), (count, height, width, channels))


def _shaded(images: tf.Tensor, offsets: tf.Tensor | float, scales: tf.Tensor | float) -> tf.Tensor:
    """0..255 (n, h, w, c), (n, 1, 1, 1) each -> float32 of 0..255: scale (logit(x / 255) + offset), and back."""
    share = tf.clip_by_value(tf.cast(images, tf.float32) * (1 / 255), 1e-7, 1 - 1e-7)
    return 255 * tf.sigmoid(scales * (tf.math.log(share / (1 - share)) + offsets))


def _offsets(images: tf.Tensor, seed: tf.Tensor, change: float, p: float) -> tf.Tensor:
    seeds, shape = split(seed, 2), (sides(images)[0], 1, 1, 1)
    grey = uniform(shape, seeds[0], 0.5 * (1 - change), 0.5 * (1 + change))
    return tf.where(uniform(shape, seeds[1]) < p, tf.math.log(grey / (1 - grey)), 0.0)


def _scales(images: tf.Tensor, seed: tf.Tensor, change: float, p: float) -> tf.Tensor:
    seeds, shape = split(seed, 2), (sides(images)[0], 1, 1, 1)
    limit = -math.log(1 - change)
    return tf.where(uniform(shape, seeds[1]) < p, tf.exp(uniform(shape, seeds[0], -limit, limit)), 1.0)


def brightness(images: tf.Tensor, seed: tf.Tensor, change: float = 0.2, p: float = 1.0) -> tf.Tensor:
    """0..255 (n, h, w, c) -> float32 of 0..255: with probability p logits of the values shifted, medium grey to anything from
    (1 - change) to (1 + change) of itself. Source: fastai 1.0."""
    return _shaded(images, _offsets(images, seed, change, p), 1.0)


def contrast(images: tf.Tensor, seed: tf.Tensor, change: float = 0.2, p: float = 1.0) -> tf.Tensor:
    """0..255 (n, h, w, c) -> float32 of 0..255: with probability p logits of the values scaled by 1 - change to its inverse,
    log-uniformly. Source: fastai 1.0."""
    return _shaded(images, 0.0, _scales(images, seed, change, p))


def lighting(images: tf.Tensor, seed: tf.Tensor, change: float = 0.2, p: float = 0.75) -> tf.Tensor:
    """Brightness, then contrast, in one pass; the seed is split in two, in that order."""
    seeds = split(seed, 2)
    return _shaded(images, _offsets(images, seeds[0], change, p), _scales(images, seeds[1], change, p))


def mixup(images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, alpha: float = 0.4) -> tuple[tf.Tensor, tf.Tensor]:
    """float (n, h, w, c), float one-hot (n, classes) -> the same: each mixed with a partner, a permutation of the batch.

    x = k x_i + (1 - k) x_j and so the targets, k = max(b, 1 - b), b ~ Beta(alpha, alpha) per image. Source: Zhang et al.,
    arXiv 1710.09412, as in fastai 1.0.
    """
    if not alpha > 0:
        raise ValueError(f"mixup with alpha {alpha}; it must be above 0")
    count = sides(images)[0]
    seeds = split(seed, 2)
    share, partner = smaller_share((count, 1), seeds[0], alpha), permutation(count, seeds[1])

    def mixed(tensor: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(tensor, (count, -1))
        return tf.reshape(flat + tf.cast(share, tensor.dtype) * (tf.gather(flat, partner) - flat), tf.shape(tensor))

    return mixed(images), mixed(targets)


def smooth_labels(targets: tf.Tensor, amount: float) -> tf.Tensor:
    """float (n, classes) -> the same: `amount` of each target, 0..1, spread evenly over the classes."""
    if not 0 <= amount <= 1:
        raise ValueError(f"labels smoothed by {amount}; it must be 0 to 1")
    return targets * (1 - amount) + amount / targets.shape[-1]


def augmented(images: tf.Tensor, seed: tf.Tensor, policy_name: str, mean, std) -> tf.Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, h, w, 3) or (n, size, size, 3): what the policy does, and normalised.

    Every kind of step has its own part of the seed, whichever of them a policy has: crop, flip, geometry, lighting, cutout.
    """
    row = policy(policy_name)
    seeds = split(seed, 5)
    if row.pad or row.size:
        images = _crop(images, seeds[:2], row.pad, row.mode, row.size, row.flip)
    elif row.flip:
        images = flip(images, seeds[1])
    if row.geometry:
        images = geometric(images, seeds[2], p=row.geometry)
    if row.lighting:
        images = lighting(images, seeds[3], p=row.lighting)
    images = normalise(images, mean, std) if row.normalised else normalise(images, (0.0,) * 3, (1.0,) * 3)
    return cutout(images, seeds[4], row.cutout) if row.cutout else images

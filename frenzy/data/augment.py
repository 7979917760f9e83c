"""Augmentation as pure functions on batches; all randomness is stateless, from a seed of shape (2,)."""

import numpy as np
import tensorflow as tf


def normalise(images: tf.Tensor, mean, std) -> tf.Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, h, w, 3): (x / 255 - mean) / std, mean and std per channel on the 0..1 scale."""
    spread = np.asarray(std, np.float64)
    scale, shift = 1 / (255 * spread), np.asarray(mean, np.float64) / spread
    return tf.cast(images, tf.float32) * tf.constant(scale, tf.float32) - tf.constant(shift, tf.float32)


def flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """(n, h, w, c) -> the same shape; each image mirrored left to right with probability 1/2."""
    chosen = tf.random.stateless_uniform((tf.shape(images)[0], 1, 1, 1), seed) < 0.5
    return tf.where(chosen, tf.reverse(images, [2]), images)


def pad_and_crop(images: tf.Tensor, seed: tf.Tensor, pad: int = 4, mode: str = "REFLECT") -> tf.Tensor:
    """(n, h, w, c) -> the same shape: padded by `pad` pixels on every side, then cropped at a random place per image."""
    shape = tf.shape(images)
    count, height, width = shape[0], shape[1], shape[2]
    padded = tf.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)], mode)
    corner = tf.random.stateless_uniform((count, 2), seed, 0, 2 * pad + 1, tf.int32)
    rows = corner[:, :1] + tf.range(height)
    columns = corner[:, 1:] + tf.range(width)
    padded = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(padded, columns, axis=2, batch_dims=1)


def crop_and_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The usual pair for CIFAR: reflect-pad by 4, crop, mirror. uint8 or float (n, h, w, c) -> the same."""
    seeds = tf.random.split(seed, 2)
    return flip(pad_and_crop(images, seeds[0]), seeds[1])

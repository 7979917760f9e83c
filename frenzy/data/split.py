"""One part of a data set as arrays, and its own parts: the hold-out for choices made along the way, the first few images."""

import dataclasses
import hashlib

import numpy as np


class DataError(Exception):
    """The data is missing or damaged; the message says what is, where, and what to do."""


@dataclasses.dataclass(frozen=True)
class Split:
    """images uint8 (n, h, w, 3), labels int32 (n,), the class names, a SHA-256 over images and labels, and what normalises the
    images: mean and std per channel on the 0..1 scale."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    sha256: str
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)


def checksum(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256, in hex, of the images' bytes followed by the labels'."""
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()


def make(images: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], mean=Split.mean, std=Split.std) -> Split:
    """A Split with its checksum."""
    labels = labels.astype(np.int32)
    return Split(images, labels, class_names, checksum(images, labels), mean, std)


def take(split: Split, chosen: np.ndarray | slice) -> Split:
    """The chosen images, with a checksum of their own."""
    return make(split.images[chosen], split.labels[chosen], split.class_names, split.mean, split.std)


def head(split: Split, n: int) -> Split:
    """The first n images; all of them where there are fewer."""
    if n < 1:
        raise DataError(f"the first {n} images are none; ask for 1 or more")
    return split if n >= len(split.images) else take(split, slice(n))


def crop(split: Split, size: int | None) -> Split:
    """The central size x size pixels of every image; None keeps them whole. An odd margin is cut one wider below and right."""
    height, width = split.images.shape[1:3]
    if size is None or size == height == width:
        return split
    if not 1 <= size <= min(height, width):
        raise DataError(
            f"image_size {size}: the images are {height}x{width}; take 1 to {min(height, width)}, or enlarge them in the model"
        )
    top, left = (height - size) // 2, (width - size) // 2
    images = np.ascontiguousarray(split.images[:, top : top + size, left : left + size])
    return make(images, split.labels, split.class_names, split.mean, split.std)


def _shares(sizes: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Whole numbers that sum to `count`, in proportion to `sizes`; what is left over goes to the largest fractions."""
    exact = sizes * count
    shares = exact // sizes.sum()
    tie_break = random.permutation(len(sizes))
    order = np.lexsort((tie_break, -(exact - shares * sizes.sum())))
    shares[order[: count - shares.sum()]] += 1
    return shares


def hold_out(split: Split, count: int, seed: int = 0) -> tuple[Split, Split]:
    """(rest, held): `held` has `count` images, every class its share of them (whole numbers, off by less than 1).

    Fixed by the seed and the labels alone; the two are disjoint, together all, and each in the order of `split`. With the same
    seed a smaller hold-out of equal classes lies inside a larger one if both counts are multiples of the number of classes.
    Choices made along the way are made on `held`, so that the test set is read once, at the end.
    """
    total = len(split.images)
    if not 0 < count < total:
        raise DataError(f"a hold-out of {count} out of {total} images; take 1 to {total - 1}")
    classes, labels, sizes = np.unique(split.labels, return_inverse=True, return_counts=True)
    shares = _shares(sizes, count, np.random.default_rng(seed))
    held = np.zeros(total, bool)
    for i, share in enumerate(shares):
        members = np.flatnonzero(labels == i)
        held[np.random.default_rng((seed, int(classes[i]))).permutation(members)[:share]] = True
    return take(split, ~held), take(split, held)

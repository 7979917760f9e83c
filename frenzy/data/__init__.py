"""Image sets as arrays, by name: each is read whole, stays uint8, and carries a checksum. Augmentation is in augment.py.

No part of this file imports TensorFlow.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

from frenzy.data import cifar, image_folder, synthetic, tiny_imagenet
from frenzy.data.split import DataError, Split, crop

SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set: the number of classes (0: its folder says), the side of its images unless another is asked for,
    read(split, data_dir, image_size, download) -> Split, and where it is from."""

    classes: int
    side: int
    read: Callable[[str, str | None, int | None, bool], Split]
    source: str


def _cifar(name: str, split: str, data_dir: str | None, image_size: int | None, download: bool) -> Split:
    return crop(cifar.load(name, split, data_dir, download), image_size)


def _image_folder(split: str, data_dir: str | None, image_size: int | None, download: bool) -> Split:
    return image_folder.load(split, data_dir, image_size)


def _synthetic(classes: int, split: str, data_dir: str | None, image_size: int | None, download: bool) -> Split:
    return synthetic.load(classes, split, image_size)


def _tiny_imagenet(classes: int, split: str, data_dir: str | None, image_size: int | None, download: bool) -> Split:
    return tiny_imagenet.load(classes, split, data_dir, image_size)


DATASETS = {
    "cifar10": Source(10, 32, partial(_cifar, "cifar10"), "Krizhevsky 2009; 50,000 and 10,000 images"),
    "cifar100": Source(100, 32, partial(_cifar, "cifar100"), "Krizhevsky 2009; 50,000 and 10,000 images"),
    "image_folder": Source(0, image_folder.SIZE, _image_folder, "any folder of class folders"),
    "synthetic10": Source(10, synthetic.SIZE, partial(_synthetic, 10), "drawn: shapes; 10,000 and 2,000 images"),
    "synthetic100": Source(100, synthetic.SIZE, partial(_synthetic, 100), "drawn: shapes x hues x textures; 10,000 and 2,000"),
    "tiny_imagenet": Source(200, 64, partial(_tiny_imagenet, 200), "Stanford CS231n 2015; 100,000 and 10,000 images"),
    "tiny_imagenet_100": Source(100, 64, partial(_tiny_imagenet, 100), "its first 100 classes, as many as IR-NET's"),
}


def source(name: str) -> Source:
    """The row of DATASETS. Raises DataError for a name that is not there."""
    if name not in DATASETS:
        raise DataError(f"no data set {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def classes(name: str, data_dir: str | None = None) -> int:
    """How many classes a data set has; of an image folder it is read off the folder."""
    return source(name).classes or len(image_folder.class_names(data_dir))


def load(name: str, split: str, data_dir: str | None = None, image_size: int | None = None, download: bool = False) -> Split:
    """The 'train' or 'test' split of a data set, as images of its own size or of image_size.

    image_folder and synthetic sets make images of that size; of the others it is the central part. `download` allows CIFAR to be
    fetched if it is nowhere. Raises DataError, one line, for what is unknown, missing or damaged.
    """
    found = source(name)
    if split not in SPLITS:
        raise DataError(f"no split {split!r} of {name}; known: {', '.join(SPLITS)}")
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size {image_size} of {name}; it must be 1 or more")
    return found.read(split, data_dir, image_size, download)

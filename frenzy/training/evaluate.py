"""How often a network is right: top-1, top-5, class by class."""

from collections.abc import Callable

import numpy as np

from frenzy.data import augment
from frenzy.data.split import Split


def top_k_hits(logits: np.ndarray, labels: np.ndarray, k: int) -> int:
    """How many of the labels (n,) are among the k largest logits (n, classes) of their row."""
    best = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    return int((best == labels[:, None]).any(-1).sum())


def logits_of(predict: Callable, split: Split, mean=None, std=None, batch_size: int = 250) -> np.ndarray:
    """Logits float32 (n, classes) of every image, by predict(normalised float32 (b, h, w, 3)) -> (b, classes).

    Normalised with the split's own mean and std where none are given.
    """
    mean, std = split.mean if mean is None else mean, split.std if std is None else std
    starts = range(0, len(split.images), batch_size)
    parts = (augment.normalise(split.images[start : start + batch_size], mean, std) for start in starts)
    return np.concatenate([np.asarray(predict(part), np.float32) for part in parts])


def accuracies(logits: np.ndarray, labels: np.ndarray) -> dict:
    """{'top1', 'top5' fractions of 1, 'n'}."""
    count = len(labels)
    return {"top1": top_k_hits(logits, labels, 1) / count, "top5": top_k_hits(logits, labels, 5) / count, "n": count}


def evaluate(predict: Callable, split: Split, batch_size: int = 250) -> dict:
    """{'top1', 'top5' fractions of 1, 'n'} of predict(float32 (b, h, w, 3)) -> logits (b, classes), over every image."""
    return accuracies(logits_of(predict, split, batch_size=batch_size), split.labels)


def confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int64 (classes, classes): how many images of the row's class got the column's answer."""
    classes = logits.shape[-1]
    return np.bincount(labels * classes + logits.argmax(-1), minlength=classes**2).reshape(classes, classes)

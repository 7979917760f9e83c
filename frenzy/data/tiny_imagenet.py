"""Tiny ImageNet: 200 classes of ImageNet at 64x64, 500 training images a class; the 50 validation images a class, whose labels
are public, are the test split.

    tiny-imagenet-200/wnids.txt, words.txt
    tiny-imagenet-200/train/<wnid>/images/*.JPEG
    tiny-imagenet-200/val/images/*.JPEG, val/val_annotations.txt       (or val/<wnid>/…/*.JPEG)

Found in `data_dir`, else in $FRENZY_DATA; the folder may hold tiny-imagenet-200/ or be it. Source: Stanford CS231n, 2015.
IR-NET was trained on 100 classes at 56x56 and does not say which: here they are the first 100 in the order of their wnids.
"""

import os
import pathlib

import numpy as np

from frenzy.data.image_folder import class_folders, read_files
from frenzy.data.split import DataError, Split, crop, make

FOLDER = "tiny-imagenet-200"
SIZE = 64
CLASSES = 200
MEAN, STD = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
AGAIN = "unpack tiny-imagenet-200.zip again"


def _find(data_dir: str | None) -> pathlib.Path:
    given = data_dir or os.environ.get("FRENZY_DATA")
    if not given:
        raise DataError(f"no folder with Tiny ImageNet: pass --data_dir, or set FRENZY_DATA, to one that holds {FOLDER}/")
    for candidate in (pathlib.Path(given) / FOLDER, pathlib.Path(given)):
        if (candidate / "wnids.txt").is_file():
            return candidate
    raise DataError(
        f"{given} holds no {FOLDER}/wnids.txt; unpack tiny-imagenet-200.zip there, or name another folder by --data_dir"
    )


def _lines(path: pathlib.Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"{path} is missing; {AGAIN}")
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _wnids(root: pathlib.Path, classes: int) -> list[str]:
    """The first `classes` of the 200, in the order of the alphabet."""
    wnids = sorted({line.strip() for line in _lines(root / "wnids.txt")} - {""})
    if len(wnids) != CLASSES:
        raise DataError(f"{root / 'wnids.txt'}: {len(wnids)} classes where {CLASSES} are due; {AGAIN}")
    return wnids[:classes]


def _names(root: pathlib.Path, wnids: list[str]) -> tuple[str, ...]:
    """The first of the words that stand for each wnid."""
    words = dict(line.split("\t", 1) for line in _lines(root / "words.txt") if "\t" in line)
    return tuple(words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids)


def _validation_files(root: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    if not (root / "val" / "val_annotations.txt").is_file():
        return class_folders(root / "val")
    files: dict[str, list[pathlib.Path]] = {}
    for line in sorted(_lines(root / "val" / "val_annotations.txt")):
        name, wnid, *_ = f"{line}\t".split("\t")
        files.setdefault(wnid, []).append(root / "val" / "images" / name)
    return files


def load(classes: int, split: str, data_dir: str | None = None, image_size: int | None = None) -> Split:
    """The 'train' or 'test' split of the first `classes` classes: uint8 (n, 64, 64, 3), or its central image_size pixels."""
    root = _find(data_dir)
    wnids = _wnids(root, classes)
    files = class_folders(root / "train") if split == "train" else _validation_files(root)
    if missing := [wnid for wnid in wnids if not files.get(wnid)]:
        raise DataError(f"{root}: no {split} images of class {missing[0]}; {AGAIN}")
    paths = [path for wnid in wnids for path in files[wnid]]
    labels = np.repeat(np.arange(classes), [len(files[wnid]) for wnid in wnids])
    return crop(make(read_files(paths, SIZE), labels, _names(root, wnids), MEAN, STD), image_size)

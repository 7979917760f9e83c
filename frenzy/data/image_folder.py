"""Any folder of class folders as a Split.

    ROOT/train/<class>/**/*.jpg, and ROOT/test/<class>/… or ROOT/val/<class>/…
    ROOT/<class>/**/*.jpg         (or train/ alone): a fixed 80 % of every class to train, 20 % to test

Classes and files are taken in the order of their names; names that start with a dot, and files that are no jpg, png, bmp, gif
or webp, are left out. Images become RGB and square: short side to the wanted size with antialiasing, then the centre.
"""

import concurrent.futures
import os
import pathlib
import zlib
from collections.abc import Sequence

import numpy as np

from frenzy.data.split import DataError, Split, make

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})
SIZE = 64
TEST_SHARE = 0.2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as is usual for photographs


def decode(path: pathlib.Path, size: int) -> np.ndarray:
    """An image file -> uint8 (size, size, 3). Raises DataError with the file's name."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bit, which convert() would clip
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            colours = upright.convert("RGBA" if upright.has_transparency_data else "RGB").convert("RGB")
            return np.asarray(ImageOps.fit(colours, (size, size), Image.Resampling.BICUBIC))
    except Exception as e:  # Pillow's decoders raise many kinds on damaged files
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:200]
        raise DataError(f"{path} is no image that can be read ({reason}); repair or remove it") from None


def read_files(paths: Sequence[pathlib.Path], size: int) -> np.ndarray:
    """Image files -> uint8 (n, size, size, 3), in order."""
    images = np.empty((len(paths), size, size, 3), np.uint8)

    def fill(indices: range) -> None:
        for i in indices:
            images[i] = decode(paths[i], size)

    chunks = [range(start, min(start + 64, len(paths))) for start in range(0, len(paths), 64)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        tasks = [pool.submit(fill, chunk) for chunk in chunks]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return images


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The image files in the folder, however deep, in the order of their paths."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def class_folders(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """{class: its image files} of a folder of class folders, sorted; folders without an image are left out."""
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; --data_dir takes a folder of class folders")
    found = {path.name: image_files(path) for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."}
    return {name: files for name, files in found.items() if files}


def _divided(files: dict[str, list[pathlib.Path]], root: pathlib.Path) -> dict[str, dict[str, list[pathlib.Path]]]:
    """Of every class a fixed TEST_SHARE, at least one file, to the test part; fixed by the class's name and number of files."""
    parts: dict[str, dict[str, list[pathlib.Path]]] = {"train": {}, "test": {}}
    for name, members in files.items():
        if len(members) < 2:
            raise DataError(
                f"{root / name} holds one image, and a split needs 2; add some, or make {root}/train and {root}/test"
            )
        order = np.random.default_rng(zlib.crc32(name.encode())).permutation(len(members))
        held = set(order[: max(1, round(TEST_SHARE * len(members)))].tolist())
        parts["train"][name] = [path for i, path in enumerate(members) if i not in held]
        parts["test"][name] = [path for i, path in enumerate(members) if i in held]
    return parts


def _parts(root: pathlib.Path) -> dict[str, dict[str, list[pathlib.Path]]]:
    """{'train' and 'test': {class: files}}; the classes are those of the training part."""
    whole = class_folders(root / "train" if (root / "train").is_dir() else root)
    if len(whole) < 2:
        raise DataError(
            f"{root}: {len(whole)} class folders with images, and a classifier needs 2; lay it out as <class>/<image>"
        )
    for name in ("test", "val") if (root / "train").is_dir() else ():
        if (root / name).is_dir() and (test := class_folders(root / name)):
            if unknown := sorted(set(test) - set(whole)):
                raise DataError(
                    f"{root / name / unknown[0]}: no such class in {root / 'train'}; its classes: {', '.join(whole)}"
                )
            return {"train": whole, "test": {name: test.get(name, []) for name in whole}}
    return _divided(whole, root)


def _root(data_dir: str | None) -> pathlib.Path:
    given = data_dir or os.environ.get("FRENZY_DATA")
    if not given:
        raise DataError("no folder of class folders: pass --data_dir, or set FRENZY_DATA")
    return pathlib.Path(given)


def class_names(data_dir: str | None = None) -> tuple[str, ...]:
    """The classes of the folder, sorted."""
    return tuple(_parts(_root(data_dir))["train"])


def load(split: str, data_dir: str | None = None, image_size: int | None = None) -> Split:
    """The 'train' or 'test' split of $FRENZY_DATA or data_dir. Raises DataError, one line, for a file that cannot be read."""
    files = _parts(_root(data_dir))[split]
    paths = [path for members in files.values() for path in members]
    labels = np.repeat(np.arange(len(files)), [len(members) for members in files.values()])
    return make(read_files(paths, image_size or SIZE), labels, tuple(files), MEAN, STD)

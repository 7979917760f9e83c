"""CIFAR-10 and CIFAR-100 from the official binary or python layout.

Found in `data_dir`, else in $FRENZY_DATA; the folder may hold the official sub-folder or be it:

    cifar-100-binary/{train,test}.bin           <coarse u8><fine u8><3072 u8> a record
    cifar-10-batches-bin/data_batch_1..5.bin, test_batch.bin   <label u8><3072 u8> a record
    cifar-100-python/{train,test,meta}          pickles
    cifar-10-batches-py/data_batch_1..5, test_batch, batches.meta

The 3072 bytes are 1024 red, 1024 green, 1024 blue, row-major. Source: Krizhevsky, "Learning Multiple Layers of Features
from Tiny Images", 2009.
"""

import dataclasses
import hashlib
import os
import pathlib
import pickle
from collections.abc import Sequence

import numpy as np

PIXELS = 32 * 32 * 3
SIDE = 32


class DataError(Exception):
    """The data is missing or damaged; the message says what is, where, and what to do."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where one dataset keeps its splits, in either official layout."""

    classes: int
    binary_folder: str
    binary_files: dict[str, tuple[str, ...]]
    names_file: str
    label_bytes: int  # in front of the pixels; the last of them is the class
    python_folder: str
    python_files: dict[str, tuple[str, ...]]
    python_labels: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_FIVE = tuple(f"data_batch_{i}" for i in range(1, 6))

LAYOUTS = {
    "cifar10": Layout(
        classes=10,
        binary_folder="cifar-10-batches-bin",
        binary_files={"train": tuple(f"{name}.bin" for name in _FIVE), "test": ("test_batch.bin",)},
        names_file="batches.meta.txt",
        label_bytes=1,
        python_folder="cifar-10-batches-py",
        python_files={"train": _FIVE, "test": ("test_batch",), "meta": ("batches.meta",)},
        python_labels="labels",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    ),
    "cifar100": Layout(
        classes=100,
        binary_folder="cifar-100-binary",
        binary_files={"train": ("train.bin",), "test": ("test.bin",)},
        names_file="fine_label_names.txt",
        label_bytes=2,
        python_folder="cifar-100-python",
        python_files={"train": ("train",), "test": ("test",), "meta": ("meta",)},
        python_labels="fine_labels",
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
}


@dataclasses.dataclass(frozen=True)
class Split:
    """images uint8 (n, 32, 32, 3), labels int32 (n,), the class names, and a SHA-256 over images and labels."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    sha256: str


class _PlainUnpickler(pickle.Unpickler):
    """Admits what the official files need (NumPy arrays of bytes) and nothing that could run code."""

    ALLOWED = frozenset(
        (module, name) for module in ("numpy.core.multiarray", "numpy._core.multiarray") for name in ("_reconstruct", "scalar")
    ) | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}

    def find_class(self, module: str, name: str):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no official file needs")
        return super().find_class(module, name)


def _records_to_images(rows: np.ndarray) -> np.ndarray:
    """uint8 (n, 3072), channel planes -> uint8 (n, 32, 32, 3)."""
    return np.ascontiguousarray(rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))


def _read_binary(path: pathlib.Path, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    record = label_bytes + PIXELS
    data = np.fromfile(path, np.uint8)
    if not len(data) or len(data) % record:
        raise DataError(f"{path}: {len(data)} bytes is no multiple of the record's {record}; unpack the archive again")
    rows = data.reshape(-1, record)
    return rows[:, label_bytes:], rows[:, label_bytes - 1]


def _unpickle(path: pathlib.Path) -> dict:
    try:
        with path.open("rb") as file:
            content = _PlainUnpickler(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, ImportError, IndexError, KeyError) as e:
        raise DataError(f"{path}: not an official CIFAR pickle ({e}); unpack the archive again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, not the official dictionary; unpack the archive again")
    return content


def _read_python(path: pathlib.Path, labels_key: str) -> tuple[np.ndarray, np.ndarray]:
    content = _unpickle(path)
    images, labels = content.get("data"), content.get(labels_key)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (PIXELS,):
        raise DataError(f"{path}: 'data' is no uint8 array of {PIXELS} columns; unpack the archive again")
    if not isinstance(labels, list) or len(labels) != len(images):
        raise DataError(f"{path}: '{labels_key}' is no list of {len(images)} labels; unpack the archive again")
    return images, np.asarray(labels)


def _find(layout: Layout, folder: pathlib.Path) -> tuple[pathlib.Path, bool]:
    """The folder that holds the files, and whether it is the binary layout."""
    for name, files, binary in (
        (layout.binary_folder, layout.binary_files, True),
        (layout.python_folder, layout.python_files, False),
    ):
        for candidate in (folder / name, folder):
            if all((candidate / file).is_file() for file in files["test"]) and (
                binary or (candidate / files["meta"][0]).is_file()
            ):
                return candidate, binary
    raise DataError(
        f"{folder} holds neither {layout.binary_folder}/ nor {layout.python_folder}/; "
        "unpack an official archive there, or name another folder by --data_dir or FRENZY_DATA"
    )


def _class_names(layout: Layout, folder: pathlib.Path, binary: bool) -> tuple[str, ...]:
    if binary:
        path = folder / layout.names_file
        if not path.is_file():
            raise DataError(f"{path} is missing; unpack the archive again")
        names: Sequence[str] = path.read_text().split()
    else:
        path = folder / layout.python_files["meta"][0]
        meta = _unpickle(path)
        names = meta.get("fine_label_names" if layout.classes == 100 else "label_names", ())
    if len(names) != layout.classes:
        raise DataError(f"{path}: {len(names)} class names where {layout.classes} are due; unpack the archive again")
    return tuple(names)


def load(name: str, split: str, data_dir: str | None = None) -> Split:
    """The 'train' or 'test' split of 'cifar10' or 'cifar100'. Raises DataError, one line, when it is missing or damaged."""
    layout = LAYOUTS[name]
    place = data_dir or os.environ.get("FRENZY_DATA")
    if not place:
        raise DataError(
            f"no folder with {name}: pass --data_dir, or set FRENZY_DATA, to one that holds {layout.binary_folder}/"
        )
    folder, binary = _find(layout, pathlib.Path(place))
    files = [folder / file for file in (layout.binary_files if binary else layout.python_files)[split]]
    if missing := [file for file in files if not file.is_file()]:
        raise DataError(f"{missing[0]} is missing; unpack the archive again")
    parts = [_read_binary(file, layout.label_bytes) if binary else _read_python(file, layout.python_labels) for file in files]
    rows, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if labels.min() < 0 or labels.max() >= layout.classes:
        raise DataError(
            f"{folder}: label {labels.max()} in {name}, which has {layout.classes} classes; unpack the archive again"
        )
    images, labels = _records_to_images(rows), labels.astype(np.int32)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    return Split(images, labels, _class_names(layout, folder, binary), digest)

"""CIFAR-10 and CIFAR-100 from the official binary or python layout.

Found in `data_dir` alone where one is given, else in $FRENZY_DATA, else in the cache of tf_keras, which may be filled by a
download. A folder may hold the official sub-folder or be it:

    cifar-100-binary/{train,test}.bin           <coarse u8><fine u8><3072 u8> a record
    cifar-10-batches-bin/data_batch_1..5.bin, test_batch.bin   <label u8><3072 u8> a record
    cifar-100-python/{train,test,meta}          pickles
    cifar-10-batches-py/data_batch_1..5, test_batch, batches.meta

The cache, ~/.keras/datasets or $KERAS_HOME/datasets, holds the python folders or their archives, {folder}.tar.gz. The 3072
bytes are 1024 red, 1024 green, 1024 blue, row-major. Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny
Images", 2009.
"""

import dataclasses
import hashlib
import io
import os
import pathlib
import pickle
import tarfile
import zlib
from collections.abc import Iterable

import numpy as np

from frenzy.data.split import DataError, Split, make

__all__ = ["LAYOUTS", "DataError", "Layout", "Split", "load"]

PIXELS = 32 * 32 * 3
SIDE = 32


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
    url: str  # of the python layout's archive
    archive_sha256: str
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
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        archive_sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
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
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        archive_sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
}


@dataclasses.dataclass(frozen=True)
class _Folder:
    """The files of one layout, unpacked."""

    path: pathlib.Path
    binary: bool

    def read(self, files: Iterable[str]) -> list[bytes]:
        if missing := [file for file in files if not (self.path / file).is_file()]:
            raise DataError(f"{self.path / missing[0]} is missing; unpack the archive again")
        return [(self.path / file).read_bytes() for file in files]


@dataclasses.dataclass(frozen=True)
class _Archive:
    """The official python archive as downloaded. Raises DataError where its SHA-256 is not the official one."""

    path: pathlib.Path
    layout: Layout
    binary = False

    def read(self, files: Iterable[str]) -> list[bytes]:
        with self.path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.layout.archive_sha256:
            raise DataError(f"{self.path}: SHA-256 {found}, not {self.layout.archive_sha256}; remove it and download it again")
        wanted = {f"{self.layout.python_folder}/{file}": file for file in files}
        contents = {}
        try:
            with tarfile.open(self.path, "r:gz") as tar:
                for member in tar:
                    if member.name in wanted and (stream := tar.extractfile(member)):
                        contents[wanted[member.name]] = stream.read()
        except (tarfile.TarError, EOFError, OSError, zlib.error) as e:
            raise DataError(f"{self.path} cannot be unpacked ({e}); remove it and download it again") from None
        if missing := [file for file in files if file not in contents]:
            raise DataError(f"{self.path} holds no {self.layout.python_folder}/{missing[0]}; remove it and download it again")
        return [contents[file] for file in files]


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


def _read_binary(content: bytes, where: str, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    record = layout.label_bytes + PIXELS
    if not content or len(content) % record:
        raise DataError(f"{where}: {len(content)} bytes is no multiple of the record's {record}; unpack the archive again")
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return rows[:, layout.label_bytes :], rows[:, layout.label_bytes - 1]


def _unpickle(content: bytes, where: str) -> dict:
    try:
        found = _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, ImportError, IndexError, KeyError) as e:
        raise DataError(f"{where}: not an official CIFAR pickle ({e}); unpack the archive again") from None
    if not isinstance(found, dict):
        raise DataError(f"{where}: holds a {type(found).__name__}, not the official dictionary; unpack the archive again")
    return found


def _read_python(content: bytes, where: str, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    batch = _unpickle(content, where)
    images, labels = batch.get("data"), batch.get(layout.python_labels)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (PIXELS,):
        raise DataError(f"{where}: 'data' is no uint8 array of {PIXELS} columns; unpack the archive again")
    if not isinstance(labels, list) or len(labels) != len(images) or not all(type(label) is int for label in labels):
        raise DataError(f"{where}: '{layout.python_labels}' is no list of {len(images)} labels; unpack the archive again")
    return images, np.asarray(labels)


def _class_names(content: bytes, where: str, layout: Layout, binary: bool) -> tuple[str, ...]:
    if binary:
        names = content.decode("latin1").split()
    else:
        names = _unpickle(content, where).get("fine_label_names" if layout.classes == 100 else "label_names", ())
    if len(names) != layout.classes:
        raise DataError(f"{where}: {len(names)} class names where {layout.classes} are due; unpack the archive again")
    return tuple(names)


def _find(layout: Layout, folder: pathlib.Path) -> _Folder | None:
    """Where in the folder the files are, the binary layout first."""
    for candidate in (folder / layout.binary_folder, folder):
        if all((candidate / file).is_file() for file in layout.binary_files["test"]):
            return _Folder(candidate, binary=True)
    for candidate in (folder / layout.python_folder, folder):
        if all((candidate / file).is_file() for file in (*layout.python_files["test"], *layout.python_files["meta"])):
            return _Folder(candidate, binary=False)
    return None


def cache_folder() -> pathlib.Path:
    """Where tf_keras keeps data sets: ~/.keras/datasets, or $KERAS_HOME/datasets."""
    return pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras") / "datasets"


def _download(layout: Layout, archive: pathlib.Path) -> _Archive:
    """Fetches the official archive into the cache, whole or not at all; progress goes to absl's log."""
    import tf_keras as keras

    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(f"{archive.name}.{os.getpid()}.part")
    talkative = keras.utils.is_interactive_logging_enabled()
    keras.utils.disable_interactive_logging()
    try:
        keras.utils.get_file(str(partial), layout.url, file_hash=layout.archive_sha256, hash_algorithm="sha256")
        os.replace(partial, archive)
    except Exception as e:  # get_file raises bare ones
        reason = " ".join(str(e).split())[:200]
        raise DataError(f"the download of {layout.url} failed ({reason}); unpack it yourself and pass --data_dir") from None
    finally:
        partial.unlink(missing_ok=True)
        if talkative:
            keras.utils.enable_interactive_logging()
    return _Archive(archive, layout)


def _place(name: str, layout: Layout, data_dir: str | None, download: bool) -> _Folder | _Archive:
    given = data_dir or os.environ.get("FRENZY_DATA")
    if given and (found := _find(layout, pathlib.Path(given))):
        return found
    cache = cache_folder()
    archive = cache / f"{layout.python_folder}.tar.gz"
    if not data_dir:
        if found := _find(layout, cache):
            return found
        if archive.is_file():
            return _Archive(archive, layout)
        if download:
            return _download(layout, archive)
    if given:
        raise DataError(
            f"{given} holds neither {layout.binary_folder}/ nor {layout.python_folder}/; "
            "unpack an official archive there, or name another folder by --data_dir or FRENZY_DATA"
        )
    raise DataError(
        f"no folder with {name}: pass --data_dir, or set FRENZY_DATA, to one that holds {layout.binary_folder}/; "
        f"the cache {cache} holds none either"
    )


def load(name: str, split: str, data_dir: str | None = None, download: bool = False) -> Split:
    """The 'train' or 'test' split of 'cifar10' or 'cifar100'. Raises DataError, one line, when it is missing or damaged."""
    layout = LAYOUTS[name]
    place = _place(name, layout, data_dir, download)
    files = (layout.binary_files if place.binary else layout.python_files)[split]
    names_file = layout.names_file if place.binary else layout.python_files["meta"][0]
    *contents, names = place.read((*files, names_file))
    read = _read_binary if place.binary else _read_python
    parts = [read(content, str(place.path / file), layout) for content, file in zip(contents, files, strict=True)]
    rows, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    wrong = labels[(labels < 0) | (labels >= layout.classes)]
    if len(wrong):
        raise DataError(
            f"{place.path}: label {wrong[0]} in {name}, which has {layout.classes} classes; unpack the archive again"
        )
    class_names = _class_names(names, str(place.path / names_file), layout, place.binary)
    return make(_records_to_images(rows), labels, class_names, layout.mean, layout.std)

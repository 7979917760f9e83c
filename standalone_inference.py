#!/usr/bin/env python3
"""Scores a SavedModel on the CIFAR test images, or names what image files show. Works alone, copied next to any SavedModel.

    python standalone_inference.py                                         SavedModel/ on all 10,000 test images
    python standalone_inference.py --load_folder F --images a.png images/   the five likeliest classes of each image

    --load_folder F     SavedModel that takes normalised float images (n, h, w, 3) and gives logits (n, classes) [SavedModel/];
                        beside the package frenzy also a file of tools/export.py --packed
    --batch_size N      images at a time, unless the SavedModel fixes that number [250]
    --dataset_name D    cifar100 or cifar10 [what the model card says, else cifar100]
    --data_dir D        folder with the official binary or python files [$FRENZY_DATA, the tf_keras cache, a download]
    --images F ...      image files, or folders of them, to classify instead of scoring
    --limit N           the first N images only
    --json              one JSON object on stdout; accuracies are fractions of 1
    --runtime R         tensorflow, litert, openvino, or auto: the fastest that is installed and agrees with TensorFlow [auto]
    --precision P       float32, bfloat16 (OpenVINO, where the processor has it), or auto: the faster one [auto]
    --threads N         cores to use [all]
    --tflite F          a file from tools/export.py --tflite, for LiteRT to run in place of its own conversion

Needs TensorFlow, NumPy and absl; Pillow for --images; ai-edge-litert and openvino are used where they are installed. What was
learned of a network (its conversion, TensorFlow's answers to check by, which engine was the fastest here) is kept in the folder
.NAME.cache beside it, else in the user's cache, under the hash of its content: the second start needs no TensorFlow.
Exit codes: 0 done, 2 bad input (one line on stderr), 130 interrupted.
"""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import hashlib
import http.client
import importlib.metadata
import importlib.util
import io
import json
import os
import pathlib
import pickle
import platform
import queue
import statistics
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

SIDE = 32
PIXELS = SIDE * SIDE * 3
IMAGE_KINDS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
RUNTIMES = {  # the packages that any one of is enough for each
    "litert": ("ai-edge-litert", "tensorflow"),
    "openvino": ("openvino",),
    "tensorflow": ("tensorflow",),
}
TITLES = {"litert": "LiteRT", "openvino": "OpenVINO", "tensorflow": "TensorFlow"}
CACHE_FORMAT = 1
READ_BEFORE = 100  # image files, so that one that cannot be read is told at once
STREAM_CHUNK = 32  # images at a time for a stream of one thread: what they need stays in its core's cache
MOST_OFF = 1e-3  # of the largest logit: float32 against TensorFlow
LEAST_AGREEMENT, AGREE_ON = 0.995, 1_000  # top-1 of narrower arithmetic against TensorFlow's, on so many test images
CLOSE_QUANTILE = 0.9
BURST = 0.05  # seconds that an engine runs on end when it is timed
AT_ONCE = 16  # images that are normalised at a time: they stay in the cache
ENGINES_RAISE = (RuntimeError, ValueError, MemoryError)  # where they fail on a call


class UserError(Exception):
    """The input is at fault; the message is the one line that the user sees."""


class EngineError(UserError):
    """An engine is missing here, refuses the network, or computes something else; others may not."""


class Disagreement(EngineError):
    """Narrow arithmetic that answers too many images otherwise: those whose two largest logits are within `margin`."""

    def __init__(self, text: str, margin: float):
        super().__init__(text)
        self.margin = margin


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The test file in its two official layouts. Normalisation is mean and std per channel, on the 0..1 scale."""

    classes: int
    normalisation: dict[str, list[float]]
    labels: tuple[str, ...]  # a byte each in front of a binary record's pixels; the last of them is the class
    binary: str
    python: str
    url: str
    sha256: str


DATASETS = {
    "cifar100": Dataset(
        classes=100,
        normalisation={"mean": [0.5071, 0.4865, 0.4409], "std": [0.2673, 0.2564, 0.2762]},
        labels=("coarse_labels", "fine_labels"),
        binary="cifar-100-binary/test.bin",
        python="cifar-100-python/test",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    ),
    "cifar10": Dataset(
        classes=10,
        normalisation={"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]},
        labels=("labels",),
        binary="cifar-10-batches-bin/test_batch.bin",
        python="cifar-10-batches-py/test_batch",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
}


def reason(error: BaseException) -> str:
    """Our own error's text, or another's kind and the first line of its text."""
    text = (str(error).strip().splitlines() or ["no further text"])[0][:200]
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def show_progress(done: int, total: int, text: str) -> None:
    """A bar on stderr, on terminals only."""
    if sys.stderr.isatty():
        bar = "#" * (30 * done // total)
        print(f"\r[{bar:<30}] {done:,}/{total:,} {text} ", end="\n" if done >= total else "", file=sys.stderr, flush=True)


def read_card(folder: pathlib.Path, dataset_name: str | None) -> dict[str, Any]:
    """assets.extra/model_card.json, its used keys checked; a `dataset_name` goes before the card's own."""
    path = folder / "assets.extra" / "model_card.json"
    if not path.exists():
        dataset = dataset_name or "cifar100"
        print(f"note: no model card {path}: normalised as is usual for {dataset}; MS and OC are not known", file=sys.stderr)
        return {"dataset": dataset, "preprocessing": DATASETS[dataset].normalisation, "counts": {}}
    try:
        card = {**json.loads(path.read_text(encoding="utf-8"))}
        mean, std = (np.array(card["preprocessing"][key], np.float64) for key in ("mean", "std"))
        if mean.shape != (3,) or std.shape != (3,) or not np.isfinite([mean, std]).all() or std.min() <= 0:
            raise ValueError(f"mean {mean.tolist()}, std {std.tolist()}")
        card["dataset"] = dataset_name or str(card["dataset"])
        card["class_names"] = [str(label) for label in card.get("class_names") or ()]
        card["counts"] = card.get("counts") or {}
        sum(row["storage_bytes"] + row["operations"] for row in card["counts"].values())  # raises unless all are numbers
    except Exception as e:  # what is in the file is anybody's guess
        needed = "JSON object with dataset, preprocessing.mean and preprocessing.std (three numbers each, std above 0)"
        raise UserError(f"{path} is no {needed} ({reason(e)}); export the model again, or remove the file") from None
    return card


class PlainUnpickler(pickle.Unpickler):
    """Admits what the official files need, NumPy arrays and byte strings, and refuses everything else by name."""

    def find_class(self, module: str, name: str) -> Any:
        admitted = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype", "_codecs.encode")
        if f"{module}.{name}".replace("numpy._core.", "numpy.core.") not in admitted:
            raise pickle.UnpicklingError(f"refused {module}.{name}, which no official file asks for")
        return super().find_class(module, name)


def read_binary(content: bytes, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Records of label bytes and pixels -> rows uint8 (n, 3072), labels (n,)."""
    label_bytes, record = len(dataset.labels), len(dataset.labels) + PIXELS
    if not content or len(content) % record:
        raise UserError(f"{len(content):,} bytes are no multiple of a record's {record:,}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return rows[:, label_bytes:], rows[:, label_bytes - 1]


def read_python(content: bytes, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """A pickled dictionary -> rows uint8 (n, 3072), labels (n,)."""
    batch = PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
    rows, labels = (np.asarray(batch.get(key.encode(), batch.get(key))) for key in ("data", dataset.labels[-1]))
    if labels.ndim != 1 or labels.dtype.kind not in "ui" or rows.dtype != np.uint8 or rows.shape != (len(labels), PIXELS):
        raise UserError(f"'data' {rows.shape} is not {PIXELS:,} bytes for each of the whole numbers in '{dataset.labels[-1]}'")
    return rows, labels


def read_test_file(content: bytes, where: pathlib.Path, dataset: Dataset) -> tuple[np.ndarray, np.ndarray, str]:
    """Either official layout -> images uint8 (n, 32, 32, 3), labels int64 (n,), and where they are from."""
    try:
        rows, labels = (read_binary if where.suffix == ".bin" else read_python)(content, dataset)
        wrong = np.flatnonzero((labels < 0) | (labels >= dataset.classes))
        if len(wrong):
            raise UserError(f"image {wrong[0]:,} has label {labels[wrong[0]]}, and labels are 0 to {dataset.classes - 1}")
    except Exception as e:  # a damaged pickle can raise almost anything
        raise UserError(f"{where} is damaged: {reason(e)}; unpack the official archive again") from None
    images = np.ascontiguousarray(rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
    return images, labels.astype(np.int64), str(where)


def load_test_set(name: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Images, labels, and the file they are from: --data_dir alone, else $FRENZY_DATA, the tf_keras cache, a download."""
    dataset, given = DATASETS[name], data_dir or os.environ.get("FRENZY_DATA")
    cache = pathlib.Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")) / "datasets"
    layouts = [pathlib.Path(dataset.binary), pathlib.Path(dataset.python)]
    paths = [pathlib.Path(given) / path for layout in layouts for path in (layout, layout.name)] if given else []
    for path in paths if data_dir else [*paths, cache / dataset.python]:
        if path.is_file():
            return read_test_file(path.read_bytes(), path, dataset)
    wanted = f"{dataset.binary} or {dataset.python}"
    if data_dir:
        raise UserError(f"--data_dir: {data_dir} is no folder with {wanted}; name another, or leave the flag out")
    archive = cache / f"{layouts[1].parent}.tar.gz"
    try:
        content = read_archive(archive, dataset)
    except (OSError, http.client.HTTPException) as e:
        raise UserError(
            f"no {name} test set. Three ways to it: (1) --data_dir D or FRENZY_DATA=D (now {given or 'not set'}), D holding "
            f"{wanted}; (2) {archive} in the tf_keras cache; (3) the download of {dataset.url}, which failed now ({reason(e)})"
        ) from None
    return read_test_file(content, archive / dataset.python, dataset)


def read_archive(archive: pathlib.Path, dataset: Dataset) -> bytes:
    """The test file inside the official archive, which is downloaded if missing and has its SHA-256 checked either way."""
    partial = archive.with_name(f"{archive.name}.{os.getpid()}.part")
    source = archive if archive.is_file() else partial
    try:
        if source == partial:
            download(dataset.url, partial)
        with source.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != dataset.sha256:
            raise UserError(f"{source} is damaged: SHA-256 {found}, not {dataset.sha256}; remove it and run again")
        source.replace(archive)
    finally:
        partial.unlink(missing_ok=True)
    with tarfile.open(archive, "r:gz") as tar, tar.extractfile(dataset.python) or io.BytesIO() as member:
        return member.read()


def download(url: str, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with urllib.request.urlopen(url, timeout=10) as reply, target.open("wb") as sink:
        print(f"downloading {url} to {target.parent}", file=sys.stderr)
        while chunk := reply.read(1 << 20):
            sink.write(chunk)
            show_progress(sink.tell(), sink.tell() + (reply.length or 0), "bytes")


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Descriptor 2 shut: the engines' C++ writes to it without asking."""
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as sink:
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def import_tensorflow() -> Any:
    """TensorFlow without its startup noise: its log level does not hold while it is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with hushed():
            import tensorflow as tf
    except ImportError as e:
        raise UserError(f"TensorFlow cannot be imported ({reason(e)}); pip install tensorflow") from None
    tf.get_logger().setLevel("ERROR")
    return tf


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A SavedModel's entry: a function of the tensor `key`, or of one argument where `key` is None."""

    tf: Any
    where: str
    root: Any
    function: Any
    key: str | None
    spec: Any  # the tf.TensorSpec of the images

    def outputs(self, inputs: Any) -> list:
        """The entry's tensors, in order, from normalised float32 images."""
        inputs = self.tf.cast(inputs, self.spec.dtype)
        return self.tf.nest.flatten(self.function(**{self.key: inputs}) if self.key else self.function(inputs))

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Normalised float32 (n, h, w, 3) -> float32 (n, classes)."""
        n = len(inputs)
        try:
            outputs = self.outputs(inputs)
        except (self.tf.errors.OpError, ValueError, TypeError) as e:
            raise UserError(f"{self.where} fails on images {inputs.shape} ({reason(e)}); export it for such images") from None
        tables = [output for output in outputs if len(getattr(output, "shape", ())) == 2]
        if len(tables) != 1 or len(tables[0]) != n:
            shapes = ", ".join(str(getattr(output, "shape", "none")) for output in outputs)
            raise UserError(f"{self.where} gives outputs {shapes} for {n} images; needed is just one of (images, classes)")
        return self.tf.cast(tables[0], self.tf.float32).numpy()

    def converted(self) -> bytes:
        """A TFLite file of float32 (n, h, w, 3) -> float32 (n, classes), stored casts folded. Raises EngineError."""
        tf, (batch, height, width) = self.tf, self.spec.shape[:3]

        def logits(images):
            (table,) = (output for output in self.outputs(images) if len(output.shape) == 2)
            return tf.cast(table, tf.float32)

        try:
            with hushed(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                spec = tf.TensorSpec((batch, height or SIDE, width or SIDE, 3), tf.float32)
                concrete = tf.function(logits).get_concrete_function(spec)
                return tf.lite.TFLiteConverter.from_concrete_functions([concrete], self.root).convert()
        except Exception as e:  # the converter raises whatever its passes raise
            raise EngineError(f"TensorFlow's converter refuses the network ({reason(e)})") from None


def load_classifier(folder: pathlib.Path, threads: int | None = None) -> Classifier:
    """The SavedModel's `serving_default`, else its only signature, else its root's `__call__`, checked to take images."""
    tf = import_tensorflow()
    if threads:
        with contextlib.suppress(RuntimeError):  # whoever imports this file may have run TensorFlow before
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
    try:
        root = tf.saved_model.load(str(folder))
    except Exception as e:  # TensorFlow raises many kinds, IndexError among them
        raise UserError(f"{folder} does not load ({reason(e)}): a file of it is missing or damaged; copy it again") from None
    signatures = dict(getattr(root, "signatures", {}))
    entry = next(iter(signatures)) if len(signatures) == 1 else "serving_default"
    if entry not in signatures:
        traces = getattr(root.__call__, "concrete_functions", []) if callable(root) else []
        if not traces:
            found = f"signatures {', '.join(sorted(signatures)) or 'none'}, and no traced __call__"
            raise UserError(f"{folder} has no entry to call: {found}; export it with signatures={{'serving_default': ...}}")
        entry, training = "__call__", lambda t: any(arg is True for arg in tf.nest.flatten(t.structured_input_signature))
        signatures[entry] = min(traces, key=training)
    args, kwargs = signatures[entry].structured_input_signature
    arguments = [*((None, argument) for argument in tf.nest.flatten(args)), *sorted(kwargs.items())]
    specs = [(key, argument) for key, argument in arguments if hasattr(argument, "dtype")]
    key, spec = specs[0] if len(specs) == 1 else (None, None)
    if spec is None or not spec.dtype.is_floating or spec.shape.rank != 4 or spec.shape[3] not in (3, None):
        taken = ", ".join(f"{s.dtype.name} {s.shape}" for _, s in specs) or "nothing"
        needed = "needed is one float tensor (n, height, width, 3): export such an entry as serving_default"
        raise UserError(f"{folder}: '{entry}' takes {taken}, which is not images; {needed}")
    return Classifier(tf, f"{folder}: '{entry}'", root, signatures[entry], key, spec)


# ---- what is known of a network


def version(package: str) -> str | None:
    """What is installed of it, without importing it; None where nothing is."""
    try:
        return importlib.metadata.version(package) if importlib.util.find_spec(package.replace("-", "_")) else None
    except importlib.metadata.PackageNotFoundError:  # built from source, or of another name: tensorflow-cpu
        return "unknown"


def processor() -> str:
    """Its name and whether it multiplies bfloat16: two machines of a kind share what was measured on one."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    kind = f"{names[0]} x{len(names)}" if names else platform.processor() or platform.machine()
    return f"{kind}{' with bfloat16' if 'avx512_bf16' in text or 'amx_bf16' in text else ''}"


def content_hash(source: pathlib.Path) -> str:
    """SHA-256 over the names and bytes of saved_model.pb and the files of variables/ and assets/; of a file's bytes."""
    digest = hashlib.sha256()
    inside = [path for part in ("variables", "assets") for path in sorted((source / part).rglob("*")) if path.is_file()]
    for path in [source] if source.is_file() else [*sorted(source.glob("saved_model.pb*")), *inside]:
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(source)}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return digest.hexdigest()


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Cache:
    """What was learned of one network: `facts`, and files whose SHA-256 are among them. What is damaged is learned again."""

    def __init__(self, source: pathlib.Path):
        source = source.resolve()
        versions = f"{CACHE_FORMAT} TensorFlow {version('tensorflow')}"
        self.key = hashlib.sha256(f"{versions} {content_hash(source)}".encode()).hexdigest()
        beside = source.parent / f".{source.name}.cache"
        users = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "frenzy" / self.key
        self.folder = beside if os.access(beside if beside.exists() else source.parent, os.W_OK) else users
        self.facts = self._read(self.folder / "facts.json")

    def _read(self, path: pathlib.Path) -> dict[str, Any]:
        try:
            digest, _, text = path.read_text(encoding="utf-8").partition("\n")
            if hashlib.sha256(text.encode()).hexdigest() != digest:
                raise ValueError("its checksum is wrong")
            facts = json.loads(text)
            if facts["key"] != self.key:
                raise ValueError("it is of another network or another TensorFlow")
            return facts
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as e:
            print(f"note: {path} is of no use ({reason(e)}); it is made anew", file=sys.stderr)
        return {"key": self.key, "files": {}, "checks": {}, "timings": {}}

    def write(self) -> None:
        """Where nothing can be written it is learned again next time."""
        text = json.dumps(self.facts)
        with contextlib.suppress(OSError):
            write_whole(self.folder / "facts.json", f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}".encode())

    def file(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The content of a file, made where it is missing or damaged."""
        path, known = self.folder / name, self.facts["files"].get(name)
        if known:
            with contextlib.suppress(OSError):
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() == known:
                    return content
            print(f"note: {path} is missing or damaged; it is made anew", file=sys.stderr)
        content = make()
        self.facts["files"][name] = hashlib.sha256(content).hexdigest()
        with contextlib.suppress(OSError):
            write_whole(path, content)
        self.write()
        return content


class Network:
    """A SavedModel by its folder, and what it was made of, which is the folder itself or a packed file: the cache is beside that.

    TensorFlow is imported only for what the cache does not hold.
    """

    def __init__(self, folder: pathlib.Path, source: pathlib.Path | None = None, threads: int | None = None):
        self.folder, self.source, self.threads = folder, source or folder, threads

    @functools.cached_property
    def classifier(self) -> Classifier:
        return load_classifier(self.folder, self.threads)

    @functools.cached_property
    def cache(self) -> Cache:
        return Cache(self.source)

    @property
    def loaded(self) -> bool:
        """Whether TensorFlow holds it."""
        return "classifier" in self.__dict__

    def load(self) -> Classifier:
        """Into TensorFlow."""
        return self.classifier

    @functools.cached_property
    def spec(self) -> tuple[str, int | None, int | None, int | None]:
        """(where, batch, height, width): the entry in words, and None where a size is open."""
        if self.loaded or "spec" not in self.cache.facts:
            return self.classifier.where, *list(self.classifier.spec.shape)[:3]
        return f"{self.folder}: {self.cache.facts['spec'][0]}", *self.cache.facts["spec"][1:]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.spec[2] or SIDE, self.spec[3] or SIDE, 3

    def made_up(self, count: int) -> np.ndarray:
        """float32 (count, h, w, 3): normal numbers, the same at every call."""
        return np.random.default_rng(0).standard_normal((count, *self.image_shape), np.float32)

    def reference(self) -> np.ndarray:
        """TensorFlow's logits of the first made-up images, float32 (n, classes)."""
        facts = self.cache.facts
        if "reference" not in facts:
            logits = self.classifier.logits(self.made_up(self.spec[1] or 8))
            facts["spec"] = [self.spec[0].removeprefix(f"{self.folder}: "), *self.spec[1:]]
            facts["reference"] = logits.astype(np.float64).tolist()
            self.cache.write()
        return np.array(facts["reference"], np.float32)

    def answers(self, images: np.ndarray) -> np.ndarray:
        """TensorFlow's logits of normalised images, float32 (n, classes)."""

        def make() -> bytes:
            plan, found = Plan("tensorflow", "float32", 1, 0, self.spec[1] or 100), []
            for logits in tensorflow_engine(self, plan).stream(len(images), images.__getitem__):
                found.append(logits)
                show_progress(sum(map(len, found)), len(images), "answers of TensorFlow to check by")
            return np.concatenate(found).tobytes()

        content = self.cache.file(f"answers-{hashlib.sha256(images.tobytes()).hexdigest()[:16]}", make)
        return np.frombuffer(content, np.float32).reshape(len(images), -1)


# ---- engines


def counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


@dataclasses.dataclass(frozen=True)
class Plan:
    """One way to run a network: so many streams of so many threads, each taking `chunk` images at a time.

    Images whose two largest logits are within `margin` of each other run once more, in float32.
    """

    runtime: str
    precision: str
    streams: int
    threads: int  # of a stream; 0: as many as TensorFlow likes
    chunk: int
    margin: float = 0.0

    @property
    def kind(self) -> str:
        return f"{TITLES[self.runtime]} {self.precision}{' with close calls in float32' if self.margin else ''}"

    def __str__(self) -> str:
        each = f"{counted(self.streams, 'stream')} of {counted(self.threads, 'thread')}" if self.threads else "its own threads"
        return f"{self.kind}, {each}, {counted(self.chunk, 'image')} at a time"


def filled(images: np.ndarray, count: int) -> np.ndarray:
    """float32 (n, ...) -> (count, ...), with zeros behind."""
    missing = count - len(images)
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.float32)]) if missing else images


def margins(logits: np.ndarray) -> np.ndarray:
    """(n, classes) -> (n,): how far the largest logit is above the second."""
    best = np.partition(logits, -2, axis=1)
    return best[:, -1] - best[:, -2]


Run = Callable[[np.ndarray], np.ndarray]  # normalised float32 (chunk, h, w, 3) -> float32 (chunk, classes)


@dataclasses.dataclass(frozen=True)
class Engine:
    """A network that runs as planned, by a function a stream."""

    plan: Plan
    runs: tuple[Run, ...]

    @functools.cached_property
    def pool(self) -> concurrent.futures.ThreadPoolExecutor:
        """A thread a stream, and one that makes the next chunk meanwhile."""
        return concurrent.futures.ThreadPoolExecutor(len(self.runs) + 1)

    def stream(self, count: int, prepare: Callable[[slice], np.ndarray], ahead: bool = True) -> Iterator[np.ndarray]:
        """Logits chunk by chunk, in order; prepare(slice) makes the images of a chunk, `ahead`: while others are in the network.

        The last chunk is filled up with zeros, whose logits are dropped.
        """
        chunk, free = self.plan.chunk, queue.SimpleQueue[Run]()
        for run in self.runs:
            free.put(run)

        def work(begin: int) -> np.ndarray:
            images = prepare(slice(begin, min(begin + chunk, count)))
            run = free.get()
            try:
                return run(filled(images, chunk))[: len(images)]
            finally:
                free.put(run)

        starts = range(0, count, chunk)
        alone = len(starts) == 1 or (len(self.runs) == 1 and not ahead)
        return map(work, starts) if alone else self.pool.map(work, starts)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Normalised float32 (n, h, w, 3) -> float32 (n, classes)."""
        if len(images) == self.plan.chunk:
            return self.runs[0](images)
        return np.concatenate(list(self.stream(len(images), images.__getitem__)))


def tensorflow_engine(network: Network, plan: Plan) -> Engine:
    return Engine(plan, (network.classifier.logits,))


def litert_interpreter() -> Any:
    """The interpreter of the package of its own, which needs no TensorFlow, else the one within TensorFlow."""
    if version("ai-edge-litert"):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as e:
            raise EngineError(f"it cannot be imported ({reason(e)}); pip install ai-edge-litert") from None
        return Interpreter
    return import_tensorflow().lite.Interpreter


def litert_precision(content: bytes) -> str:
    """The narrowest numbers of a TFLite file. Raises EngineError."""
    interpreter = litert_interpreter()
    try:
        with hushed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kinds = {tensor["dtype"] for tensor in interpreter(model_content=content).get_tensor_details()}
    except Exception as e:
        raise EngineError(f"it is no TFLite file that can be read ({reason(e)})") from None
    return next((np.dtype(kind).name for kind in (np.int8, np.uint8, np.float16) if kind in kinds), "float32")


def litert_engine(network: Network, plan: Plan, content: bytes) -> Engine:
    """An interpreter a stream, delegated to XNNPACK."""

    def run_of(interpreter: Any) -> Run:
        interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], (plan.chunk, *network.image_shape))
        interpreter.allocate_tensors()
        ((source, sink),) = zip(interpreter.get_input_details(), interpreter.get_output_details(), strict=True)
        if source["dtype"] != np.float32 or sink["dtype"] != np.float32:
            raise ValueError(f"it takes {source['dtype'].__name__} and gives {sink['dtype'].__name__}; both must be float32")
        into, out = source["index"], sink["index"]

        def run(images: np.ndarray) -> np.ndarray:
            interpreter.set_tensor(into, images)
            interpreter.invoke()
            return interpreter.get_tensor(out)

        return run

    make = litert_interpreter()
    try:
        with hushed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            streams = [make(model_content=content, num_threads=plan.threads) for _ in range(plan.streams)]
            return Engine(plan, tuple(map(run_of, streams)))
    except Exception as e:  # RuntimeError and ValueError, and whatever its bindings raise
        raise EngineError(f"it refuses the network ({reason(e)})") from None


def openvino_core() -> Any:
    try:
        with hushed():
            import openvino
    except ImportError as e:
        raise EngineError(f"it cannot be imported ({reason(e)}); pip install openvino") from None
    return kept_core(openvino.Core)


@functools.cache
def kept_core(kind: Callable[[], Any]) -> Any:
    """One for the process, to its end: every core lays its own stack for signals over the one before, and two that go in another
    order leave a stack that is no more, on which the next Ctrl-C would end in a segmentation fault."""
    return kind()


def openvino_engine(network: Network, plan: Plan) -> Engine:
    """The SavedModel as OpenVINO reads it, a request a stream."""
    core = openvino_core()
    from openvino import Tensor

    try:
        with hushed():
            model = core.read_model(str(network.folder))
            ((source,), (table,)) = model.inputs, [out for out in model.outputs if len(out.partial_shape) == 2]
            model.reshape([plan.chunk, *network.image_shape])
            options = {
                "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[plan.precision],
                "INFERENCE_NUM_THREADS": plan.threads * plan.streams,
                "NUM_STREAMS": plan.streams,
            }
            compiled = core.compile_model(model, "CPU", options)
            requests = [compiled.create_infer_request() for _ in range(plan.streams)]
    except Exception as e:  # RuntimeError for what it cannot read, ValueError for more tensors than one
        raise EngineError(f"it refuses the network ({reason(e)})") from None
    index, kind = model.outputs.index(table), source.element_type.to_dtype()

    def run_of(request: Any) -> Run:
        def run(images: np.ndarray) -> np.ndarray:
            held = np.ascontiguousarray(images, kind)  # the tensor only points to it
            request.set_input_tensor(Tensor(held, shared_memory=True))
            request.infer()
            return request.get_output_tensor(index).data.astype(np.float32)

        return run

    return Engine(plan, tuple(map(run_of, requests)))


def careful_engine(quick: Engine, exact: Engine, plan: Plan) -> Engine:
    """The quick engine's logits, and the exact one's for images that are close calls."""

    def run_of(run: Run, again: Run) -> Run:
        def both(images: np.ndarray) -> np.ndarray:
            logits, chunk = run(images), exact.plan.chunk
            close = np.flatnonzero(margins(logits) < plan.margin)
            for begin in range(0, len(close), chunk):
                part = close[begin : begin + chunk]
                logits[part] = again(filled(images[part], chunk))[: len(part)]
            return logits

        return both

    return Engine(plan, tuple(map(run_of, quick.runs, exact.runs)))


# ---- which of them


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def layouts(batch: int, threads: int, fixed: int | None) -> list[tuple[int, int, int]]:
    """(streams, threads of each, images at a time): the batch as one, and split over streams of one thread."""
    streams = min(threads, batch)
    split = (streams, 1, fixed or min(STREAM_CHUNK, -(-batch // streams)))
    return list(dict.fromkeys([(1, threads, fixed or batch), split]))


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What may be chosen from, and for what: batches of so many images. `tflite` is a file's content, in place of a conversion."""

    runtimes: tuple[str, ...]
    precision: str | None
    threads: int
    batch: int
    tflite: bytes | None = None

    @property
    def surroundings(self) -> str:
        """What an engine's numbers depend on beside the network: versions, processor, the TFLite file."""
        versions = [f"{package} {version(package)}" for package in ("ai-edge-litert", "openvino", "tensorflow")]
        file = hashlib.sha256(self.tflite).hexdigest() if self.tflite else "own conversion"
        return ", ".join([*versions, processor(), file])

    def key(self, checked: bool) -> str:
        """What a choice depends on beside the network. `checked`: there are images to check narrow arithmetic on."""
        return f"{self.runtimes}, {self.precision}, {self.threads} threads, {self.batch} a call, {checked}, {self.surroundings}"


def precisions(runtime: str, wanted: Wanted) -> list[str]:
    """Those of an engine that this processor is quick at."""
    if runtime == "litert" and wanted.tflite:
        return [litert_precision(wanted.tflite)]
    narrow = runtime == "openvino" and "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ["bfloat16", "float32"] if narrow else ["float32"]


def plans(network: Network, wanted: Wanted) -> tuple[list[Plan], dict[str, str]]:
    """All that could be run, and {engine: why not}."""
    found, left_out = [], {}
    for runtime in wanted.runtimes:
        if not any(map(version, RUNTIMES[runtime])):
            left_out[TITLES[runtime]] = f"not installed; pip install {RUNTIMES[runtime][0]}"
            continue
        try:
            known = precisions(runtime, wanted)
        except EngineError as e:
            left_out[TITLES[runtime]] = str(e)
            continue
        for precision in known if wanted.precision is None else [wanted.precision]:
            if precision not in known:
                left_out[TITLES[runtime]] = f"no {precision} here"
                continue
            spread = layouts(wanted.batch, wanted.threads, network.spec[1])
            each = spread[:1] if runtime == "tensorflow" else spread
            found += [Plan(runtime, precision, *layout) for layout in each]
    return found, left_out


def build(network: Network, plan: Plan, wanted: Wanted) -> Engine:
    """Raises EngineError."""
    if plan.runtime == "tensorflow":
        return tensorflow_engine(network, plan)
    if plan.runtime == "openvino":
        quick = openvino_engine(network, plan)
        exact = dataclasses.replace(plan, precision="float32", chunk=network.spec[1] or 1, margin=0.0)
        return careful_engine(quick, openvino_engine(network, exact), plan) if plan.margin else quick
    content = wanted.tflite or network.cache.file("float32.tflite", lambda: network.classifier.converted())
    return litert_engine(network, plan, content)


def check(network: Network, engine: Engine, wanted: Wanted, sample: np.ndarray) -> None:
    """Raises EngineError where an engine gives other logits than TensorFlow, or, in narrower arithmetic, other classes.

    `sample` holds normalised test images (n, h, w, 3) for the latter. What came of it is remembered.
    """
    if engine.plan.runtime == "tensorflow":
        return
    known, name, exact = network.cache.facts["checks"], f"{engine.plan.kind}, {wanted.surroundings}", "float32"
    if name not in known:
        if engine.plan.precision == exact:
            expected = network.reference()
            known[name] = difference(engine.logits(network.made_up(len(expected))), expected)
        elif len(sample) < AGREE_ON:
            raise EngineError(f"it is checked on {AGREE_ON:,} test images, here are {len(sample):,}; score the test set once")
        else:
            known[name] = agreement(engine.logits(sample[:AGREE_ON]), network.answers(sample[:AGREE_ON]))
        network.cache.write()
    if engine.plan.precision == exact:
        if not known[name] <= MOST_OFF:  # also where it is not a number
            raise EngineError(
                f"its logits are off TensorFlow's by {known[name]:.2g} of the largest; at most {MOST_OFF:g} is allowed"
            )
        return
    share, margin = known[name]
    if share < LEAST_AGREEMENT:
        limit = f"at least {LEAST_AGREEMENT:.1%} of {AGREE_ON:,} images are needed"
        raise Disagreement(f"it agrees with TensorFlow on {share:.1%}; {limit}", margin)


def difference(logits: np.ndarray, expected: np.ndarray) -> float:
    """The largest, as a share of the largest logit that is expected; infinite where the shapes differ."""
    return float(np.abs(logits - expected).max() / np.abs(expected).max()) if logits.shape == expected.shape else float("inf")


def agreement(logits: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """The share of images with the same class, and the margin that a change of logits by rounding does not bridge in nine of ten:
    the 90 % quantile of how far the distance between an image's two largest logits is off."""
    rows, best = np.arange(len(logits))[:, None], np.argsort(-logits, axis=1)[:, :2]
    off = np.abs(np.diff(logits[rows, best]) - np.diff(expected[rows, best]))
    return float((best[:, 0] == expected.argmax(1)).mean()), float(np.quantile(off, CLOSE_QUANTILE))


def timed(engines: Mapping[str, Engine], images: np.ndarray, seconds: float = 0.5) -> dict[str, float]:
    """Images a second by name: medians of calls until each engine had so many seconds, in bursts by turns. A first call does not
    count, unless it shows that an engine is out of the race: slow, and slower than half the best; nor does the first of a burst,
    which wakes threads and fills caches, unless it is a burst by itself."""

    def call(engine: Engine) -> float:
        start = time.perf_counter()
        engine.logits(images)
        return time.perf_counter() - start

    def burst(engine: Engine) -> list[float]:
        calls = [call(engine)]
        while sum(calls) < BURST:
            calls.append(call(engine))
        return calls[1:] or calls

    first = {name: call(engine) for name, engine in engines.items()}
    found: dict[str, list[float]] = {name: [] for name in engines}
    racing = [name for name in engines if first[name] <= max(2 * min(first.values()), seconds)]
    while racing:
        for name in racing:
            found[name] += burst(engines[name])
        racing = [name for name in racing if sum(found[name]) < seconds]
    return {name: len(images) / statistics.median(found[name] or [first[name]]) for name in engines}


def survey(network: Network, wanted: Wanted, sample: np.ndarray) -> tuple[dict[str, Any], dict[str, Engine]]:
    """Builds, checks and times every plan: the record {date, plans by speed, left_out}, and the engines by plan.

    TensorFlow takes part where it had to be imported anyway, or where nothing else is left.
    """
    waiting, left_out = plans(network, wanted)
    engines: dict[str, Engine] = {}
    while waiting:
        plan = waiting.pop(0)
        if plan.runtime == "tensorflow" and engines and not network.loaded:
            left_out[TITLES[plan.runtime]] = "not timed, for it was not needed; --runtime tensorflow"
            continue
        try:
            engine = build(network, plan, wanted)
            check(network, engine, wanted, sample)
            engines[str(plan)] = engine
        except (EngineError, *ENGINES_RAISE) as e:
            left_out[plan.kind] = reason(e)
            if isinstance(e, Disagreement) and plan.runtime == "openvino" and not plan.margin:
                waiting.insert(0, dataclasses.replace(plan, margin=e.margin))
    speeds = timed(engines, network.made_up(wanted.batch)) if len(engines) > 1 else dict.fromkeys(engines, 0.0)
    ordered = [[dataclasses.astuple(engines[name].plan), speeds[name]] for name in sorted(engines, key=lambda n: -speeds[n])]
    return {"date": datetime.date.today().isoformat(), "plans": ordered, "left_out": left_out}, engines


def choose(network: Network, wanted: Wanted, sample: np.ndarray) -> tuple[Engine, dict[str, Any]]:
    """The fastest engine that agrees with TensorFlow, and the record of why. Speeds are measured once for every batch size,
    number of threads, processor and set of versions. Raises UserError where there is none."""
    if wanted.runtimes == ("tensorflow",):
        plan = Plan("tensorflow", "float32", 1, wanted.threads, network.spec[1] or wanted.batch)
        return tensorflow_engine(network, plan), {"engine": str(plan), "left_out": {}, "speeds": {}}
    timings, name = network.cache.facts["timings"], wanted.key(len(sample) >= AGREE_ON)
    engines: dict[str, Engine] = {}
    if name not in timings:
        timings[name], engines = survey(network, wanted, sample)
        network.cache.write()
    record = timings[name]
    left_out: dict[str, str] = dict(record["left_out"])
    speeds: dict[str, float] = {}
    ordered = [(Plan(*fields), speed) for fields, speed in record["plans"]]
    for plan, speed in ordered:
        speeds.setdefault(plan.kind, speed)
    for plan, _ in ordered:
        try:
            engine = engines.get(str(plan)) or build(network, plan, wanted)
            check(network, engine, wanted, sample)
            return engine, {"engine": str(plan), "timed": record["date"], "speeds": speeds, "left_out": left_out}
        except (EngineError, *ENGINES_RAISE) as e:
            left_out[plan.kind] = reason(e)
    timings.pop(name)
    network.cache.write()
    raise UserError(f"no engine runs {network.folder}: {'; '.join(f'{kind}: {why}' for kind, why in left_out.items())}")


def why(choice: Mapping[str, Any], batch: int) -> str:
    """The choice in one line."""
    speeds = {kind: speed for kind, speed in choice["speeds"].items() if speed}
    measured = ", ".join(f"{kind} {speed:,.0f}" for kind, speed in speeds.items())
    parts = [choice["engine"]]
    if measured:
        parts.append(f"images/s at {counted(batch, 'image')} a call, timed {choice['timed']}: {measured}")
    parts += [f"without {kind}: {reason}" for kind, reason in choice["left_out"].items()]
    return "; ".join(parts)


def is_packed(path: pathlib.Path) -> bool:
    """Whether a file begins as safetensors do: eight bytes that say how long its JSON header is."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def unpacked(file: pathlib.Path, folder: str) -> str:
    """A packed network, rebuilt as a SavedModel in a folder."""
    import_tensorflow()
    try:
        from frenzy import packed
    except ImportError as e:
        way = "run this in the project's folder, or rebuild a SavedModel there by tools/export.py --unpack"
        raise UserError(f"--load_folder: '{file}' is a file, which takes the package frenzy ({reason(e)}); {way}") from None
    try:
        packed.unpack(file, folder)
    except packed.PackedError as e:
        raise UserError(f"--load_folder: {e}") from None
    return folder


def ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the right one, (n, k), (n,) -> (n,); ties go to the lower index, and NaN is never right."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    ties_before = (logits == own) & (np.arange(logits.shape[1]) < labels[:, None])
    return (~(logits <= own) | ties_before).sum(axis=1)


def normaliser(card: dict, shape: tuple[int, int, int]) -> Callable[..., np.ndarray]:
    """(uint8 (n, h, w, 3), out) -> float32 (n, h, w, 3): (pixel / 255 - mean) / std as one multiplication and one sum.

    `out` may be a float32 array of at least so many images to write to: new memory takes longer than the arithmetic.
    """
    mean, std = (np.array(card["preprocessing"][key], np.float64) for key in ("mean", "std"))
    scale, offset = (np.broadcast_to(row, shape).astype(np.float32, "C") for row in (1 / (255 * std), -mean / std))

    def normalise(images: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        into = np.empty(images.shape, np.float32) if out is None else out[: len(images)]
        for begin in range(0, len(images), AT_ONCE):
            part = into[begin : begin + AT_ONCE]
            part[...] = images[begin : begin + AT_ONCE]
            part *= scale
            part += offset
        return into

    return normalise


def score(
    engine: Engine, where: str, images: np.ndarray, labels: np.ndarray, card: dict, normalise: Callable
) -> dict[str, Any]:
    """Top-1 and top-5 over every image, the last partial batch included; the first images run once before, untimed."""
    own = threading.local()

    def prepare(part: slice) -> np.ndarray:
        if not hasattr(own, "images"):
            own.images = np.empty((engine.plan.chunk, *images.shape[1:]), np.float32)
        return normalise(images[part], own.images)

    width, classes = engine.logits(prepare(slice(engine.plan.chunk))).shape[1], DATASETS[card["dataset"]].classes
    if width != classes:
        raise UserError(f"{where} gives {width} logits, {card['dataset']} has {classes} classes; set --dataset_name")
    parts, done, total, start = [], 0, len(images), time.perf_counter()
    spare = 0 < engine.plan.threads < cores()  # a core that the network leaves idle; else its threads would wait for each other
    for logits in engine.stream(total, prepare, ahead=spare):
        parts.append(logits)
        done += len(logits)
        show_progress(done, total, f"{done / (time.perf_counter() - start):,.0f} images/s")
    found = ranks(np.concatenate(parts), labels)
    speed = round(total / (time.perf_counter() - start), 1)
    return {"n": total, **{f"top{k}": int((found < k).sum()) / total for k in (1, 5)}, "images_per_second": speed}


def read_image(path: str, height: int | None, width: int | None) -> np.ndarray:
    """An image file -> uint8 (1, height, width, 3)."""
    try:
        from PIL import Image

        with Image.open(path) as image:
            pixels = image.convert("RGB").resize((width or SIDE, height or SIDE), Image.Resampling.BICUBIC)
    except ModuleNotFoundError as e:
        raise UserError(f"--images needs Pillow ({reason(e)}); pip install pillow") from None
    except Exception as e:  # Pillow's decoders raise many kinds on damaged files
        raise UserError(f"--images: {path} is no image that can be read ({reason(e)}); name PNG, JPEG or the like") from None
    return np.asarray(pixels)[None]


def image_files(paths: Sequence[str]) -> list[str]:
    """Files as they are, folders as the images in them by name. Raises UserError where a folder holds none."""
    found = []
    for path in paths:
        inside = [path]
        if os.path.isdir(path):
            inside = [str(file) for file in sorted(pathlib.Path(path).iterdir()) if file.suffix.lower() in IMAGE_KINDS]
        if not inside:
            raise UserError(f"--images: folder {path} is no image, and holds none ({', '.join(sorted(IMAGE_KINDS))})")
        found += inside
    return found


def classify(engine: Engine, network: Network, paths: Sequence[str], card: dict) -> list[dict[str, Any]]:
    """The five likeliest classes of every image file; files are decoded while others are in the network."""
    normalise = normaliser(card, network.image_shape)

    def prepare(part: slice) -> np.ndarray:
        return normalise(np.concatenate([read_image(path, *network.image_shape[:2]) for path in paths[part]]))

    rows = np.concatenate(list(engine.stream(len(paths), prepare))).astype(np.float64)
    return [likeliest(network.spec[0], path, row, card) for path, row in zip(paths, rows, strict=True)]


def likeliest(where: str, path: str, row: np.ndarray, card: dict) -> dict[str, Any]:
    """The five likeliest classes by the logits (classes,) of an image."""
    names = card.get("class_names") or [f"class {i}" for i in range(len(row))]
    if len(names) != len(row) or np.isnan(row).any():
        raise UserError(f"{where} gives {row} for {path}, and its card has {len(names)} class names; export it again")
    odds = np.exp(row - row.max())
    best = [int(i) for i in np.argsort(-row, kind="stable")[:5]]
    return {"file": path, "top5": [{"class": i, "name": names[i], "probability": odds[i] / odds.sum()} for i in best]}


def describe(report: dict[str, Any]) -> str:
    """What people read."""
    if "images" in report:
        tops = [[f["file"], *(f"  {top['probability']:7.2%}  {top['name']}" for top in f["top5"])] for f in report["images"]]
        return "\n".join(line for lines in tops for line in lines)
    part = f"the first {report['n']:,} of {report['of']:,}" if report["n"] < report["of"] else f"all {report['n']:,}"
    lines = [f"{report['name']} on {part} test images of {report['dataset']}", f"n         {report['n']:,}"]
    lines += [*(f"top-{k}     {report[f'top{k}']:.2%}" for k in (1, 5)), f"images/s  {report['images_per_second']:,.1f}"]
    lines.append(f"runtime   {report['runtime']['why']}")
    for convention, row in report["counts"].items():
        lines += [f"MS        {row['storage_bytes'] / 2**20:,.3f} MiB ({row['storage_bytes']:,.0f} bytes; {convention})"]
        lines += [f"OC        {row['operations'] / 1e6:,.3f} M operations ({convention})"]
    return "\n".join(lines if report["counts"] else [*lines, "MS        not known", "OC        not known"])


def parse_flags(argv: list[str]) -> flags.FlagValues:
    """Raises UserError for what absl refuses. Arguments without a flag are further --images."""
    values = flags.FlagValues()
    flags.DEFINE_string("load_folder", "SavedModel/", "SavedModel", flag_values=values)
    flags.DEFINE_integer("batch_size", 250, "images at a time", lower_bound=1, flag_values=values)
    flags.DEFINE_enum("dataset_name", None, list(DATASETS), "test set", flag_values=values)
    flags.DEFINE_string("data_dir", None, "folder with the official files", flag_values=values)
    flags.DEFINE_multi_string("images", [], "image files", flag_values=values)
    flags.DEFINE_integer("limit", None, "score the first N images", lower_bound=1, flag_values=values)
    flags.DEFINE_enum("runtime", "auto", ["auto", *RUNTIMES], "engine", flag_values=values)
    flags.DEFINE_enum("precision", "auto", ["auto", "float32", "bfloat16"], "arithmetic", flag_values=values)
    flags.DEFINE_integer("threads", None, "cores to use", lower_bound=1, flag_values=values)
    flags.DEFINE_string("tflite", None, "file for LiteRT to run", flag_values=values)
    flags.DEFINE_boolean("json", False, "one JSON object on stdout", flag_values=values)
    flags.DEFINE_boolean("help", False, "this text", short_name="h", flag_values=values)
    values.set_gnu_getopt(True)
    try:
        further = values(argv)[1:]
    except flags.Error as e:
        raise UserError(f"{e}; --help lists the flags") from None
    if further and not values.images:
        raise UserError(f"unexpected argument '{further[0]}'; the folder goes after --load_folder, image files after --images")
    lists = [[value] if os.path.exists(value) else value.split(",") for value in values.images]
    values.images = [*(file for files in lists for file in files), *further]
    if values.threads and values.threads > cores():
        raise UserError(f"--threads={values.threads}: this process may use {cores()} cores; take 1 to {cores()}")
    if values.precision == "bfloat16" and values.runtime not in ("auto", "openvino"):
        raise UserError("--precision bfloat16 is for OpenVINO alone; leave it out, or take --runtime openvino")
    if values.tflite and values.runtime not in ("auto", "litert"):
        raise UserError(f"--tflite is for LiteRT alone, and --runtime is {values.runtime}; take --runtime litert")
    return values


def read_tflite(path: str | None) -> bytes | None:
    try:
        return pathlib.Path(path).read_bytes() if path else None
    except OSError as e:
        raise UserError(f"--tflite: {path} cannot be read ({reason(e)}); write one with tools/export.py --tflite") from None


def open_network(folder: pathlib.Path, values: flags.FlagValues, source: pathlib.Path) -> Network:
    """Under --runtime tensorflow it is loaded at once, and the cache left out."""
    network = Network(folder, source, values.threads)
    if values.runtime == "tensorflow":
        network.load()
    return network


def engine_for(values: flags.FlagValues, network: Network, count: int, sample: np.ndarray) -> tuple[Engine, dict[str, Any]]:
    """The engine that the flags ask for, for so many images, and why it is this one."""
    wanted = Wanted(
        runtimes=tuple(RUNTIMES) if values.runtime == "auto" else (values.runtime,),
        precision=None if values.precision == "auto" else values.precision,
        threads=values.threads or cores(),
        batch=network.spec[1] or min(values.batch_size, count),
        tflite=read_tflite(values.tflite),
    )
    engine, choice = choose(network, wanted, sample)
    return engine, choice | {"why": why(choice, wanted.batch)}


def name_images(values: flags.FlagValues, folder: pathlib.Path, source: pathlib.Path, card: dict) -> dict[str, Any]:
    """What the image files show. The first files are read before anything is loaded."""
    files = image_files(values.images)[: values.limit]
    for path in files[:READ_BEFORE]:
        read_image(path, SIDE, SIDE)
    network = open_network(folder, values, source)
    engine, choice = engine_for(values, network, len(files), np.zeros((0, *network.image_shape), np.float32))
    return {"runtime": choice, "images": classify(engine, network, files, card)}


def score_test_set(values: flags.FlagValues, folder: pathlib.Path, source: pathlib.Path, card: dict) -> dict[str, Any]:
    """Accuracy and speed on the test images."""
    if card["dataset"] not in DATASETS:
        raise UserError(f"{folder}: no test set '{card['dataset']}' (from its card); set --dataset_name {'|'.join(DATASETS)}")
    images, labels, file = load_test_set(card["dataset"], values.data_dir)
    if len(images) != 10_000:
        print(f"note: {file} holds {len(images):,} images; the official test set has 10,000", file=sys.stderr)
    network = open_network(folder, values, source)
    where, batch, height, width = network.spec
    if height not in (SIDE, None) or width not in (SIDE, None):
        raise UserError(f"{where} takes images of {height} x {width}; those of {card['dataset']} are {SIDE} x {SIDE}")
    normalise = normaliser(card, network.image_shape)
    count = min(len(images), values.limit or len(images))
    engine, choice = engine_for(values, network, count, normalise(images[:AGREE_ON]))
    report = {"data": file, "batch_size": batch or values.batch_size, "of": len(images), "runtime": choice}
    report |= score(engine, where, images[:count], labels[:count], card, normalise)
    return report | {"counts": card["counts"], "card_accuracy": card.get("accuracy")}


def run(values: flags.FlagValues, source: pathlib.Path | None = None) -> dict[str, Any]:
    """The report. What needs no TensorFlow comes first, so that errors come fast. `source`: where the SavedModel is from."""
    folder = pathlib.Path(values.load_folder)
    if folder.is_file() and is_packed(folder):
        with tempfile.TemporaryDirectory() as rebuilt:
            values.load_folder = unpacked(folder, rebuilt)
            return run(values, folder) | {"load_folder": str(folder)}
    if not any((folder / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        problem = "is no SavedModel: it holds no saved_model.pb" if folder.is_dir() else "is no folder"
        raise UserError(f"--load_folder: '{folder}' {problem}; name a folder that holds saved_model.pb")
    card = read_card(folder, values.dataset_name)
    report = {"load_folder": str(folder), "name": card.get("name", folder.resolve().name), "dataset": card["dataset"]}
    return report | (name_images if values.images else score_test_set)(values, folder, source or folder, card)


def main(argv: list[str]) -> int:
    try:
        values = parse_flags(argv)
        report = {} if values.help else run(values)
        print(__doc__ if values.help else json.dumps(report) if values.json else describe(report))
        return 0
    except (UserError, OSError) as e:
        message, code = " ".join(reason(e).split()), 2
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    print(f"standalone_inference: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv))

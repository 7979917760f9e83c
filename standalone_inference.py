#!/usr/bin/env python3
"""Scores a SavedModel on the CIFAR test images, or names what image files show. Works alone, copied next to any SavedModel.

    python standalone_inference.py                                         SavedModel/ on all 10,000 test images
    python standalone_inference.py --load_folder F --images a.png b.jpg    the five likeliest classes of each image

    --load_folder F     SavedModel that takes normalised float images (n, h, w, 3) and gives logits (n, classes) [SavedModel/]
    --batch_size N      images at a time, unless the SavedModel fixes that number [250]
    --dataset_name D    cifar100 or cifar10 [what the model card says, else cifar100]
    --data_dir D        folder with the official binary or python files [$FRENZY_DATA, the tf_keras cache, a download]
    --images F ...      image files to classify, instead of scoring
    --limit N           score the first N images only
    --json              one JSON object on stdout; accuracies are fractions of 1

Needs TensorFlow, NumPy and absl; Pillow for --images. Exit codes: 0 done, 2 bad input (one line on stderr), 130 interrupted.
"""

import dataclasses
import hashlib
import http.client
import io
import json
import os
import pathlib
import pickle
import sys
import tarfile
import time
import urllib.request
from typing import Any

import numpy as np
from absl import flags

SIDE = 32
PIXELS = SIDE * SIDE * 3


class UserError(Exception):
    """The input is at fault; the message is the one line that the user sees."""


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
    return rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), labels.astype(np.int64), str(where)


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


def import_tensorflow() -> Any:
    """TensorFlow without its startup noise: its log level does not hold while it is imported, so descriptor 2 is shut."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as sink:
            os.dup2(sink.fileno(), 2)
        import tensorflow as tf
    except ImportError as e:
        raise UserError(f"TensorFlow cannot be imported ({reason(e)}); pip install tensorflow") from None
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    tf.get_logger().setLevel("ERROR")
    return tf


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A SavedModel's entry: a function of the tensor `key`, or of one argument where `key` is None."""

    tf: Any
    where: str
    function: Any
    key: str | None
    spec: Any  # the tf.TensorSpec of the images

    def logits(self, images: np.ndarray, card: dict) -> np.ndarray:
        """uint8 (n, h, w, 3) -> float32 (n, classes). A fixed batch is filled up with zeros, whose outputs are dropped."""
        tf, n = self.tf, self.spec.shape[0] or len(images)
        mean, std = (np.array(card["preprocessing"][key], np.float32) for key in ("mean", "std"))
        tensor = np.zeros((n, *images.shape[1:]), np.float32)
        tensor[: len(images)] = (images.astype(np.float32) / 255 - mean) / std
        inputs = tf.cast(tensor, self.spec.dtype)
        try:
            outputs = tf.nest.flatten(self.function(**{self.key: inputs}) if self.key else self.function(inputs))
        except (tf.errors.OpError, ValueError, TypeError) as e:
            raise UserError(f"{self.where} fails on images {tensor.shape} ({reason(e)}); export it for such images") from None
        tables = [output for output in outputs if len(getattr(output, "shape", ())) == 2]
        if len(tables) != 1 or len(tables[0]) != n:
            shapes = ", ".join(str(getattr(output, "shape", "none")) for output in outputs)
            raise UserError(f"{self.where} gives outputs {shapes} for {n} images; needed is just one of (images, classes)")
        return tf.cast(tables[0], tf.float32).numpy()[: len(images)]


def load_classifier(folder: pathlib.Path) -> Classifier:
    """The SavedModel's `serving_default`, else its only signature, else its root's `__call__`, checked to take images."""
    tf = import_tensorflow()
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
    return Classifier(tf, f"{folder}: '{entry}'", signatures[entry], key, spec)


def ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the right one, (n, k), (n,) -> (n,); ties go to the lower index, and NaN is never right."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    ties_before = (logits == own) & (np.arange(logits.shape[1]) < labels[:, None])
    return (~(logits <= own) | ties_before).sum(axis=1)


def score(model: Classifier, images: np.ndarray, labels: np.ndarray, card: dict, batch_size: int) -> dict[str, Any]:
    """Top-1 and top-5 over every image, the last partial batch included; the first batch runs once before, untimed."""
    width, classes = model.logits(images[:batch_size], card).shape[1], DATASETS[card["dataset"]].classes
    if width != classes:
        raise UserError(f"{model.where} gives {width} logits, {card['dataset']} has {classes} classes; set --dataset_name")
    total, top1, top5, start = len(images), 0, 0, time.perf_counter()
    for begin in range(0, total, batch_size):
        batch = slice(begin, begin + batch_size)
        rank = ranks(model.logits(images[batch], card), labels[batch])
        top1, top5 = top1 + int((rank < 1).sum()), top5 + int((rank < 5).sum())
        done, seconds = begin + len(rank), time.perf_counter() - start
        show_progress(done, total, f"{done / seconds:,.0f} images/s")
    return {"n": total, "top1": top1 / total, "top5": top5 / total, "images_per_second": round(total / seconds, 1)}


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


def classify(model: Classifier, path: str, card: dict) -> dict[str, Any]:
    """The five likeliest classes of an image file."""
    row = model.logits(read_image(path, *model.spec.shape[1:3]), card)[0].astype(np.float64)
    names = card.get("class_names") or [f"class {i}" for i in range(len(row))]
    if len(names) != len(row) or np.isnan(row).any():
        raise UserError(f"{model.where} gives {row} for {path}, and its card has {len(names)} class names; export it again")
    odds = np.exp(row - row.max())
    best = [int(i) for i in np.argsort(-row, kind="stable")[:5]]
    return {"file": path, "top5": [{"class": i, "name": names[i], "probability": odds[i] / odds.sum()} for i in best]}


def describe(report: dict[str, Any]) -> str:
    if "images" in report:
        tops = [[f["file"], *(f"  {top['probability']:7.2%}  {top['name']}" for top in f["top5"])] for f in report["images"]]
        return "\n".join(line for lines in tops for line in lines)
    part = f"the first {report['n']:,} of {report['of']:,}" if report["n"] < report["of"] else f"all {report['n']:,}"
    lines = [f"{report['name']} on {part} test images of {report['dataset']}", f"n         {report['n']:,}"]
    lines += [*(f"top-{k}     {report[f'top{k}']:.2%}" for k in (1, 5)), f"images/s  {report['images_per_second']:,.1f}"]
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
    values.images = [*(file for files in lists for file in files), *further][: values.limit]
    return values


def run(values: flags.FlagValues) -> dict[str, Any]:
    """The report. What needs no TensorFlow comes first, so that errors come fast."""
    folder = pathlib.Path(values.load_folder)
    if not any((folder / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        problem = "is no SavedModel: it holds no saved_model.pb" if folder.is_dir() else "is no folder"
        raise UserError(f"--load_folder: '{folder}' {problem}; name a folder that holds saved_model.pb")
    card = read_card(folder, values.dataset_name)
    report = {"load_folder": str(folder), "name": card.get("name", folder.resolve().name), "dataset": card["dataset"]}
    if values.images:
        for path in values.images:
            read_image(path, SIDE, SIDE)
        model = load_classifier(folder)
        return report | {"images": [classify(model, path, card) for path in values.images]}
    if card["dataset"] not in DATASETS:
        raise UserError(f"{folder}: no test set '{card['dataset']}' (from its card); set --dataset_name {'|'.join(DATASETS)}")
    images, labels, source = load_test_set(card["dataset"], values.data_dir)
    if len(images) != 10_000:
        print(f"note: {source} holds {len(images):,} images; the official test set has 10,000", file=sys.stderr)
    model = load_classifier(folder)
    batch, height, width, _ = model.spec.shape
    if height not in (SIDE, None) or width not in (SIDE, None):
        raise UserError(f"{model.where} takes images of {height} x {width}; those of {card['dataset']} are {SIDE} x {SIDE}")
    report |= {"data": source, "batch_size": batch or values.batch_size, "of": len(images)}
    report |= score(model, images[: values.limit], labels[: values.limit], card, batch or values.batch_size)
    return report | {"counts": card["counts"], "card_accuracy": card.get("accuracy")}


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

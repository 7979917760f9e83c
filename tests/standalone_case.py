"""For the tests of standalone_inference.py: tiny SavedModels, tiny data in the official layouts, no network."""

import json
import os
import pathlib
import pickle
import re
import shutil
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow as tf

import standalone_inference as script

REAL_DATA = os.environ.get("FRENZY_DATA")
MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.3]
N = 23
WRONG = (3, 11, 20, 22)  # these images show another class than their label says; the last two are in the partial batch
FAR = (11, 22)  # and these another class by far: not among the five likeliest
COUNTS = {
    "frenzy": {"parameters": 4_419_800, "storage_bytes": 8_839_600.0, "operations": 828_928_000.0, "score": 0.2001},
    "micronet": {"parameters": 4_419_800, "storage_bytes": 9_000_000, "operations": 850_000_000, "score": 0.142},
}


class PixelReader(tf.Module):
    """Logits that peak at the class that is the red value of the first pixel, and fall off by one a class."""

    def __init__(self, classes: int, mean: float = MEAN[0], std: float = STD[0]):
        super().__init__()
        self.classes = tf.Variable(tf.range(classes, dtype=tf.float32))
        self.mean, self.std = tf.Variable(mean), tf.Variable(std)

    def logits(self, images):
        shown = tf.round((tf.cast(images[:, 0, 0, 0], tf.float32) * self.std + self.mean) * 255)
        return -tf.abs(self.classes - shown[:, None])

    @tf.function
    def __call__(self, images, training=False):
        logits = self.logits(images)
        return -logits if training else logits


def images_spec(batch=None, height=32, width=32, channels=3, dtype=tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec((batch, height, width, channels), dtype, name="images")


def save(folder, function, *specs, name="serving_default", owner=None) -> pathlib.Path:
    """A SavedModel whose one signature `name` is `function`, of the variables of `owner` or of its own object."""
    root = tf.Module()
    root.owner = owner or getattr(function, "__self__", None)
    tf.saved_model.save(root, str(folder), signatures={name: tf.function(function, input_signature=specs)})
    return pathlib.Path(folder)


def write_card(folder, **changes) -> None:
    card = {
        "name": "reader",
        "dataset": "cifar100",
        "class_names": [f"name {i}" for i in range(100)],
        "preprocessing": {"mean": MEAN, "std": STD},
        "accuracy": {"top1": 0.8, "top5": 0.9, "n": 10_000, "date": "2020-01-01"},
        "counts": COUNTS,
    }
    path = pathlib.Path(folder) / "assets.extra" / "model_card.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**card, **changes}))


def with_card(folder, function, *specs, **changes) -> pathlib.Path:
    save(folder, function, *specs)
    write_card(folder, **changes)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> pathlib.Path:
    return with_card(tmp_path_factory.mktemp("model") / "SavedModel", PixelReader(100).logits, images_spec())


@pytest.fixture
def copied_model(model, tmp_path) -> pathlib.Path:
    return shutil.copytree(model, tmp_path / "copied")


def synthetic(classes: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 32, 32, 3), of which all but WRONG show their label, and the labels (N,)."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (N, 32, 32, 3), np.uint8), random.integers(0, classes, N)
    images[:, 0, 0, 0] = labels
    for i in WRONG:
        step = classes // 2 if i in FAR else 1
        images[i, 0, 0, 0] = labels[i] + (step if labels[i] + step < classes else -step)
    return images, labels


def rows_of(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def write_binary(folder, name="cifar100") -> pathlib.Path:
    images, labels = synthetic(script.DATASETS[name].classes)
    columns = (
        [labels[:, None], rows_of(images)] if name == "cifar10" else [labels[:, None] * 0, labels[:, None], rows_of(images)]
    )
    path = pathlib.Path(folder) / script.DATASETS[name].binary
    path.parent.mkdir(parents=True)
    path.write_bytes(np.concatenate(columns, axis=1).astype(np.uint8).tobytes())
    return path


def python_batch(name="cifar100") -> dict:
    images, labels = synthetic(script.DATASETS[name].classes)
    batch = {b"batch_label": b"testing batch 1 of 1", b"data": rows_of(images), b"coarse_labels": [0] * N}
    return batch | {script.DATASETS[name].labels[-1].encode(): labels.tolist()}


def write_python(folder, name="cifar100", content: bytes | None = None) -> pathlib.Path:
    path = pathlib.Path(folder) / script.DATASETS[name].python
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(python_batch(name), 2) if content is None else content)
    return path


def python2_pickle() -> bytes:
    """The batch as Python 2 pickled the official files: byte strings without encode, numpy.core, align as 0."""

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    images, labels = synthetic()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K" + bytes([N]) + b"M\x00\x0c\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    )
    labels_list = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return (
        b"\x80\x02}("
        + text(b"data")
        + array
        + text(rows_of(images).tobytes())
        + b"tb"
        + text(b"fine_labels")
        + labels_list
        + b"u."
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("data")
    for name in script.DATASETS:
        write_binary(folder, name)
    return folder


@pytest.fixture
def no_network_and_own_cache(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("FRENZY_DATA", raising=False)


@pytest.fixture
def call(capsys):
    """Runs main with flags: (exit code, stdout, stderr). In TensorFlow, which needs no conversion, unless --runtime says otherwise."""

    def run(*arguments) -> tuple[int, str, str]:
        flags = list(map(str, arguments))
        if not any(flag.startswith("--runtime") for flag in flags):
            flags.insert(0, "--runtime=tensorflow")
        code = script.main(["standalone_inference.py", *flags])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def refused(call):
    """Runs main with flags that it must refuse: exit code 2, nothing on stdout, one line on stderr that matches."""

    def run(*arguments, match: str, notes: int = 0) -> None:
        code, out, err = call(*arguments)
        *before, line = err.splitlines()
        assert (code, out) == (2, "")
        assert line.startswith("standalone_inference: ")
        assert re.search(match, line), line
        assert [note.startswith("note: ") for note in before] == [True] * notes

    return run

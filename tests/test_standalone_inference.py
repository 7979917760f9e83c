"""standalone_inference.py on tiny SavedModels and tiny data in the official layouts; no network, no real data."""

import ast
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

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


@pytest.fixture(autouse=True)
def no_network_and_own_cache(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("FRENZY_DATA", raising=False)


@pytest.fixture
def call(capsys):
    """Runs main with flags: (exit code, stdout, stderr)."""

    def run(*arguments) -> tuple[int, str, str]:
        code = script.main(["standalone_inference.py", *map(str, arguments)])
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


# ---- scoring


@pytest.mark.parametrize("batch_size", [1, 10, 23, 250])
def test_every_image_counts_with_the_last_partial_batch(call, model, data, batch_size):
    code, out, _ = call("--load_folder", model, "--data_dir", data, "--batch_size", batch_size, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["n"] == report["of"] == N
    assert report["top1"] == (N - len(WRONG)) / N
    assert report["top5"] == (N - len(FAR)) / N


def test_the_text_gives_accuracy_speed_and_the_counts_of_the_card(call, model, data):
    code, out, err = call("--load_folder", model, "--data_dir", data)
    assert code == 0
    assert out.splitlines()[:4] == [
        "reader on all 23 test images of cifar100",
        "n         23",
        "top-1     82.61%",
        "top-5     91.30%",
    ]
    assert "images/s" in out
    assert "MS        8.430 MiB (8,839,600 bytes; frenzy)" in out
    assert "OC        828.928 M operations (frenzy)" in out
    assert "MS        8.583 MiB (9,000,000 bytes; micronet)" in out
    assert "holds 23 images; the official test set has 10,000" in err


def test_json_is_one_object_with_what_the_text_says(call, model, data):
    code, out, _ = call("--load_folder", model, "--data_dir", data, "--json", "--batch_size", 7)
    report = json.loads(out)
    assert code == 0
    assert out.count("\n") == 1
    assert report["counts"] == COUNTS
    assert report["card_accuracy"]["n"] == 10_000
    assert report["images_per_second"] > 0
    assert (report["name"], report["dataset"], report["batch_size"]) == ("reader", "cifar100", 7)
    assert report["data"] == str(data / "cifar-100-binary" / "test.bin")


def test_limit_scores_the_first_images_and_says_so(call, model, data):
    assert "the first 4 of 23 test images" in call("--load_folder", model, "--data_dir", data, "--limit", 4)[1]
    report = json.loads(call("--load_folder", model, "--data_dir", data, "--limit", 4, "--json")[1])
    assert (report["n"], report["of"], report["top1"]) == (4, N, 3 / 4)


def test_without_a_card_the_usual_values_are_used_and_it_says_so(call, tmp_path, data):
    usual = script.DATASETS["cifar10"].normalisation
    folder = save(tmp_path / "m", PixelReader(10, usual["mean"][0], usual["std"][0]).logits, images_spec())
    code, out, err = call("--load_folder", folder, "--data_dir", data, "--dataset_name", "cifar10")
    assert code == 0
    assert "top-1     82.61%" in out
    assert "MS        not known\nOC        not known" in out
    assert "no model card" in err
    assert "cifar10" in err


def test_the_dataset_is_the_cards_unless_a_flag_says_otherwise(call, refused, tmp_path, data):
    folder = with_card(tmp_path / "m", PixelReader(10).logits, images_spec(), dataset="cifar10")
    assert json.loads(call("--load_folder", folder, "--data_dir", data, "--json")[1])["dataset"] == "cifar10"
    said = "gives 10 logits, cifar100 has 100 classes; set --dataset_name"
    refused("--load_folder", folder, "--data_dir", data, "--dataset_name", "cifar100", match=said, notes=1)


def test_ranks_count_what_comes_before():
    logits = np.array([[0, 2, 1], [0, 2, 1], [1, 1, 1], [np.nan, 0, 1], [0, np.nan, 1]], np.float32)
    assert script.ranks(logits, np.array([1, 0, 2, 0, 2])).tolist() == [0, 2, 2, 3, 1]


def test_the_bar_is_drawn_on_terminals_only(capsys, monkeypatch):
    script.show_progress(5, 10, "images")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    script.show_progress(10, 10, "images")
    assert capsys.readouterr().err == f"\r[{'#' * 30}] 10/10 images \n"


# ---- SavedModels of others


def test_a_fixed_batch_is_filled_up_and_no_image_is_lost(call, tmp_path, data):
    folder = with_card(tmp_path / "m", PixelReader(100).logits, images_spec(batch=8))
    report = json.loads(call("--load_folder", folder, "--data_dir", data, "--json", "--batch_size", 5)[1])
    assert (report["n"], report["batch_size"]) == (N, 8)
    assert (report["top1"], report["top5"]) == ((N - len(WRONG)) / N, (N - len(FAR)) / N)


def test_a_module_without_signatures_and_a_fixed_batch_of_32(call, tmp_path, data):
    module = PixelReader(100)
    module.__call__.get_concrete_function(images_spec(32), training=True)
    module.__call__.get_concrete_function(images_spec(32))
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={})
    write_card(tmp_path / "m")
    code, out, _ = call("--load_folder", tmp_path / "m", "--data_dir", data)
    assert code == 0
    assert "top-1     82.61%" in out  # of the trace that is not for training


def test_the_only_signature_is_taken_whatever_its_name(call, tmp_path, data):
    folder = save(tmp_path / "m", PixelReader(100).logits, images_spec(), name="predict")
    write_card(folder)
    assert "top-1     82.61%" in call("--load_folder", folder, "--data_dir", data)[1]


def test_open_sizes_half_precision_and_further_outputs_are_taken(call, tmp_path, data):
    reader = PixelReader(100)

    def several(images):
        return {
            "features": images,
            "logits": tf.cast(reader.logits(images), tf.float16),
            "mean": tf.reduce_mean(images, [1, 2, 3]),
        }

    spec = images_spec(height=None, width=None, channels=None, dtype=tf.float16)
    folder = save(tmp_path / "m", several, spec, owner=reader)
    write_card(folder)
    assert "top-1     82.61%" in call("--load_folder", folder, "--data_dir", data)[1]


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        (
            [tf.TensorSpec((None, 192), tf.float32)],
            r"takes float32 \(None, 192\), which is not images; needed is one float tensor",
        ),
        ([images_spec(dtype=tf.uint8)], r"takes uint8 \(None, 32, 32, 3\), which is not images"),
        ([images_spec(channels=1)], r"takes float32 \(None, 32, 32, 1\), which is not images"),
        (
            [images_spec(), tf.TensorSpec((), tf.float32, name="rate")],
            r"takes float32 \(None, 32, 32, 3\), float32 \(\), which is not",
        ),
        ([images_spec(height=224, width=224)], r"takes images of 224 x 224; those of cifar100 are 32 x 32"),
    ],
)
def test_a_model_that_takes_no_such_images_is_refused(refused, tmp_path, data, specs, said):
    folder = with_card(tmp_path / "m", lambda *tensors: {str(i): tensor for i, tensor in enumerate(tensors)}, *specs)
    refused("--load_folder", folder, "--data_dir", data, match=said, notes=1)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (lambda images: {"features": images}, r"gives outputs \(23, 32, 32, 3\) for 23 images; needed is just one of"),
        (lambda images: {"a": images[:, 0, 0], "b": images[:, 0, 1]}, r"gives outputs \(23, 3\), \(23, 3\) for 23 images"),
        (lambda images: {"logits": images[:1, 0, 0]}, r"gives outputs \(1, 3\) for 23 images"),
        (lambda images: {"logits": images[:, 0, 0]}, r"gives 3 logits, cifar100 has 100 classes"),
        (
            lambda images: {"logits": tf.ensure_shape(images, (1, 32, 32, 3))[:, 0, 0]},
            r"fails on images \(23, 32, 32, 3\) \(Inv",
        ),
    ],
)
def test_a_model_that_gives_no_logits_is_refused(refused, tmp_path, data, outputs, said):
    folder = with_card(tmp_path / "m", outputs, images_spec())
    refused("--load_folder", folder, "--data_dir", data, match=said, notes=1)


def test_a_model_without_an_entry_is_refused(refused, tmp_path, data):
    tf.saved_model.save(tf.Module(), str(tmp_path / "empty"))
    write_card(tmp_path / "empty")
    refused("--load_folder", tmp_path / "empty", "--data_dir", data, match="no entry to call: signatures none", notes=1)
    function = tf.function(PixelReader(100).logits, input_signature=[images_spec()])
    root = tf.Module()
    root.function = function
    root.owner = function.python_function.__self__
    tf.saved_model.save(root, str(tmp_path / "two"), signatures={"train": function, "predict": function})
    write_card(tmp_path / "two")
    refused("--load_folder", tmp_path / "two", "--data_dir", data, match="signatures predict, train, and no traced", notes=1)


# ---- SavedModels that are damaged


def cut(path: pathlib.Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: cut(folder / "saved_model.pb", 0.5), "does not load .*saved_model.pb.*copy it again"),
        (lambda folder: cut(folder / "saved_model.pb", 0), "does not load .*copy it again"),
        (lambda folder: (folder / "saved_model.pb").write_bytes(b"garbage" * 99), "does not load .*copy it again"),
        (lambda folder: cut(folder / "variables" / "variables.data-00000-of-00001", 0.5), "does not load .*copy it again"),
        (
            lambda folder: (folder / "variables" / "variables.data-00000-of-00001").unlink(),
            "does not load .*data-00000-of-00001",
        ),
        (lambda folder: (folder / "variables" / "variables.index").unlink(), "does not load .*variables/variables"),
        (lambda folder: shutil.rmtree(folder / "variables"), "does not load .*variables/variables"),
    ],
)
def test_a_damaged_saved_model_is_refused(refused, copied_model, data, damage, said):
    damage(copied_model)
    refused("--load_folder", copied_model, "--data_dir", data, match=said, notes=1)


def test_a_folder_that_is_no_saved_model_is_refused_before_tensorflow_is_imported(refused, model, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "import_tensorflow", lambda: pytest.fail("TensorFlow was imported"))
    refused("--load_folder", tmp_path / "nowhere", match="--load_folder: '.*nowhere' is no folder; name a folder that holds")
    refused("--load_folder", tmp_path, match="is no SavedModel: it holds no saved_model.pb")
    refused("--load_folder", model / "saved_model.pb", match="is no folder")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "JSONDecodeError"),
        ("[1]", "TypeError"),
        ("[" * 100_000, "RecursionError"),
        ("{}", "KeyError: 'preprocessing'"),
        ('{"preprocessing": {"mean": [0, 0, 0], "std": [1, 0, 1]}, "dataset": "cifar100"}', r"std \[1.0, 0.0, 1.0\]"),
        ('{"preprocessing": {"mean": [0, 0], "std": [1, 1, 1]}, "dataset": "cifar100"}', r"mean \[0.0, 0.0\]"),
        ('{"preprocessing": {"mean": [0, NaN, 0], "std": [1, 1, 1]}, "dataset": "cifar100"}', r"mean \[0.0, nan, 0.0\]"),
        ('{"preprocessing": {"mean": [0, 0, 0], "std": [1, 1, 1]}}', "KeyError: 'dataset'"),
    ],
)
def test_a_corrupt_card_is_refused(refused, copied_model, data, text, said):
    (copied_model / "assets.extra" / "model_card.json").write_text(text)
    said = rf"model_card.json is no JSON object with dataset.*{said}.*export the model again, or remove the file"
    refused("--load_folder", copied_model, "--data_dir", data, match=said)


@pytest.mark.parametrize("counts", [{"frenzy": {"storage_bytes": "8", "operations": 1}}, {"frenzy": 3}, [1], {"frenzy": {}}])
def test_counts_that_are_no_counts_are_refused(refused, copied_model, data, counts):
    write_card(copied_model, counts=counts)
    refused("--load_folder", copied_model, "--data_dir", data, match="model_card.json is no JSON object with")


def test_a_card_may_leave_out_accuracy_and_counts_and_have_another_dataset(call, refused, copied_model, data):
    write_card(copied_model, accuracy=None, counts=None, dataset="tiny_imagenet")
    refused(
        "--load_folder", copied_model, "--data_dir", data, match="no test set 'tiny_imagenet'.*--dataset_name cifar100|cifar10"
    )
    code, out, _ = call("--load_folder", copied_model, "--data_dir", data, "--dataset_name", "cifar100")
    assert code == 0
    assert "MS        not known" in out


# ---- data


@pytest.mark.parametrize("name", list(script.DATASETS))
def test_both_layouts_and_the_folder_itself_give_the_same_arrays(tmp_path, name):
    images, labels = synthetic(script.DATASETS[name].classes)
    for path in (write_binary(tmp_path / "binary", name), write_python(tmp_path / "python", name)):
        for folder in (path.parent, path.parent.parent):
            found_images, found_labels, source = script.load_test_set(name, str(folder))
            np.testing.assert_array_equal(found_images, images)
            np.testing.assert_array_equal(found_labels, labels)
            assert source == str(path)


@pytest.mark.parametrize("content", [python2_pickle(), *(pickle.dumps(python_batch(), p) for p in range(5))])
def test_pickles_of_python_2_and_of_every_protocol_are_read(tmp_path, content):
    write_python(tmp_path, content=content)
    images, labels, _ = script.load_test_set("cifar100", str(tmp_path))
    np.testing.assert_array_equal(images, synthetic()[0])
    np.testing.assert_array_equal(labels, synthetic()[1])


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [(os.system, "touch {}", "system"), (eval, "open('{}', 'w')", "builtins.eval"), (np.fromfile, "{}", "fromfile")],
)
def test_a_pickle_that_would_run_code_is_refused_by_name(refused, model, tmp_path, function, argument, name):
    victim = tmp_path / "victim"
    batch = python_batch() | {b"data": Malicious(function, argument.format(victim))}
    write_python(tmp_path, content=pickle.dumps(batch, 4))
    said = f"cifar-100-python/test is damaged: .*refused .*{name}, which no official file asks for"
    refused("--load_folder", model, "--data_dir", tmp_path, match=said)
    assert not victim.exists()


def relabelled(**changes) -> bytes:
    return pickle.dumps(python_batch() | {key.encode(): value for key, value in changes.items()}, 4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "EOFError"),
        (b"not a pickle", "UnpicklingError"),
        (pickle.dumps(python_batch(), 2)[:5_000], "truncated"),
        (pickle.dumps([1, 2], 2), "AttributeError"),
        (relabelled(data=np.zeros((N, 3), np.uint8)), r"'data' \(23, 3\) is not 3,072 bytes for each"),
        (relabelled(data=np.zeros((N, 3072), np.float32)), "is not 3,072 bytes for each"),
        (relabelled(fine_labels=[1, 2]), "is not 3,072 bytes for each of the whole numbers in 'fine_labels'"),
        (relabelled(fine_labels=["one"] * N), "of the whole numbers in 'fine_labels'"),
        (relabelled(fine_labels=[0, 1, 100] + [0] * (N - 3)), "image 2 has label 100, and labels are 0 to 99"),
        (relabelled(fine_labels=[-1] * N), "image 0 has label -1"),
        (relabelled(data=np.zeros((0, 3072), np.uint8), fine_labels=[]), "is not 3,072 bytes for each"),
    ],
)
def test_a_damaged_pickle_is_refused(refused, model, tmp_path, content, said):
    write_python(tmp_path, content=content)
    said = f"cifar-100-python/test is damaged: .*{said}.*unpack the official archive again"
    refused("--load_folder", model, "--data_dir", tmp_path, match=said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[:-1], "70,701 bytes are no multiple of a record's 3,074"),
        (lambda content: b"", "0 bytes are no multiple of a record's 3,074"),
        (lambda content: content[: 3074 + 1] + b"\xc8" + content[3074 + 2 :], "image 1 has label 200, and labels are 0 to 99"),
    ],
)
def test_a_damaged_binary_file_is_refused(refused, model, tmp_path, change, said):
    path = write_binary(tmp_path)
    path.write_bytes(change(path.read_bytes()))
    refused(
        "--load_folder", model, "--data_dir", tmp_path, match=f"test.bin is damaged: {said}; unpack the official archive again"
    )


def test_a_data_dir_without_the_data_is_refused(refused, model, tmp_path):
    said = "is no folder with cifar-100-binary/test.bin or cifar-100-python/test; name another, or leave the flag out"
    refused("--load_folder", model, "--data_dir", tmp_path, match=f"--data_dir: .*{said}")
    refused("--load_folder", model, "--data_dir", tmp_path / "nowhere", match=f"nowhere {said}")


def test_without_any_data_one_line_names_the_three_ways(refused, model, monkeypatch, tmp_path):
    said = r"no cifar100 test set. Three ways to it: \(1\) --data_dir D or FRENZY_DATA=D \(now {}\).*"
    said += r"\(2\) .*cifar-100-python.tar.gz in the tf_keras cache; \(3\) the download of https://.*no network in tests"
    refused("--load_folder", model, match=said.format("not set"))
    monkeypatch.setenv("FRENZY_DATA", "/mnt/elsewhere")
    refused("--load_folder", model, match=said.format("/mnt/elsewhere"))
    assert list((tmp_path / "keras" / "datasets").iterdir()) == []


def test_the_environment_and_the_unpacked_cache_are_found(monkeypatch, tmp_path):
    path = write_python(tmp_path / "keras" / "datasets")
    assert script.load_test_set("cifar100", None)[2] == str(path)
    path = write_binary(tmp_path / "own")
    monkeypatch.setenv("FRENZY_DATA", str(tmp_path / "own"))
    assert script.load_test_set("cifar100", None)[2] == str(path)


class Reply(io.BytesIO):
    @property
    def length(self) -> int:
        return len(self.getvalue()) - self.tell()


@pytest.fixture
def official(tmp_path, monkeypatch) -> bytes:
    """An archive of the official kind, whose SHA-256 is made the expected one."""
    write_python(tmp_path / "pack")
    with tarfile.open(tmp_path / "pack.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "pack" / "cifar-100-python", "cifar-100-python")
    content = (tmp_path / "pack.tar.gz").read_bytes()
    dataset = dataclasses.replace(script.DATASETS["cifar100"], sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(script.DATASETS, "cifar100", dataset)
    return content


def test_a_download_is_checked_kept_and_used_again(monkeypatch, tmp_path, official):
    asked = []

    def reply(url, timeout):
        asked.append((url, timeout))
        return Reply(official)

    monkeypatch.setattr(urllib.request, "urlopen", reply)
    for _ in range(2):
        images, labels, source = script.load_test_set("cifar100", None)
        np.testing.assert_array_equal(images, synthetic()[0])
        np.testing.assert_array_equal(labels, synthetic()[1])
    assert asked == [("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", 10)]
    (kept,) = (tmp_path / "keras" / "datasets").iterdir()
    assert source == f"{kept}/cifar-100-python/test"


def test_a_download_or_cache_with_another_checksum_is_refused(monkeypatch, tmp_path, official):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Reply(official[:-9]))
    with pytest.raises(script.UserError, match=r"is damaged: SHA-256 .*, not .*; remove it and run again"):
        script.load_test_set("cifar100", None)
    cache = tmp_path / "keras" / "datasets"
    assert list(cache.iterdir()) == []
    (cache / "cifar-100-python.tar.gz").write_bytes(b"another")
    with pytest.raises(script.UserError, match=r"cifar-100-python\.tar\.gz is damaged: SHA-256"):
        script.load_test_set("cifar100", None)


@pytest.mark.cifar
@pytest.mark.skipif(not REAL_DATA, reason="FRENZY_DATA is not set")
@pytest.mark.parametrize("name", list(script.DATASETS))
def test_the_real_test_sets(name):
    images, labels, _ = script.load_test_set(name, REAL_DATA)
    classes = script.DATASETS[name].classes
    assert images.shape == (10_000, 32, 32, 3)
    assert np.bincount(labels).tolist() == [10_000 // classes] * classes


# ---- images


def draw(path: pathlib.Path, red: int, size=(32, 32), mode="RGB") -> pathlib.Path:
    Image.new("RGB", size, (red, 0, 0)).convert(mode).save(path)
    return path


def test_images_get_their_five_likeliest_classes(call, model, tmp_path):
    small, large = draw(tmp_path / "small.png", 7, (8, 8)), draw(tmp_path / "large.png", 50, (64, 48), "RGBA")
    code, out, _ = call("--load_folder", model, "--json", "--images", small, large)
    first, second = json.loads(out)["images"]
    assert code == 0
    assert (first["file"], second["file"]) == (str(small), str(large))
    assert [top["class"] for top in first["top5"]] == [7, 6, 8, 5, 9]
    assert [top["name"] for top in second["top5"]] == [f"name {i}" for i in (50, 49, 51, 48, 52)]
    odds = np.exp(-np.abs(np.arange(100) - 7.0))
    np.testing.assert_allclose([top["probability"] for top in first["top5"]], np.sort(odds)[:-6:-1] / odds.sum(), rtol=1e-5)


def test_images_by_commas_by_repeated_flags_and_limited(call, model, tmp_path):
    files = [draw(tmp_path / f"{i}.png", i) for i in range(4)] + [draw(tmp_path / "a,b.png", 4)]
    flags = ["--images", f"{files[0]},{files[1]}", "--load_folder", model, "--images", files[4], files[2], "--json", files[3]]
    images = json.loads(call(*flags)[1])["images"]
    assert [image["top5"][0]["class"] for image in images] == [0, 1, 4, 2, 3]
    assert len(json.loads(call(*flags, "--limit", 2)[1])["images"]) == 2


def test_images_without_a_card_are_named_by_index_and_as_text(call, tmp_path):
    usual = script.DATASETS["cifar100"].normalisation
    reader = PixelReader(100, usual["mean"][0], usual["std"][0])
    folder = save(tmp_path / "m", reader.logits, images_spec(batch=4, height=16, width=16))
    code, out, _ = call("--load_folder", folder, "--images", draw(tmp_path / "a.png", 9))
    assert code == 0
    assert re.match(rf"{tmp_path}/a.png\n +46\.\d\d%  class 9\n +17\.\d\d%  class 8\n", out)
    assert out.count("\n") == 6


def test_images_that_cannot_be_read_are_refused(refused, model, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "import_tensorflow", lambda: pytest.fail("TensorFlow was imported"))
    text, good = tmp_path / "text.png", draw(tmp_path / "good.png", 1)
    text.write_text("no image")
    half = tmp_path / "half.png"
    half.write_bytes(good.read_bytes()[:60])
    for bad in (text, half, tmp_path / "nowhere.png", tmp_path):
        said = f"--images: {bad} is no image that can be read .*; name PNG, JPEG or the like"
        refused("--load_folder", model, "--images", good, bad, match=said)


def test_images_where_the_names_do_not_fit_or_the_logits_are_no_numbers(refused, copied_model, tmp_path):
    image = draw(tmp_path / "a.png", 1)
    write_card(copied_model, class_names=["one", "two"])
    refused("--load_folder", copied_model, "--images", image, match="gives .* and its card has 2 class names")
    nan = with_card(tmp_path / "nan", lambda images: {"logits": tf.zeros((1, 100)) / (0 * images[:, 0, 0, :1])}, images_spec())
    refused("--load_folder", nan, "--images", image, match="gives .*nan")


# ---- command line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bogus"], "Unknown command line flag 'bogus'; --help lists the flags"),
        (["--batch_size", "0"], "flag --batch_size=0: 0 is not a positive integer"),
        (["--batch_size", "many"], "flag --batch_size=many: invalid literal"),
        (["--limit", "-3"], "flag --limit=-3: -3 is not a positive integer"),
        (["--dataset_name", "mnist"], "flag --dataset_name=mnist: value should be one of <cifar100|cifar10>"),
        (["--json=perhaps"], "flag --json=perhaps: .*"),
        (["--images"], "Missing value for flag --images"),
        (["SavedModel"], "unexpected argument 'SavedModel'; the folder goes after --load_folder, image files after --images"),
    ],
)
def test_bad_flags_are_refused(refused, arguments, said):
    refused(*arguments, match=said)


def test_help_lists_every_flag(call):
    code, out, _ = call("--help")
    assert code == 0
    for flag in ("load_folder", "batch_size", "dataset_name", "data_dir", "images", "limit", "json"):
        assert f"--{flag}" in out


def test_an_unreadable_file_is_one_line(refused, model, data, monkeypatch):
    def denied(_):
        raise PermissionError(13, "Permission denied", "test.bin")

    monkeypatch.setattr(pathlib.Path, "read_bytes", denied)
    refused("--load_folder", model, "--data_dir", data, match="PermissionError: .*Permission denied: 'test.bin'")


def test_an_interrupt_is_a_short_line_and_130(call, model, data, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "score", interrupted)
    code, out, err = call("--load_folder", model, "--data_dir", data)
    assert (code, out) == (130, "")
    assert err.endswith("standalone_inference: interrupted\n")


# ---- on its own


def test_it_imports_nothing_beyond_the_standard_library_tensorflow_numpy_absl_and_pillow():
    nodes = list(ast.walk(ast.parse(pathlib.Path(script.__file__).read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"tensorflow", "numpy", "absl", "PIL"}


@pytest.fixture
def alone(model, data, tmp_path):
    """Runs a copy of the file next to a SavedModel, beside packages that fail when imported."""
    folder = tmp_path / "alone"
    shutil.copytree(model, folder / "SavedModel")
    shutil.copy(script.__file__, folder)
    for package in ("frenzy", "PIL", "tf_keras"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("raise ModuleNotFoundError(f'{__name__} is not here')\n")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL")}

    def run(*arguments):
        command = [sys.executable, "standalone_inference.py", *map(str, arguments)]
        environment["FRENZY_DATA"] = str(data)
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120)

    return run


def test_a_copy_works_alone_without_any_flag_but_json(alone, data):
    done = alone("--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["top1"] == (N - len(WRONG)) / N
    test_file = data / "cifar-100-binary" / "test.bin"
    assert done.stderr == f"note: {test_file} holds 23 images; the official test set has 10,000\n"


def test_errors_come_fast_and_as_one_line_on_its_own(alone, tmp_path):
    start = time.perf_counter()
    done = alone("--load_folder", tmp_path / "nowhere")
    seconds = time.perf_counter() - start
    assert done.returncode == 2
    assert (
        done.stderr
        == f"standalone_inference: --load_folder: '{tmp_path}/nowhere' is no folder; name a folder that holds saved_model.pb\n"
    )
    assert seconds < 3  # importing TensorFlow alone takes longer on a busy machine
    done = alone("--images", "a.png")
    assert done.returncode == 2
    assert (
        done.stderr
        == "standalone_inference: --images needs Pillow (ModuleNotFoundError: PIL is not here); pip install pillow\n"
    )

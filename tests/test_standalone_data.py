"""standalone_inference.py on damaged SavedModels, and on data of every layout, found, downloaded or damaged."""

import dataclasses
import hashlib
import io
import os
import pathlib
import pickle
import shutil
import tarfile
import urllib.error
import urllib.request

import numpy as np
import pytest
from standalone_case import REAL_DATA, N, python2_pickle, python_batch, synthetic, write_binary, write_card, write_python

import standalone_inference as script

pytestmark = pytest.mark.usefixtures("no_network_and_own_cache")

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

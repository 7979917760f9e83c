"""Reading CIFAR: both official layouts give the same arrays, and damage is named."""

import os
import pickle

import numpy as np
import pytest

from frenzy.data.cifar import LAYOUTS, DataError, load

COUNT = 4


def arrays(seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (COUNT, 32, 32, 3)).astype(np.uint8), random.integers(0, 10, COUNT).astype(np.uint8)


def planes(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def write_binary(root, name):
    layout = LAYOUTS[name]
    folder = root / layout.binary_folder
    folder.mkdir()
    for files in layout.binary_files.values():
        for i, file in enumerate(files):
            images, labels = arrays(i)
            heads = [labels] if layout.label_bytes == 1 else [labels // 5, labels]
            np.concatenate([np.stack(heads, 1), planes(images)], 1).astype(np.uint8).tofile(folder / file)
    (folder / layout.names_file).write_text("\n".join(f"name_{i}" for i in range(layout.classes)) + "\n")
    return folder


def write_python(root, name):
    layout = LAYOUTS[name]
    folder = root / layout.python_folder
    folder.mkdir()
    for split in ("train", "test"):
        for i, file in enumerate(layout.python_files[split]):
            images, labels = arrays(i)
            content = {"data": planes(images), layout.python_labels: labels.tolist(), "filenames": ["a"]}
            (folder / file).write_bytes(pickle.dumps(content, protocol=2))
    key = "fine_label_names" if layout.classes == 100 else "label_names"
    (folder / layout.python_files["meta"][0]).write_bytes(pickle.dumps({key: [f"name_{i}" for i in range(layout.classes)]}, 2))
    return folder


WRITERS = {"binary": write_binary, "python": write_python}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_both_layouts(tmp_path, name, layout, split):
    folder = WRITERS[layout](tmp_path, name)
    for place in (tmp_path, folder):
        found = load(name, split, str(place))
        parts = len(LAYOUTS[name].binary_files[split])
        np.testing.assert_array_equal(found.images, np.concatenate([arrays(i)[0] for i in range(parts)]))
        np.testing.assert_array_equal(found.labels, np.concatenate([arrays(i)[1] for i in range(parts)]))
        assert found.class_names[3] == "name_3"


def test_the_checksum_depends_on_pixels_and_labels(tmp_path):
    folder = write_binary(tmp_path, "cifar10")
    before = load("cifar10", "test", str(folder)).sha256
    data = bytearray((folder / "test_batch.bin").read_bytes())
    data[0] ^= 1
    (folder / "test_batch.bin").write_bytes(data)
    assert load("cifar10", "test", str(folder)).sha256 != before


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    write_binary(tmp_path, "cifar10")
    monkeypatch.setenv("FRENZY_DATA", str(tmp_path))
    assert len(load("cifar10", "test").images) == COUNT
    monkeypatch.delenv("FRENZY_DATA")
    with pytest.raises(DataError, match="no folder with cifar10: pass --data_dir, or set FRENZY_DATA"):
        load("cifar10", "test")


def test_an_empty_folder(tmp_path):
    with pytest.raises(DataError, match="holds neither cifar-100-binary/ nor cifar-100-python/"):
        load("cifar100", "test", str(tmp_path))


BINARY_DAMAGE = {
    "cut": (lambda f: (f / "test_batch.bin").write_bytes(b"\0" * 3000), "3000 bytes is no multiple of the record's 3073"),
    "empty": (lambda f: (f / "test_batch.bin").write_bytes(b""), "0 bytes"),
    "label": (lambda f: (f / "test_batch.bin").write_bytes(b"\x0b" * 3073), "label 11 in cifar10, which has 10 classes"),
    "no names": (lambda f: (f / "batches.meta.txt").unlink(), "batches.meta.txt is missing"),
    "names": (lambda f: (f / "batches.meta.txt").write_text("a b"), "2 class names where 10 are due"),
}


@pytest.mark.parametrize("damage", BINARY_DAMAGE)
def test_damaged_binary_files(tmp_path, damage):
    folder = write_binary(tmp_path, "cifar10")
    spoil, message = BINARY_DAMAGE[damage]
    spoil(folder)
    with pytest.raises(DataError, match=message):
        load("cifar10", "test", str(tmp_path))


def test_a_missing_part(tmp_path):
    folder = write_binary(tmp_path, "cifar10")
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin is missing"):
        load("cifar10", "train", str(tmp_path))


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


PYTHON_DAMAGE = {
    "code": (pickle.dumps(Evil()), "asks for posix.system, which no official file needs"),
    "garbage": (b"\x80\x02garbage", "not an official CIFAR pickle"),
    "cut": (b"", "not an official CIFAR pickle"),
    "list": (pickle.dumps([1]), "holds a list, not the official dictionary"),
    "no data": (pickle.dumps({"labels": [1]}), "'data' is no uint8 array of 3072 columns"),
    "labels": (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}), "'labels' is no list of 2 labels"),
}


@pytest.mark.parametrize("damage", PYTHON_DAMAGE)
def test_damaged_pickles(tmp_path, damage):
    folder = write_python(tmp_path, "cifar10")
    content, message = PYTHON_DAMAGE[damage]
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("cifar10", "test", str(tmp_path))


@pytest.mark.cifar
@pytest.mark.skipif("FRENZY_DATA" not in os.environ, reason="the real CIFAR is not at hand: set FRENZY_DATA")
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_real_data(name):
    train, test = load(name, "train"), load(name, "test")
    assert (len(train.images), len(test.images)) == (50_000, 10_000)
    assert np.bincount(test.labels).tolist() == [10_000 // LAYOUTS[name].classes] * LAYOUTS[name].classes
    mean = train.images.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(mean, LAYOUTS[name].mean, atol=1e-3)

"""Reading CIFAR: both official layouts give the same arrays, and damage is named."""

import dataclasses
import hashlib
import os
import pickle
import tarfile

import numpy as np
import pytest

from frenzy import data
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
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "none"))
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
    "words": (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": ["1"]}), "'labels' is no list of 1 labels"),
    "below 0": (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}), "label -1 in cifar10, which has 10"),
}


@pytest.mark.parametrize("damage", PYTHON_DAMAGE)
def test_damaged_pickles(tmp_path, damage):
    folder = write_python(tmp_path, "cifar10")
    content, message = PYTHON_DAMAGE[damage]
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("cifar10", "test", str(tmp_path))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of tf_keras's data sets, empty."""
    monkeypatch.delenv("FRENZY_DATA", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    folder = tmp_path / "keras" / "datasets"
    folder.mkdir(parents=True)
    return folder


def write_archive(folder, name, monkeypatch, keep=lambda path: True):
    """The archive of made-up files in the python layout, official from now on."""
    folder.mkdir()
    layout, archive = LAYOUTS[name], folder / "official.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        unpacked = write_python(folder, name)
        for path in filter(keep, sorted(unpacked.iterdir())):
            tar.add(path, f"{unpacked.name}/{path.name}")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(LAYOUTS, name, dataclasses.replace(layout, url=archive.as_uri(), archive_sha256=digest))
    return archive


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_cache_is_looked_into(cache, name, tmp_path, monkeypatch):
    archive = write_archive(tmp_path / "elsewhere", name, monkeypatch)
    expected = load(name, "train", str(archive.parent))
    cached = cache / f"{LAYOUTS[name].python_folder}.tar.gz"
    cached.write_bytes(archive.read_bytes())
    packed = load(name, "train")
    cached.unlink()
    write_python(cache, name)
    for found in (packed, load(name, "train")):
        np.testing.assert_array_equal(found.images, expected.images)
        assert (found.sha256, found.class_names) == (expected.sha256, expected.class_names)


def test_a_named_folder_goes_before_the_cache(cache, tmp_path, monkeypatch):
    write_python(cache, "cifar10")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds neither cifar-10-batches-bin/"):
        load("cifar10", "test", str(tmp_path / "empty"))
    monkeypatch.setenv("FRENZY_DATA", str(tmp_path / "empty"))
    assert len(load("cifar10", "test").images) == COUNT
    with pytest.raises(DataError, match="empty holds neither cifar-100-binary/"):
        load("cifar100", "test")


def test_a_download_is_asked_for(cache, tmp_path, monkeypatch, capfd):
    archive = write_archive(tmp_path / "web", "cifar100", monkeypatch)
    with pytest.raises(DataError, match=r"no folder with cifar100: pass --data_dir.*the cache .* holds none either"):
        data.load("cifar100", "test")
    found = data.load("cifar100", "test", download=True)
    assert found.sha256 == load("cifar100", "test", str(archive.parent)).sha256
    assert [path.name for path in cache.iterdir()] == ["cifar-100-python.tar.gz"]
    assert data.load("cifar100", "test").sha256 == found.sha256
    assert capfd.readouterr().out == ""


def test_a_download_that_fails_leaves_nothing(cache, tmp_path, monkeypatch):
    archive = write_archive(tmp_path / "web", "cifar100", monkeypatch)
    archive.write_bytes(archive.read_bytes()[:-10])
    for reason in ("Incomplete or corrupted file", "URL fetch failure"):
        with pytest.raises(DataError, match=f"the download of file:.*{reason}.*unpack it yourself and pass --data_dir"):
            load("cifar100", "test", download=True)
        assert not list(cache.iterdir())
        archive.unlink(missing_ok=True)


def test_damaged_archives(cache, tmp_path, monkeypatch):
    archive = write_archive(tmp_path / "web", "cifar100", monkeypatch, lambda path: path.name != "test")
    cached = cache / "cifar-100-python.tar.gz"
    cached.write_bytes(archive.read_bytes())
    with pytest.raises(DataError, match=r"cifar-100-python\.tar\.gz holds no cifar-100-python/test; remove it and download"):
        load("cifar100", "test")
    cached.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"cifar-100-python\.tar\.gz: SHA-256 [0-9a-f]{64}, not [0-9a-f]{64}; remove it"):
        load("cifar100", "test")
    cached.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    digest = hashlib.sha256(cached.read_bytes()).hexdigest()
    monkeypatch.setitem(LAYOUTS, "cifar100", dataclasses.replace(LAYOUTS["cifar100"], archive_sha256=digest))
    with pytest.raises(
        DataError, match=r"cifar-100-python\.tar\.gz cannot be unpacked \(.*\); remove it and download it again"
    ):
        load("cifar100", "train")


def test_the_centre_is_an_image_size(tmp_path):
    write_binary(tmp_path, "cifar10")
    whole, centre = (data.load("cifar10", "test", str(tmp_path), size) for size in (None, 28))
    np.testing.assert_array_equal(centre.images, whole.images[:, 2:30, 2:30])
    assert (whole.mean, whole.std) == (LAYOUTS["cifar10"].mean, LAYOUTS["cifar10"].std)
    with pytest.raises(DataError, match="image_size 64: the images are 32x32; take 1 to 32, or enlarge them in the model"):
        data.load("cifar10", "test", str(tmp_path), 64)


@pytest.mark.cifar
@pytest.mark.skipif("FRENZY_DATA" not in os.environ, reason="the real CIFAR is not at hand: set FRENZY_DATA")
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_real_data(name):
    train, test = load(name, "train"), load(name, "test")
    assert (len(train.images), len(test.images)) == (50_000, 10_000)
    assert np.bincount(test.labels).tolist() == [10_000 // LAYOUTS[name].classes] * LAYOUTS[name].classes
    mean = train.images.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(mean, LAYOUTS[name].mean, atol=1e-3)

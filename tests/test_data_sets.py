"""Data sets by name; folders of images, Tiny ImageNet's among them: what is taken, in which order, and what is wrong."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from frenzy import data
from frenzy.data import image_folder
from frenzy.data.image_folder import decode
from frenzy.data.split import DataError

COLOURS = {"ant": (250, 0, 0), "bee": (0, 250, 0), "cat": (0, 0, 250)}


def paint(path, colour, size=(20, 20), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def write_classes(root, count=10, suffix="png"):
    """`count` images of each class, each of its class's colour, made a little darker by its number."""
    for name, colour in COLOURS.items():
        for i in range(count):
            paint(root / name / f"{i:03}.{suffix}", tuple(max(value - i, 0) for value in colour))
    return root


def test_rows_are_sorted_and_total():
    assert list(data.DATASETS) == sorted(data.DATASETS)
    for row in data.DATASETS.values():
        assert row.source
        assert row.side in (32, 64)


@pytest.mark.parametrize("name", [name for name in data.DATASETS if name != "image_folder"])
def test_classes_are_known_without_data(name):
    assert (
        data.classes(name) == {"0": 10, "1": 100, "t": 200}["t" if name == "tiny_imagenet" else "1" if "100" in name else "0"]
    )


@pytest.mark.parametrize("name", data.DATASETS)
def test_without_data_there_is_one_line(name, monkeypatch, tmp_path):
    """Only what is drawn needs no folder; the others say how to name one."""
    monkeypatch.delenv("FRENZY_DATA", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    if name.startswith("synthetic"):
        assert len(data.load(name, "test").labels) == 2_000
        return
    with pytest.raises(DataError, match=r"^no folder .*: pass --data_dir, or set FRENZY_DATA[^\n]*$"):
        data.load(name, "test")


def test_what_is_not_known():
    for ask in (data.classes, lambda name: data.load(name, "train")):
        with pytest.raises(DataError, match="no data set 'mnist'; known: cifar10, cifar100, image_folder"):
            ask("mnist")
    with pytest.raises(DataError, match="no split 'val' of synthetic10; known: train, test"):
        data.load("synthetic10", "val")
    with pytest.raises(DataError, match="image_size 0 of synthetic10; it must be 1 or more"):
        data.load("synthetic10", "test", image_size=0)


def test_names_need_no_tensorflow():
    code = "import sys, frenzy.data, frenzy.data.policies; frenzy.data.load('synthetic10', 'test'); sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_folders_of_train_and_test(tmp_path, test_name):
    write_classes(tmp_path / "train", 3)
    write_classes(tmp_path / test_name, 2)
    train, test = (data.load("image_folder", split, str(tmp_path), image_size=8) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("ant", "bee", "cat")
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 1, 1, 2, 2])
    assert train.images.shape == (9, 8, 8, 3)
    assert train.images[:, 0, 0].tolist()[2:5] == [[248, 0, 0], [0, 250, 0], [0, 249, 0]]
    assert data.classes("image_folder", str(tmp_path)) == 3
    assert data.load("image_folder", "test", str(tmp_path)).images.shape[1:] == (64, 64, 3)


def test_test_goes_before_val_and_may_lack_a_class(tmp_path):
    write_classes(tmp_path / "train", 2)
    write_classes(tmp_path / "val", 5)
    paint(tmp_path / "test" / "cat" / "a.png", (0, 0, 1))
    found = data.load("image_folder", "test", str(tmp_path))
    assert found.labels.tolist() == [2]
    assert len(found.class_names) == 3


@pytest.mark.parametrize("place", ["", "train"])
def test_one_folder_is_divided_80_to_20(tmp_path, place):
    write_classes(tmp_path / place, 10)
    train, test = (data.load("image_folder", split, str(tmp_path), image_size=8) for split in ("train", "test"))
    assert np.bincount(train.labels).tolist() == [8, 8, 8]
    assert np.bincount(test.labels).tolist() == [2, 2, 2]
    values = [part.images[part.labels == 0][:, 0, 0, 0].tolist() for part in (train, test)]
    assert sorted(values[0] + values[1]) == list(range(241, 251))
    assert values[0] == sorted(values[0], reverse=True)  # the order of the names
    assert data.load("image_folder", "test", str(tmp_path), image_size=8).sha256 == test.sha256


def test_another_class_leaves_the_division_as_it_is(tmp_path):
    write_classes(tmp_path, 10)
    before = data.load("image_folder", "test", str(tmp_path)).images
    for i in range(4):
        paint(tmp_path / "aardvark" / f"{i}.png", (9, 9, 9))
    after = data.load("image_folder", "test", str(tmp_path))
    np.testing.assert_array_equal(after.images[after.labels > 0], before)


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    write_classes(tmp_path, 2)
    monkeypatch.setenv("FRENZY_DATA", str(tmp_path))
    assert len(data.load("image_folder", "train").labels) == 3


def test_what_is_no_image_is_left_out(tmp_path):
    write_classes(tmp_path, 2)
    (tmp_path / "ant" / "notes.txt").write_text("x")
    (tmp_path / "ant" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    paint(tmp_path / ".cache" / "a.png", (1, 1, 1))
    paint(tmp_path / "bee" / "deep" / "er" / "z.PNG", (2, 2, 2))
    assert np.bincount(sum_labels(tmp_path)).tolist() == [2, 3, 2]


def sum_labels(root):
    return np.concatenate([data.load("image_folder", split, str(root)).labels for split in data.SPLITS])


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpeg", "jpg", "png", "webp"])
def test_formats(tmp_path, suffix):
    write_classes(tmp_path, 2, suffix)
    found = data.load("image_folder", "train", str(tmp_path), image_size=8)
    np.testing.assert_allclose(found.images.mean((1, 2)), list(COLOURS.values()), atol=6)


def test_short_side_then_centre(tmp_path):
    """40 x 20: a band of 5 at either side is red, and cut off with 10."""
    pixels = np.full((20, 40, 3), 90, np.uint8)
    pixels[:, :5] = pixels[:, -5:] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.swapaxes(0, 1)).save(tmp_path / "tall.png")
    for name in ("wide.png", "tall.png"):
        np.testing.assert_array_equal(decode(tmp_path / name, 10), np.full((10, 10, 3), 90))


def test_resizing_takes_means(tmp_path):
    """A board of single black and white pixels is grey when it is made smaller: no pixel is merely picked."""
    board = np.indices((64, 64)).sum(0) % 2 * 255
    Image.fromarray(np.stack([board] * 3, -1).astype(np.uint8)).save(tmp_path / "board.png")
    inner = decode(tmp_path / "board.png", 16)[2:-2, 2:-2].astype(float)
    np.testing.assert_allclose(inner, 255 / 2, atol=2)


MODES = {
    "grey": (Image.new("L", (8, 8), 77), [77, 77, 77]),
    "16 bits": (Image.fromarray(np.full((8, 8), 77 * 256, np.uint16)), [77, 77, 77]),
    "palette": (Image.new("RGB", (8, 8), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE), [10, 20, 30]),
    "transparent": (Image.new("RGBA", (8, 8), (10, 20, 30, 0)), [10, 20, 30]),
}


@pytest.mark.parametrize("mode", MODES)
def test_other_modes_become_rgb(tmp_path, mode):
    image, expected = MODES[mode]
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 8), np.broadcast_to(expected, (8, 8, 3)))


def test_photographs_stand_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees with the clock
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 200  # the upper half, which is the right half when upright
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    upright = decode(tmp_path / "a.png", 16)
    assert upright[:, 8:].mean() > 190 > 10 > upright[:, :8].mean()


def test_a_damaged_image_is_named(tmp_path):
    write_classes(tmp_path / "train", 3)
    path = tmp_path / "train" / "bee" / "001.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"^.*bee.001\.png is no image that can be read \([^\n]*\); repair or remove it$"):
        data.load("image_folder", "train", str(tmp_path))


def one_image(root):
    paint(root / "ant" / "a.png", (1, 1, 1))
    paint(root / "bee" / "a.png", (1, 1, 1))


def one_class(root):
    paint(root / "ant" / "a.png", (1, 1, 1))
    paint(root / "ant" / "b.png", (1, 1, 1))


def another_class(root):
    write_classes(root / "train", 1)
    paint(root / "test" / "dog" / "a.png", (1, 1, 1))


FOLDERS = {
    "one image": (one_image, r"ant holds one image, and a split needs 2; add some, or make .*train and"),
    "one class": (one_class, "1 class folders with images, and a classifier needs 2; lay it out as <class>/<image>"),
    "another class": (another_class, "dog: no such class in .*train; its classes: ant, bee, cat"),
    "nothing": (lambda root: None, "0 class folders with images"),
    "no folder": (lambda root: root.rmdir(), "no folder .*; --data_dir takes a folder of class folders"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_that_cannot_be_used(tmp_path, case):
    write, message = FOLDERS[case]
    root = tmp_path / "data"
    root.mkdir()
    write(root)
    with pytest.raises(DataError, match=message):
        data.load("image_folder", "train", str(root))


WNIDS = [f"n{i:08}" for i in range(200)]


def write_tiny(root, rearranged=False):
    """Tiny ImageNet with one training and one test image a class; class i is a grey of i, tests one of i + 1."""
    folder = root / "tiny-imagenet-200"
    for i, wnid in enumerate(WNIDS):
        paint(folder / "train" / wnid / "images" / f"{wnid}_0.JPEG", (i,) * 3, (64, 64), quality=95)
        place = f"{wnid}/images/val_{199 - i}.JPEG" if rearranged else f"images/val_{199 - i}.JPEG"
        paint(folder / "val" / place, (i + 1,) * 3, (64, 64), quality=95)
    if not rearranged:
        lines = [f"val_{199 - i}.JPEG\t{wnid}\t0\t0\t63\t63" for i, wnid in enumerate(WNIDS)]
        (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (folder / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")
    (folder / "words.txt").write_text("".join(f"{wnid}\tname {i}, other name\n" for i, wnid in enumerate(WNIDS)))
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(("name", "classes"), [("tiny_imagenet", 200), ("tiny_imagenet_100", 100)])
@pytest.mark.parametrize("split", data.SPLITS)
def test_tiny_imagenet(tiny, name, classes, split):
    for place in (tiny, tiny.parent):
        found = data.load(name, split, str(place))
        assert found.labels.tolist() == list(range(classes))
        assert found.images.shape == (classes, 64, 64, 3)
        np.testing.assert_allclose(found.images.mean((1, 2, 3)), np.arange(classes) + (split == "test"), atol=1.01)
        assert found.class_names[3] == "name 3"


def test_tiny_imagenet_at_56(tiny):
    whole, centre = (data.load("tiny_imagenet_100", "test", str(tiny), size) for size in (None, 56))
    np.testing.assert_array_equal(centre.images, whole.images[:, 4:60, 4:60])
    with pytest.raises(DataError, match="image_size 96: the images are 64x64; take 1 to 64"):
        data.load("tiny_imagenet", "test", str(tiny), 96)


def test_tiny_imagenet_rearranged(tiny, tmp_path):
    found = data.load("tiny_imagenet", "test", str(write_tiny(tmp_path, rearranged=True)))
    assert found.sha256 == data.load("tiny_imagenet", "test", str(tiny)).sha256


TINY_DAMAGE = {
    "no such folder": (lambda f: (f / "wnids.txt").unlink(), r"holds no tiny-imagenet-200/wnids\.txt; unpack"),
    "few classes": (lambda f: (f / "wnids.txt").write_text("n1\nn2\n"), r"wnids\.txt: 2 classes where 200 are due; unpack"),
    "no words": (lambda f: (f / "words.txt").unlink(), r"words\.txt is missing; unpack"),
    "no labels": (lambda f: (f / "val" / "val_annotations.txt").write_text(""), "no test images of class n00000000; unpack"),
    "no image": (lambda f: (f / "val" / "images" / "val_7.JPEG").unlink(), r"val_7\.JPEG is no image that can be read"),
}


@pytest.mark.parametrize("damage", TINY_DAMAGE)
def test_damaged_tiny_imagenet(tmp_path, damage):
    folder = write_tiny(tmp_path)
    spoil, message = TINY_DAMAGE[damage]
    spoil(folder)
    with pytest.raises(DataError, match=message):
        data.load("tiny_imagenet", "test", str(folder))


def test_files_are_read_in_order_however_many(tmp_path):
    """More than a thread's share of 64."""
    paths = [paint(tmp_path / f"{i}.png", (i, i, i), (4, 4)) for i in range(150)]
    assert image_folder.read_files(paths, 4)[:, 0, 0, 0].tolist() == list(range(150))

"""tools/evaluate.py on exported networks: every image counts, class by class, and what cannot be scored is one line."""

import csv
import io
import json
import pathlib
import types

import numpy as np
import programs
import pytest
import tensorflow as tf
import tf_keras as keras
from PIL import Image

from frenzy import data, export
from frenzy.data.split import head
from frenzy.training import evaluate as scoring
from tools import cli, evaluate

ROOT = pathlib.Path(cli.__file__).parents[1]
PIXELS = export.Preprocessing((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
TEST = data.load("synthetic10", "test", image_size=8)


def network():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu", name="conv")(x)
    model = keras.Model(inputs, keras.layers.Dense(10, name="dense")(keras.layers.Flatten()(x)))
    export.round_weights(model, "float16")
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network with a card that names its data, and a preprocessing of its own."""
    path = tmp_path_factory.mktemp("export") / "net"
    export.export(network(), path, PIXELS, TEST.class_names, facts={"dataset": "synthetic10"})
    return path


GIVEN = {
    "dataset_name": None, "data_dir": None, "download": False, "image_size": 8, "split": "test", "batch_size": 250,
    "format": "table", "output": None, "confusion": None,
}  # fmt: skip


@pytest.fixture
def score(monkeypatch, capsys):
    """score(folder, flag=value, …) -> what is printed."""

    def run(folder, **given):
        monkeypatch.setattr(evaluate, "FLAGS", types.SimpleNamespace(load_folder=str(folder), **{**GIVEN, **given}))
        evaluate.main()
        return capsys.readouterr().out

    return run


def expected():
    """Logits of the test images by tf_keras."""
    images = (TEST.images / 255 - np.array(PIXELS.mean)) / np.array(PIXELS.std)
    return network()(tf.constant(images, tf.float32)).numpy()


def test_json(folder, score):
    result = json.loads(score(folder, format="json"))
    answers = expected().argmax(-1)
    assert result["dataset"] == "synthetic10"
    assert result["n"] == 2000
    assert result["top1"] == np.mean(answers == TEST.labels)
    best = np.argsort(-expected(), -1)[:, :5]
    assert result["top5"] == np.mean((best == TEST.labels[:, None]).any(-1))
    assert list(result["classes"]) == list(TEST.class_names)
    for number, found in enumerate(result["classes"].values()):
        own = answers[TEST.labels == number]
        assert found["n"] == 200
        assert found["accuracy"] == np.mean(own == number)
        wrong = np.bincount(own[own != number], minlength=10)
        assert wrong[TEST.class_names.index(found["mistaken_for"])] == wrong.max()


def test_classes_sum_up_to_top_1(folder, score):
    result = json.loads(score(folder, format="json"))
    right = sum(found["accuracy"] * found["n"] for found in result["classes"].values())
    assert right == pytest.approx(result["top1"] * result["n"])
    assert sum(found["n"] for found in result["classes"].values()) == result["n"]


@pytest.mark.parametrize("batch_size", [250, 999, 2000])
def test_the_size_of_batches_changes_nothing(folder, score, batch_size):
    """2,000 images do not divide into batches of 999: the last two count too."""
    result = json.loads(score(folder, format="json", batch_size=batch_size))
    assert result["n"] == 2000
    assert result["top1"] == np.mean(expected().argmax(-1) == TEST.labels)


def test_the_table_goes_from_the_worst_class_to_the_best(folder, score):
    head_line, *lines = score(folder).splitlines()
    right = np.mean(expected().argmax(-1) == TEST.labels)
    assert head_line.startswith(f"top-1 {right:.2%}, top-5 ")
    assert head_line.endswith(" of 2,000 images of synthetic10 (test)")
    shares = [float(line.split("%")[0].split()[-1]) for line in lines]
    assert len(shares) == 10
    assert shares == sorted(shares)


def test_the_matrix_as_csv_and_as_a_picture(folder, score, tmp_path):
    score(folder, confusion=str(tmp_path / "m.csv"))
    with (tmp_path / "m.csv").open(newline="") as file:
        (corner, *answers), *rows = csv.reader(file)
    assert [corner, *answers] == ["class", *TEST.class_names]
    assert [row[0] for row in rows] == list(TEST.class_names)
    counts = np.array([[int(count) for count in row[1:]] for row in rows])
    np.testing.assert_array_equal(counts.sum(1), 200)
    np.testing.assert_array_equal(counts, scoring.confusion(expected(), TEST.labels))
    score(folder, confusion=str(tmp_path / "m.png"), output=str(tmp_path / "table.txt"))
    with Image.open(tmp_path / "m.png") as image:
        assert image.format == "PNG"
    assert (tmp_path / "table.txt").read_text().startswith("top-1 ")


def test_the_training_images_on_request(folder, score):
    assert json.loads(score(folder, format="json", split="train"))["n"] == 10_000


# confusion and classes by hand


def test_a_confusion_matrix_by_hand():
    logits = np.eye(3)[[0, 0, 1, 2, 2, 1]]
    labels = np.array([0, 0, 0, 2, 1, 1], np.int32)
    np.testing.assert_array_equal(scoring.confusion(logits, labels), [[2, 1, 0], [0, 1, 1], [0, 0, 1]])


def test_classes_by_hand():
    counts = np.array([[2, 1, 0, 0], [3, 5, 0, 2], [0, 0, 4, 0], [0, 0, 0, 0]])
    assert evaluate.by_class(counts, ("cat", "dog", "cow", "none")) == {
        "cat": {"n": 3, "accuracy": 2 / 3, "mistaken_for": "dog"},
        "dog": {"n": 10, "accuracy": 0.5, "mistaken_for": "cat"},
        "cow": {"n": 4, "accuracy": 1.0, "mistaken_for": None},
    }
    assert list(csv.reader(io.StringIO(evaluate.matrix_csv(counts[:2, :2], ("a, b", "c"))))) == [
        ["class", "a, b", "c"],
        ["a, b", "2", "1"],
        ["c", "3", "5"],
    ]


# what others made


def save(folder, function, *specs):
    module = tf.Module()
    module.serve = tf.function(function, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


ANY = tf.TensorSpec((None, 8, 8, 3), tf.float32, name="x")


def brightest(images):
    """A network of others: its answer follows from the mean of each channel."""
    return {"scores": tf.tile(tf.reduce_mean(images, (1, 2)), (1, 4))[:, :10]}


def test_a_foreign_network_takes_the_mean_and_std_of_the_data(tmp_path, score):
    result = json.loads(score(save(tmp_path / "m", brightest, ANY), dataset_name="synthetic10", format="json"))
    images = (TEST.images / 255 - np.array(TEST.mean)) / np.array(TEST.std)
    answers = np.argmax(images.mean((1, 2)), -1)  # of equal ones the first counts: classes 0 to 2 alone
    assert result["top1"] == pytest.approx(np.mean(answers == TEST.labels), abs=2 / 2000)


REFUSED = {
    "no dataset": (lambda f: save(f, brightest, ANY), {}, "has no model card that names its dataset; name one by --dataset_name"),
    "unknown dataset": (lambda f: save(f, brightest, ANY), {"dataset_name": "mnist"}, "no data set 'mnist'; known: cifar10, "),
    "other number of classes": (
        lambda f: save(f, brightest, ANY), {"dataset_name": "synthetic100"},
        "knows 10 classes and synthetic100 has 100; name its own dataset",
    ),
    "no vector": (
        lambda f: save(f, lambda x: {"y": x}, ANY), {"dataset_name": "synthetic10"},
        r"gives \(8, 8, 3\) for an image, no vector of logits",
    ),
    "other size": (
        lambda f: save(f, brightest, tf.TensorSpec((None, 16, 16, 3), tf.float32, name="x")), {"dataset_name": "synthetic10"},
        r"takes \(None, 16, 16, 3\) and the images of synthetic10 are \(8, 8, 3\); see --image_size",
    ),
    "two outputs": (
        lambda f: save(f, lambda x: {"a": x, "b": x}, ANY), {"dataset_name": "synthetic10"},
        "serving_default takes x and gives a, b; one input of images",
    ),
    "no signature": (
        lambda f: tf.saved_model.save(tf.Module(), str(f)) or f, {"dataset_name": "synthetic10"}, "has no signature serving_default"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_scored(case, tmp_path, score):
    make, given, said = REFUSED[case]
    with pytest.raises(cli.UsageError, match=said):
        score(make(tmp_path / "m"), **given)


def test_other_classes_are_refused(tmp_path, score):
    """As many, but not these: top-1 would mean nothing."""
    names = ["moon", *TEST.class_names[1:]]
    export.export(network(), tmp_path / "m", PIXELS, names, facts={"dataset": "synthetic10"})
    with pytest.raises(cli.UsageError, match=f"has a class 'moon' where synthetic10 has '{TEST.class_names[0]}'; name its own"):
        score(tmp_path / "m")


def test_a_damaged_card_and_a_damaged_graph(tmp_path, score):
    export.export(network(), tmp_path / "m", PIXELS, TEST.class_names, facts={"dataset": "synthetic10"})
    (tmp_path / "m" / export.CARD).write_text("{")
    with pytest.raises(cli.UsageError, match=r"model_card\.json cannot be read"):
        score(tmp_path / "m")
    (tmp_path / "m" / export.CARD).unlink()
    (tmp_path / "m" / "saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(cli.UsageError, match="Cannot parse"):
        score(tmp_path / "m", dataset_name="synthetic10")


def test_no_folder_is_one_line():
    done = programs.start("tools/evaluate.py", "--load_folder=nowhere")
    assert done.returncode == 2
    assert done.stderr == (
        "evaluate.py: nowhere is no SavedModel: it holds no saved_model.pb; name the folder that does by --load_folder\n"
    )


def test_a_few_images_are_scored_too():
    few = head(TEST, 7)
    assert scoring.evaluate(lambda images: np.eye(10)[few.labels][: len(images)], few) == {"top1": 1.0, "top5": 1.0, "n": 7}

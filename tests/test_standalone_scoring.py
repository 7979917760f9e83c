"""standalone_inference.py scores every image, of our SavedModels and of others'."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from standalone_case import COUNTS, FAR, WRONG, N, PixelReader, images_spec, save, with_card, write_card

import standalone_inference as script

pytestmark = pytest.mark.usefixtures("no_network_and_own_cache")

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
        (lambda images: {"logits": images[:1, 0, 0]}, r"gives outputs \(1, 3\) for \d+ images"),
        (lambda images: {"logits": images[:, 0, 0]}, r"gives 3 logits, cifar100 has 100 classes"),
        (
            lambda images: {"logits": tf.ensure_shape(images, (1, 32, 32, 3))[:, 0, 0]},
            r"fails on images \(\d+, 32, 32, 3\) \(Inv",
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

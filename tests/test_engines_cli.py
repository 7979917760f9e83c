"""standalone_inference.py by its command line on other engines: the same scores, what is left out, the cache, images."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from standalone_case import FAR, WRONG, N, PixelReader, images_spec, save, with_card, write_card

import standalone_inference as script

pytestmark = pytest.mark.usefixtures("no_network_and_own_cache")

LITERT = pytest.mark.skipif(not importlib.util.find_spec("ai_edge_litert"), reason="ai-edge-litert is not installed")
OPENVINO = pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="openvino is not installed")
RIGHT, NEAR = (N - len(WRONG)) / N, (N - len(FAR)) / N


class Dense(tf.Module):
    """Logits that are the means of stretches of the image: smooth, so that every engine computes them alike."""

    def __init__(self, classes: int = 100):
        super().__init__()
        self.kernel = tf.Variable(np.random.default_rng(1).normal(0, 0.02, (3072, classes)), dtype=tf.float32)

    def logits(self, images):
        return {"logits": tf.reshape(images, (-1, 3072)) @ self.kernel}


@pytest.fixture
def dense(tmp_path):
    return with_card(tmp_path / "dense", Dense().logits, images_spec())


def scored(call, folder, data, *flags):
    code, out, err = call("--load_folder", folder, "--data_dir", data, "--json", *flags)
    assert code == 0, err
    return json.loads(out), err


@LITERT
@pytest.mark.parametrize("flags", [(), ("--threads", 1), ("--batch_size", 1), ("--batch_size", 7, "--limit", 20)])
def test_litert_scores_as_tensorflow_does(call, dense, data, flags):
    ours, _ = scored(call, dense, data, "--runtime", "litert", *flags)
    theirs, _ = scored(call, dense, data, "--runtime", "tensorflow", *flags)
    assert ours["runtime"]["engine"].startswith("LiteRT float32, ")
    assert theirs["runtime"]["engine"].startswith("TensorFlow float32, ")
    assert [ours[key] for key in ("n", "top1", "top5")] == [theirs[key] for key in ("n", "top1", "top5")]


@OPENVINO
def test_openvino_reads_the_savedmodel_itself(call, tmp_path, data):
    folder = with_card(tmp_path / "m", PixelReader(100).logits, images_spec())
    report, _ = scored(call, folder, data, "--runtime", "openvino", "--precision", "float32", "--batch_size", 10)
    assert report["runtime"]["engine"].startswith("OpenVINO float32, ")
    assert (report["n"], report["top1"], report["top5"]) == (N, RIGHT, NEAR)
    assert not (tmp_path / ".m.cache" / "float32.tflite").exists()


@OPENVINO
@pytest.mark.parametrize("batch", [1, 3])
def test_openvino_reads_images_that_do_not_lie_in_order(tmp_path, batch):
    """A tensor of OpenVINO's points to NumPy's memory, so a copy must live as long as the call."""
    module = Dense()
    network = script.Network(with_card(tmp_path / "m", module.logits, images_spec()))
    made = script.openvino_engine(network, script.Plan("openvino", "float32", 1, 1, batch))
    images = network.made_up(6).transpose(0, 2, 1, 3)
    expected = module.logits(tf.constant(images))["logits"].numpy()
    np.testing.assert_allclose(made.logits(images), expected, rtol=1e-4, atol=1e-5)


@LITERT
def test_a_fixed_batch_and_half_precision_images(call, tmp_path, data):
    reader = PixelReader(100)
    spec = images_spec(8, dtype=tf.float16)
    folder = save(tmp_path / "m", lambda images: {"x": reader.logits(tf.cast(images, tf.float32))}, spec, owner=reader)
    write_card(folder)
    report, _ = scored(call, folder, data, "--runtime", "litert", "--batch_size", 5)
    assert (report["batch_size"], report["top1"], report["top5"]) == (8, RIGHT, NEAR)


def test_auto_says_what_it_chose_and_why(call, model, data):
    code, out, err = call("--load_folder", model, "--data_dir", data, "--runtime", "auto", "--batch_size", 8)
    assert (code, err.count("\n")) == (0, 1), err
    (line,) = (line for line in out.splitlines() if line.startswith("runtime   "))
    assert "images/s at 8 images a call, timed 20" in line
    assert "TensorFlow float32" in line
    again = call("--load_folder", model, "--data_dir", data, "--runtime", "auto", "--batch_size", 8)[1]
    assert line in again  # timed once


def test_auto_goes_on_without_what_is_not_installed(call, refused, model, data, monkeypatch, tmp_path):
    known = script.version
    monkeypatch.setattr(script, "version", lambda name: known(name) if name == "tensorflow" else None)
    monkeypatch.setattr(script, "litert_interpreter", lambda: pytest.fail("it was asked for"))
    monkeypatch.setitem(script.RUNTIMES, "litert", ("ai-edge-litert",))
    report, _ = scored(call, model, data, "--runtime", "auto")
    assert report["runtime"]["engine"].startswith("TensorFlow")
    assert report["runtime"]["left_out"] == {
        "LiteRT": "not installed; pip install ai-edge-litert", "OpenVINO": "not installed; pip install openvino"
    }  # fmt: skip
    said = r"no engine runs .*: OpenVINO: not installed; pip install openvino$"
    refused("--load_folder", model, "--data_dir", data, "--runtime", "openvino", match=said, notes=1)


@LITERT
def test_a_network_that_the_converter_refuses(call, refused, tmp_path, data):
    """The determinant is no op of TFLite's."""
    reader = PixelReader(100)

    def logits(images):
        matrices = tf.eye(2, batch_shape=[tf.shape(images)[0]]) * images[:, :2, :1, 0]
        return reader.logits(images) + 0 * tf.linalg.det(matrices)[:, None]

    folder = save(tmp_path / "m", logits, images_spec(), owner=reader)
    write_card(folder)
    said = "no engine runs .*: LiteRT float32: TensorFlow's converter refuses the network"
    refused("--load_folder", folder, "--data_dir", data, "--runtime", "litert", match=said, notes=1)
    report, _ = scored(call, folder, data, "--runtime", "auto")
    assert report["top1"] == RIGHT
    assert "converter refuses" in report["runtime"]["left_out"]["LiteRT float32"]


def test_flags_that_do_not_go_together(refused, model, tmp_path, data):
    refused("--threads", 100_000, match="--threads=100000: this process may use .* cores; take 1 to")
    refused("--threads", 0, match="flag --threads=0: 0 is not a positive integer")
    refused("--runtime", "onnx", match="flag --runtime=onnx: value should be one of <auto|litert|openvino|tensorflow>")
    refused("--runtime", "litert", "--precision", "bfloat16", match="--precision bfloat16 is for OpenVINO alone")
    refused("--runtime", "openvino", "--tflite", "x", match="--tflite is for LiteRT alone, and --runtime is openvino")
    said = f"--tflite: {tmp_path}/none cannot be read .*; write one with tools/export.py --tflite"
    refused(
        "--load_folder", model, "--data_dir", data, "--runtime", "litert", "--tflite", tmp_path / "none", match=said, notes=1
    )


# ---- the cache


@pytest.fixture
def no_tensorflow(monkeypatch):
    def forbid():
        monkeypatch.setattr(script, "import_tensorflow", lambda: pytest.fail("TensorFlow was imported"))

    return forbid


@LITERT
def test_the_second_start_needs_no_tensorflow(call, dense, data, no_tensorflow):
    first, _ = scored(call, dense, data, "--runtime", "litert")
    no_tensorflow()
    second, err = scored(call, dense, data, "--runtime", "litert")
    assert err.count("note") == 1  # 23 images
    assert (first["top1"], first["runtime"]) == (second["top1"], second["runtime"])
    names = {path.name for path in (dense.parent / ".dense.cache").iterdir()}
    assert names == {"facts.json", "float32.tflite"}


@LITERT
def test_in_a_process_of_its_own_tensorflow_stays_out(call, dense, data):
    scored(call, dense, data, "--runtime", "litert")
    code = (
        "import sys, standalone_inference as script\n"
        f"code = script.main(['x', '--load_folder', {str(dense)!r}, '--data_dir', {str(data)!r}, '--runtime', 'litert'])\n"
        "sys.exit(code or 10 * ('tensorflow' in sys.modules))"
    )
    folder = script.__file__.rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr


@OPENVINO
def test_ctrl_c_is_taken_once_engines_came_and_went(dense):
    code = (
        "import pathlib, signal, sys, standalone_inference as script\n"
        "network = script.Network(pathlib.Path(sys.argv[1]))\n"
        "plan = script.Plan('openvino', 'float32', 1, 1, 4)\n"
        "engines = [script.openvino_engine(network, plan) for _ in range(3)]\n"
        "while engines: engines.pop(0)\n"
        "try: signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt: sys.exit(130)\n"
    )
    folder = script.__file__.rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", code, dense], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


@LITERT
@pytest.mark.parametrize("name", ["facts.json", "float32.tflite"])
def test_a_damaged_cache_is_made_anew(call, dense, data, name):
    before, _ = scored(call, dense, data, "--runtime", "litert")
    path = dense.parent / ".dense.cache" / name
    content = path.read_bytes()
    path.write_bytes(content[:-7] + b"0123456")
    after, err = scored(call, dense, data, "--runtime", "litert")
    assert f"note: {path} is " in err
    assert "made anew" in err
    assert (before["top1"], before["top5"]) == (after["top1"], after["top5"])
    assert "made anew" not in scored(call, dense, data, "--runtime", "litert")[1]


@LITERT
def test_another_network_in_the_same_folder_is_told(call, dense, data):
    scored(call, dense, data, "--runtime", "litert")
    key = script.Cache(dense).key
    save(dense, PixelReader(100).logits, images_spec())
    report, err = scored(call, dense, data, "--runtime", "litert")
    assert "it is of another network or another TensorFlow" in err
    assert report["top1"] == RIGHT
    assert script.Cache(dense).key != key


@LITERT
def test_where_nothing_can_be_written_beside_it_the_users_cache_serves(call, dense, data, monkeypatch, tmp_path, no_tensorflow):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    monkeypatch.setattr(script.os, "access", lambda path, mode: False)
    scored(call, dense, data, "--runtime", "litert")
    assert not (dense.parent / ".dense.cache").exists()
    assert (tmp_path / "users" / "frenzy" / script.Cache(dense).key / "float32.tflite").is_file()
    no_tensorflow()
    scored(call, dense, data, "--runtime", "litert")


def test_the_content_hash_is_of_names_and_bytes(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder / "variables").mkdir(parents=True)
        (tmp_path / folder / "saved_model.pb").write_bytes(b"graph")
    first, second = (tmp_path / folder for folder in ("a", "b"))
    assert script.content_hash(first) == script.content_hash(second)
    (first / "assets.extra").mkdir()
    (first / "assets.extra" / "model_card.json").write_text("{}")
    assert script.content_hash(first) == script.content_hash(second)  # the card is read every time
    (first / "variables" / "variables.index").write_bytes(b"x")
    (second / "variables" / "variables.data").write_bytes(b"x")
    assert script.content_hash(first) != script.content_hash(second)


# ---- images


@LITERT
def test_a_folder_of_images(call, refused, tmp_path, no_tensorflow):
    folder = with_card(tmp_path / "m", PixelReader(100).logits, images_spec())
    shown = tmp_path / "images"
    shown.mkdir()
    for red in (30, 10, 20):
        Image.new("RGB", (32, 32), (red, 0, 0)).save(shown / f"{red}.png")
    (shown / "notes.txt").write_text("no image")
    flags = ("--load_folder", folder, "--runtime", "litert", "--images", shown)
    found = json.loads(call(*flags, "--json", "--batch_size", 2)[1])
    assert [image["top5"][0]["class"] for image in found["images"]] == [10, 20, 30]
    no_tensorflow()
    code, out, err = call(*flags, "--batch_size", 2)
    assert (code, out.count(".png\n"), err) == (0, 3, "")
    (tmp_path / "empty").mkdir()
    refused(
        "--load_folder", folder, "--images", tmp_path / "empty", match=f"folder {tmp_path}/empty is no image, and holds none"
    )

"""tools/benchmark.py infer: what the table concludes, the ONNX peer, the document; no fast test depends on real time."""

import dataclasses
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import programs
import pytest
import tf_keras as keras

from frenzy import models
from frenzy.layers.activations import HardSigmoid, HardSwish
from frenzy.layers.channels import ZeroPadChannels
from frenzy.layers.squeeze_excite import SqueezeExcite
from frenzy.layers.subsample import Subsample
from tools import cli
from tools.benchmarks import document, engines_peers, infer, measure

ROOT = Path(cli.__file__).parents[1]
ONNX = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))), reason="onnx or onnxruntime is not installed"
)
CASE = infer.Case("net", "folder", macs=1_000_000, sample=None, sample_of="test images of cifar10")


def row(name, *seconds, peak=1e12, memory=3 * 2**20, **facts):
    timing = measure.Timing(name, seconds, {"calls": 10})
    return infer.Row(name, timing, 256, CASE.macs, peak, facts, memory)


ROWS = [
    row("ours", 0.010, 0.10, 0.020, plan="LiteRT float32, 2 streams of 1 thread, 32 images at a time"),
    row("ours, float32", 0.010, 0.11, 0.020, plan="LiteRT float32, 1 stream of 2 threads, 256 images at a time"),
    row("LiteRT", 0.012, 0.09, 0.024, off=1e-6),
    row("OpenVINO", 0.020, 0.20, 0.040, off=2e-3),
    row("OpenVINO bfloat16", 0.008, 0.10, 0.016, agreement=0.991),
    row("PyTorch bfloat16", 0.040, 0.40, 0.080, agreement=0.995, peak=2e12),
]


def test_a_row():
    first = ROWS[0]
    assert first.images_per_second == measure.Spread(256 / 0.02, 256 / 0.1, 256 / 0.01)
    assert first.share == pytest.approx(2 * 1_000_000 * (256 / 0.02) / 1e12)
    assert [each.agrees for each in ROWS] == [True, True, True, False, False, True]


def test_ours_is_held_against_the_fastest_peer_that_answers_as_tensorflow_does():
    """Round by round: 12 / 10, 9 / 10 and 24 / 20."""
    assert infer.against(ROWS, "ours", narrow=True) == ("LiteRT", measure.Spread(1.2, 0.09 / 0.1, 1.2))
    assert infer.against(ROWS, "ours, float32", narrow=False) == ("LiteRT", measure.Spread(1.2, 0.09 / 0.11, 1.2))
    faster = [*ROWS[:2], row("PyTorch bfloat16", 0.001, 0.01, 0.002, agreement=1.0), *ROWS[2:3]]
    assert infer.against(faster, "ours", narrow=True)[0] == "PyTorch bfloat16"
    assert infer.against(faster, "ours, float32", narrow=False)[0] == "LiteRT"
    assert infer.against(ROWS[:2], "ours", narrow=True) is None
    assert infer.against(ROWS[2:], "ours", narrow=True) is None


def test_table():
    lines = infer.table(CASE, 256, 2, ROWS, {"ONNX Runtime": "not installed"}).splitlines()
    assert lines[0] == "net, batches of 256, 2 threads"
    assert lines[3].split() == ["ours", "20.000", "10.000", "100.000", "12,800", "1.00", "2.6%", "3"]
    assert lines[5].split() == ["LiteRT", "24.000", "12.000", "90.000", "10,667", "0.83", "2.1%", "3"]
    assert lines[7].split()[-1] == "*"
    assert lines[9].startswith("ours is 1.20x (0.90 to 1.20) of LiteRT: LiteRT float32, 2 streams")
    assert "OpenVINO bfloat16 answers 99.1% of test images of cifar10 as TensorFlow does" in lines
    assert "* OpenVINO bfloat16 does not answer as TensorFlow does" in lines
    assert lines[-1] == "ONNX Runtime was left out: not installed"
    assert max(map(len, lines)) <= 80


def test_the_record_holds_what_the_table_concludes():
    found = json.loads(json.dumps(infer.summary(CASE, 256, 2, ROWS, {"PyTorch": "not installed"})))
    assert found["over_fastest_peer"]["ours"] == {"peer": "LiteRT", "median": 1.2, "least": 0.09 / 0.1, "most": 1.2}
    assert found["subjects"]["OpenVINO"]["agrees"] is False
    assert found["subjects"]["LiteRT"]["images_per_second"]["median"] == 256 / 0.024
    assert found["subjects"]["LiteRT"]["peak_memory_bytes"] == 3 * 2**20
    assert (found["network"], found["batch_size"], found["threads"], found["missing"]) == (
        "net",
        256,
        2,
        {"PyTorch": "not installed"},
    )
    picture = infer.plot([found, {**found, "batch_size": 8}, {**found, "threads": 1}])
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")


def test_a_sample_lasts_about_as_long_as_is_asked_for():
    class Slow:
        now, ran = 0.0, ()

        def run(self, calls):
            self.now += 0.01 * calls if self.ran else 50.0  # the first is no measure
            self.ran += (calls,)

    slow = Slow()
    assert infer.calls_a_sample(slow.run, 0.5, lambda: slow.now) == 50
    assert slow.ran == (1, 1, 2, 4, 8, 16)  # 0.16 s are more than an eighth
    slow = Slow()
    assert infer.calls_a_sample(slow.run, 0.0, lambda: slow.now) == 1


def test_bfloat16_is_compared_only_where_its_answers_are_checked():
    narrow = infer.PEERS[[peer.name for peer in infer.PEERS].index("OpenVINO bfloat16")]
    here = dataclasses.replace(narrow, packages=("numpy",))
    assert "test images are not at hand" in infer.left_out(here, CASE)
    assert infer.left_out(here, dataclasses.replace(CASE, sample="images.npy")) is None
    assert infer.left_out(dataclasses.replace(here, precision="float32"), CASE) is None
    assert infer.left_out(dataclasses.replace(here, packages=("no_such_package",)), CASE) == "not installed"


def test_seconds_a_call():
    timing = infer.per_call(measure.Timing("a", (1.0, 3.0), {"calls": 4}))
    assert timing.seconds == (0.25, 0.75)


def test_there_is_no_most_of_images_a_call():
    with pytest.raises(cli.UsageError, match="--batch_sizes=1,none: 'none' is no whole number from 1 or more"):
        infer.whole_numbers("batch_sizes", ["1", "none"])


@pytest.mark.parametrize("values", [["1", "x"], ["0"], ["-1"], [""], [], ["3"]])
def test_bad_numbers(values):
    with pytest.raises(cli.UsageError, match=r"--threads=.*: .* is no whole number from 1 to 2; write 1,2 say"):
        infer.whole_numbers("threads", values, 2)


def test_whole_numbers():
    assert infer.whole_numbers("batch_sizes", ["256", "1", "256"]) == [256, 1]


def test_peak_memory_is_of_the_process():
    found = infer.peak_memory(os.getpid())
    assert found == 0 or 2**24 < found < 2**40
    assert infer.peak_memory(2**30) == 0


def test_every_peer_has_a_name_of_its_own_and_says_whether_it_is_here():
    names = [peer.name for peer in engines_peers.PEERS]
    assert len(set(names)) == len(names)
    known = {peer.name: peer.installed for peer in engines_peers.PEERS}
    assert known["TensorFlow"]
    assert not engines_peers.Peer("none", "float32", engines_peers.tensorflow, ("no_such_package",)).installed
    assert known["PyTorch"] == bool(importlib.util.find_spec("torch"))


# ---- the ONNX peer


def small(activation):
    """Every kind of layer that has a rule, but for what the zoo's networks show."""
    x = inputs = keras.Input((9, 10, 3), name="images")
    x = keras.layers.Rescaling(2.0, 0.5, name="rescaling")(x)
    x = keras.layers.ZeroPadding2D(((1, 0), (2, 1)), name="zeros")(x)
    x = keras.layers.Conv2D(8, 3, 2, "valid", name="conv")(x)
    x = keras.layers.BatchNormalization(name="bn", beta_initializer="ones", moving_mean_initializer="ones")(x)
    x = activation(x)
    x = keras.layers.DepthwiseConv2D(3, 1, "same", name="depthwise")(x)
    x = SqueezeExcite(2, "hard_sigmoid", name="se")(x)
    branch = ZeroPadChannels(4, name="more")(Subsample(2, name="every")(x))
    x = keras.layers.Conv2D(12, 2, 2, "same", dilation_rate=1, name="down")(x)
    x = keras.layers.Add(name="add")([x, branch])
    x = keras.layers.Concatenate(name="join")([keras.layers.MaxPooling2D(2, 1, "same", name="most")(x), x])
    x = keras.layers.AveragePooling2D(2, 2, "same", name="mean")(x)
    x = keras.layers.Dropout(0.5, name="dropout")(keras.layers.Flatten(name="flat")(x))
    return keras.Model(inputs, keras.layers.Dense(7, name="logits")(x))


ACTIVATIONS = {
    "relu": lambda: keras.layers.ReLU(name="a"),
    "relu6": lambda: keras.layers.ReLU(6.0, name="a"),
    "hard_swish": lambda: HardSwish(name="a"),
    "hard_sigmoid": lambda: HardSigmoid(name="a"),
    "sigmoid": lambda: keras.layers.Activation("sigmoid", name="a"),
}


def onnx_logits(model, images):
    import onnxruntime as ort

    from tools.benchmarks import onnx_peer

    session = ort.InferenceSession(onnx_peer.convert(model), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})[0]


@ONNX
@pytest.mark.parametrize("network", [*ACTIVATIONS, "frenzy_small", "microbotnet_x0.32"])
def test_the_onnx_peer_gives_the_networks_logits(network):
    keras.utils.set_random_seed(0)
    model = small(ACTIVATIONS[network]()) if network in ACTIVATIONS else models.build(network)
    images = np.random.default_rng(0).normal(size=(3, *model.input_shape[1:])).astype(np.float32)
    expected = model(images, training=False).numpy()
    np.testing.assert_allclose(onnx_logits(model, images), expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


@ONNX
def test_what_has_no_onnx_form_is_named():
    from tools.benchmarks import onnx_peer

    inputs = keras.Input((4, 4, 3), name="images")
    for layer, said in (
        (keras.layers.PReLU(name="odd"), "'odd' is a PReLU, which has no rule here; known: Activation, Add"),
        (keras.layers.Activation("tanh", name="odd"), "'odd' is the activation 'tanh'; known here: hard_sigmoid"),
        (keras.layers.Activation("hard_sigmoid", name="odd"), "'odd' is tf_keras's own hard_sigmoid"),
        (keras.layers.Conv2D(2, 1, activation="relu", name="odd"), "'odd' holds an activation; give that a layer of its own"),
        (keras.layers.ReLU(negative_slope=0.1, name="odd"), "'odd' is a ReLU of slope or threshold"),
        (keras.layers.Reshape((2, 8, 3), name="odd"), r"'odd' makes \(None, 2, 8, 3\); only lines"),
    ):
        with pytest.raises(onnx_peer.PeerError, match=said):
            onnx_peer.convert(keras.Model(inputs, layer(inputs)))


# ---- the document

RECORD = {
    "date": "2020-01-02T03:04:05+00:00", "command": "python tools/benchmark.py infer",
    "machine": {"cores": 2, "processor": "some", "load": 0.12, "system": "Linux"}, "versions": {"numpy": "2"}, "engines": {"torch": "3"},
}  # fmt: skip


def test_a_section_says_when_where_and_how():
    text = document.section("infer", "a table\n", RECORD)
    assert text == (
        "## infer\n\n2020-01-02; 2 cores of some, load 0.1, Linux; numpy 2, torch 3\n\n    python tools/benchmark.py infer\n\n"
        "```text\na table\n```\n"
    )


def test_a_section_is_replaced_and_everything_else_stays():
    first = document.replaced("", "infer", "one\n")
    assert first.startswith("# Benchmarks\n\n<!-- infer: written by tools/benchmark.py -->\n\none\n")
    both = document.replaced(first, "train", "two\n") + "by hand\n"
    again = document.replaced(both, "infer", "three\n")
    assert again == both.replace("one\n", "three\n")
    assert document.replaced(again, "infer", "three\n") == again


@pytest.mark.parametrize("text", ["<!-- infer: written by tools/benchmark.py -->", "<!-- end of infer -->"])
def test_a_document_with_half_a_pair_of_marks_is_left_alone(text):
    with pytest.raises(document.DocumentError, match=r"needed are one line '<!-- infer: written by .* or neither"):
        document.replaced(text, "infer", "body")


# ---- the tool


def benchmark(*arguments):
    return programs.start("tools/benchmark.py", "infer", *arguments)


def test_bad_input_is_one_line(tmp_path):
    for flags, said in (
        (["--threads=1,100000"], "is no whole number from 1 to"),
        ([f"--load_folder={tmp_path}"], "is no SavedModel: it holds no saved_model.pb"),
    ):
        done = benchmark(*flags)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert said in done.stderr


@pytest.mark.slow
def test_infer_from_the_command_line(tmp_path):
    path, picture, page = tmp_path / "found.json", tmp_path / "found.png", tmp_path / "BENCHMARKS.md"
    flags = ["--network=frenzy_small", "--batch_sizes=2", "--threads=1", "--seconds=0", "--repeats=2"]
    done = benchmark(*flags, f"--output={path}", f"--plot={picture}", f"--write={page}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("frenzy_small, batches of 2, 1 thread\n")
    found = json.loads(path.read_text())
    (table,) = found["summary"]
    here = {peer.name for peer in engines_peers.PEERS if peer.installed}
    assert set(table["subjects"]) == here
    assert set(table["missing"]) == {peer.name for peer in engines_peers.PEERS} - here
    assert all(each["share_of_peak"] > 0 and each["peak_memory_bytes"] > 2**24 for each in table["subjects"].values())
    assert all(table["subjects"][name]["agrees"] for name in here if "bfloat16" not in name)
    assert all(len(each["seconds"]) == 2 for each in found["timings"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert done.stdout.splitlines()[0] in page.read_text()

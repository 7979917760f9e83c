"""standalone_inference.py on other engines: streams, checks against TensorFlow, the cache, the choice, and what goes wrong."""

import importlib.util
import json
import subprocess
import sys
import threading
import time

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


def engine(runs, chunk, **changes):
    return script.Engine(script.Plan("litert", "float32", len(runs), 1, chunk, **changes), tuple(runs))


def wanted(runtimes=("litert", "openvino", "tensorflow"), **changes):
    return script.Wanted(**{"runtimes": runtimes, "precision": None, "threads": 1, "batch": 8, "tflite": None, **changes})


NOTHING = np.zeros((0, 32, 32, 3), np.float32)

# ---- streams


@pytest.mark.parametrize(
    ("batch", "threads", "fixed", "expected"),
    [
        (1, 1, None, [(1, 1, 1)]),
        (1, 2, None, [(1, 2, 1), (1, 1, 1)]),
        (8, 2, None, [(1, 2, 8), (2, 1, 4)]),
        (9, 2, None, [(1, 2, 9), (2, 1, 5)]),
        (256, 2, None, [(1, 2, 256), (2, 1, 32)]),
        (256, 1, None, [(1, 1, 256), (1, 1, 32)]),
        (16, 4, 16, [(1, 4, 16), (4, 1, 16)]),
    ],
)
def test_layouts(batch, threads, fixed, expected):
    assert script.layouts(batch, threads, fixed) == expected


@pytest.mark.parametrize(("count", "chunk", "streams"), [(23, 4, 2), (8, 4, 1), (3, 4, 2), (1, 1, 1), (5, 1, 3)])
def test_chunks_come_in_order_and_the_last_is_filled_up(count, chunk, streams):
    images = np.arange(count, dtype=np.float32)[:, None]
    seen = []

    def run(part):
        assert part.shape == (chunk, 1)
        time.sleep(0.002 * (int(part[0, 0]) % 3))
        seen.append(float(part.sum()))
        return 10 * part

    made = engine([run] * streams, chunk)
    parts = list(made.stream(count, images.__getitem__))
    assert [len(part) for part in parts] == [chunk] * (count // chunk) + [count % chunk] * (count % chunk > 0)
    np.testing.assert_array_equal(np.concatenate(parts), 10 * images)
    assert sum(seen) == images.sum()  # what is filled in is zero
    np.testing.assert_array_equal(made.logits(images), 10 * images)


def test_a_stream_runs_one_chunk_at_a_time_while_the_next_is_made():
    running, second = threading.Lock(), threading.Event()

    def prepare(part):
        if part.start:
            second.set()
        return np.zeros((2, 1), np.float32)

    def run(part):
        assert running.acquire(blocking=False), "two chunks at once in one stream"
        assert second.wait(60), "the second chunk waits for the first"
        running.release()
        return part

    assert len(list(engine([run], 2).stream(8, prepare))) == 4


def test_a_network_that_takes_every_core_has_its_chunks_made_in_between():
    order = []

    def prepare(part):
        order.append(f"make {part.start}")
        return np.full((2, 1), part.start, np.float32)

    def run(part):
        order.append(f"run {part[0, 0]:g}")
        return part

    assert len(list(engine([run], 2).stream(6, prepare, ahead=False))) == 3
    assert order == ["make 0", "run 0", "make 2", "run 2", "make 4", "run 4"]


def test_what_fails_in_a_stream_is_raised():
    def run(part):
        raise RuntimeError("no such layer")

    with pytest.raises(RuntimeError, match="no such layer"):
        list(engine([run], 2).stream(8, lambda part: np.zeros((2, 1), np.float32)))


def test_close_calls_run_again():
    """Margins are 0.5, 0.1, 3, 0.2: below 0.3 the exact engine's logits count."""
    quick = np.array([[1.0, 0.5, 0.0], [1.0, 1.1, 0.0], [0.0, 0.0, 3.0], [2.0, 1.8, 0.0]], np.float32)
    asked = []

    def exact(images):
        asked.append(images[:, 0].tolist())
        return np.stack([images[:, 0]] * 3, axis=1)

    images = np.array([[5.0], [6.0], [7.0], [8.0]], np.float32)
    plan = script.Plan("openvino", "bfloat16", 1, 1, 4, margin=0.3)
    both = script.careful_engine(engine([lambda _: quick.copy()], 4), engine([exact], 3), plan)
    np.testing.assert_array_equal(both.logits(images), [quick[0], [6.0] * 3, quick[2], [8.0] * 3])
    assert asked == [[6.0, 8.0, 0.0]]
    assert both.plan.kind == "OpenVINO bfloat16 with close calls in float32"


# ---- checks


def test_margins_and_agreement():
    logits = np.array([[1.0, 4.0, 2.0], [5.0, 5.0, 0.0], [0.0, -1.0, -3.0], [1.0, 0.0, 9.0]])
    np.testing.assert_array_equal(script.margins(logits), [2.0, 0.0, 1.0, 8.0])
    expected = logits + [[0.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.25]]
    share, margin = script.agreement(logits, expected)
    assert share == 3 / 4  # the second image's tie goes the other way
    assert margin == pytest.approx(np.quantile([0.5, 1.0, 0.0, 0.25], 0.9))


def test_difference():
    assert script.difference(np.array([[1.0, -2.0]]), np.array([[1.5, -4.0]])) == 2 / 4
    assert script.difference(np.zeros((2, 3)), np.zeros((2, 4))) == float("inf")


class Judged:
    """A network whose TensorFlow answers are given."""

    def __init__(self, expected):
        self.expected, self.asked = np.array(expected, np.float32), 0
        self.cache = self
        self.facts, self.write = {"checks": {}}, lambda: None

    def made_up(self, count):
        return np.zeros((count, 1), np.float32)

    def reference(self):
        self.asked += 1
        return self.expected

    answers = lambda self, images: self.reference()  # noqa: E731


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([[1.0, 2.0], [3.0, 4.008]], r"its logits are off TensorFlow's by 0.002 of the largest; at most 0.001 is allowed"),
        ([[1.0, 2.0], [3.0, np.nan]], "its logits are off TensorFlow's by nan of the largest"),
        ([[1.0], [3.0]], "its logits are off TensorFlow's by inf of the largest"),
    ],
)
def test_other_logits_are_refused(found, said):
    network = Judged([[1.0, 2.0], [3.0, 4.0]])
    for _ in range(2):  # the second time from memory
        with pytest.raises(script.EngineError, match=said):
            script.check(network, engine([lambda _: np.array(found, np.float32)], 2), wanted(), NOTHING)
    assert network.asked == 1
    script.check(Judged([[1.0, 2.0], [3.0, 4.0]]), engine([lambda _: np.array([[1, 2], [3, 4.003]])], 2), wanted(), NOTHING)


@pytest.mark.parametrize(("wrong", "refused"), [(0, False), (5, False), (6, True)])
def test_narrow_arithmetic_must_agree_on_995_of_1000_images(wrong, refused):
    sample = np.zeros((1_200, 1), np.float32)
    expected = np.tile([1.0, 0.0], (1_000, 1))
    logits = expected.copy()
    logits[:wrong] = [0.0, 0.1]
    narrow = script.Engine(script.Plan("openvino", "bfloat16", 1, 1, 1_000), (lambda _: logits,))
    if not refused:
        script.check(Judged(expected), narrow, wanted(), sample)
        return
    with pytest.raises(
        script.Disagreement, match=r"it agrees with TensorFlow on 99.4%; at least 99.5% of 1,000 images are needed"
    ):
        script.check(Judged(expected), narrow, wanted(), sample)


def test_narrow_arithmetic_without_test_images_is_refused():
    narrow = script.Engine(script.Plan("litert", "int8", 1, 1, 8), (lambda images: images,))
    with pytest.raises(script.EngineError, match="it is checked on 1,000 test images, here are 23; score the test set once"):
        script.check(Judged([[1.0]]), narrow, wanted(), np.zeros((23, 1), np.float32))


# ---- the choice


def race(monkeypatch, calls, seconds):
    """The speeds found by a clock that only these engines move: {name: seconds of its calls, one after the other}, 8 images each."""

    class Clock:
        now = 0.0
        perf_counter = staticmethod(lambda: Clock.now)

    monkeypatch.setattr(script, "time", Clock)

    def run_of(name):
        def run(images):
            Clock.now += calls[name].pop(0)
            return images

        return run

    return script.timed({name: engine([run_of(name)], 8) for name in calls}, np.zeros((8, 1), np.float32), seconds)


def test_the_race(monkeypatch):
    """Medians of calls by turns; the first call does not count, but who is out of the race by it has no other."""
    calls = {"fast": [5.0, 0.1, 0.2, 0.3], "even": [0.1, 0.2, 0.2, 0.2, 0.2], "slow": [10.5]}
    speeds = race(monkeypatch, calls, seconds=5.0 / 10)
    assert speeds["slow"] == pytest.approx(8 / 10.5)
    assert speeds["even"] == pytest.approx(8 / 0.2)
    assert speeds["fast"] == pytest.approx(8 / 5.0)
    assert [len(left) for left in calls.values()] == [3, 1, 0]


def test_the_first_call_of_a_burst_does_not_count(monkeypatch):
    monkeypatch.setattr(script, "BURST", 1.0)
    calls = {"a": [1.0, *[0.75, 0.25] * 2], "b": [1.0, 0.5, 0.25, 0.25]}
    assert race(monkeypatch, calls, seconds=0.5) == {"a": 8 / 0.25, "b": 8 / 0.25}
    assert [len(left) for left in calls.values()] == [0, 0]


def test_the_choice_in_words():
    choice = {
        "engine": "LiteRT float32, 2 streams of 1 thread, 32 images at a time", "timed": "2020-01-02",
        "speeds": {"LiteRT float32": 55_800.4, "TensorFlow float32": 3_000.0}, "left_out": {"OpenVINO": "not installed"},
    }  # fmt: skip
    assert script.why(choice, 250) == (
        "LiteRT float32, 2 streams of 1 thread, 32 images at a time; images/s at 250 images a call, timed 2020-01-02: "
        "LiteRT float32 55,800, TensorFlow float32 3,000; without OpenVINO: not installed"
    )
    assert str(script.Plan("tensorflow", "float32", 1, 0, 1)) == "TensorFlow float32, its own threads, 1 image at a time"


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

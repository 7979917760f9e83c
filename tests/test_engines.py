"""standalone_inference.py's engines: streams, checks against TensorFlow, the race between them and the choice."""

import threading
import time

import numpy as np
import pytest

import standalone_inference as script

pytestmark = pytest.mark.usefixtures("no_network_and_own_cache")


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

"""tools/benchmark.py train: workers that wait for their turn, and what the table concludes; no test depends on real time."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import programs
import pytest

from frenzy.training.recipe import Recipe
from tools import cli
from tools.benchmarks import measure, train, trainers, workers

ROOT = Path(cli.__file__).parents[1]
RECIPE = Recipe(network="frenzy_small", dataset="synthetic10", epochs=4, batch_size=16, mixup=0.2, hold_out=100)


# workers, whose mains run in processes of their own


def note_steps(turns, path):
    """A line a step, and one before the first."""
    with open(path, "w", buffering=1) as file:
        file.write("ready\n")
        while True:
            turns.take()
            file.write("step\n")


def note_cores(turns, path):
    Path(path).write_text(str(len(os.sched_getaffinity(0))))
    turns.take()


def fail_at_once(turns):
    raise ValueError("no such\nthing")


def fail_at_the_second(turns):
    turns.take()
    turns.take()
    raise ValueError("enough")


def die(turns):
    turns.take()
    os._exit(3)


def end_early(turns):
    turns.take()


@pytest.fixture
def start():
    """start(main, *arguments) -> a worker that is closed in the end."""
    started = []

    def begin(main, *arguments):
        started.append(workers.Worker("it", main, *arguments, threads=1))
        return started[-1]

    yield begin
    for worker in started:
        worker.close()


def test_a_worker_takes_the_steps_it_is_asked_for_and_no_more(start, tmp_path):
    path = tmp_path / "steps"
    worker = start(note_steps, path)
    assert path.read_text().split() == ["ready"]
    for asked, done in ((3, 3), (1, 4), (5, 9)):
        worker.run(asked)
        assert path.read_text().split() == ["ready"] + done * ["step"]
    with pytest.raises(ValueError, match="it: 0 steps; at least 1 is needed"):
        worker.run(0)
    worker.close()
    assert worker.process.exitcode == 0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no process to cores")
def test_a_worker_keeps_to_its_cores(start, tmp_path):
    before = os.sched_getaffinity(0)
    start(note_cores, tmp_path / "cores")
    assert (tmp_path / "cores").read_text() == "1"
    assert os.sched_getaffinity(0) == before


def test_what_goes_wrong_in_a_worker_is_told_in_one_line(start):
    with pytest.raises(workers.WorkerError, match=r"^it: ValueError: no such thing$"):
        start(fail_at_once)
    worker = start(fail_at_the_second)
    worker.run(1)
    with pytest.raises(workers.WorkerError, match=r"^it: ValueError: enough$"):
        worker.run(1)
    worker = start(die)
    with pytest.raises(workers.WorkerError, match=r"^it: its process ended with exit code 3; .* take a smaller batch$"):
        worker.run(1)
    worker = start(end_early)
    with pytest.raises(workers.WorkerError, match=r"^it: its process ended with exit code 0"):
        worker.run(2)


# the table


def timing(kind, *seconds, steps=10):
    facts = {"recipe": "some", "network": "net", "precision": "float32", "batch_size": 16, "steps": steps}
    return measure.Timing(kind.text, seconds, {**facts, "augmented": kind.augmented})


TIMINGS = [
    timing(train.OURS, 2.0, 20.0, 4.0),
    timing(train.OURS_PLAIN, 1.8, 19.0, 2.0),
    timing(train.KINDS[2], 3.0, 20.0, 4.4),
    timing(train.KINDS[3], 1.8, 9.5, 4.0),
    timing(train.TORCH, 5.4, 19.0, 8.0),
]


def test_peers_are_compared_with_ours_of_the_same_augmentation():
    assert train.ratios(TIMINGS) == {
        "Model.fit, augmented": measure.Spread(4.4 / 4.0, 20.0 / 20.0, 3.0 / 2.0),
        "Model.fit, one batch": measure.Spread(1.8 / 1.8, 9.5 / 19.0, 4.0 / 2.0),
        "PyTorch, one batch": measure.Spread(5.4 / 1.8, 19.0 / 19.0, 8.0 / 2.0),
    }


def test_what_augmentation_takes_of_a_step():
    assert train.augmentation_share(TIMINGS) == measure.Spread(1 - 1.8 / 2.0, 1 - 19.0 / 20.0, 1 - 2.0 / 4.0)


def test_table():
    text = train.table(train.Case("some", dataclasses.replace(RECIPE, network="a_rather_long_name_x0.32")), TIMINGS)
    lines = text.splitlines()
    assert lines[0] == "a_rather_long_name_x0.32, float32"
    assert lines[3].split() == ["ours,", "augmented", "400.0", "200.0", "2000.0", "40"]  # 4 s for 10 steps of 16 images
    assert lines[7].split() == ["PyTorch,", "one", "batch", "800.0", "540.0", "1900.0", "20", "3.00x"]
    assert lines[-2] == "batches of 16, steps a sample: 10, samples: 3; medians"
    assert lines[-1] == "augmentation (crop_flip and mixup 0.2): 10.0% of a step (5.0% to 50.0%)"
    assert max(map(len, lines)) <= 80


def test_the_record_holds_what_the_table_concludes():
    found = json.loads(json.dumps(train.summary(TIMINGS)))
    assert found["peer_over_ours"]["PyTorch, one batch"] == {"median": 3.0, "least": 1.0, "most": 4.0}
    assert found["augmentation_share"]["median"] == 1 - 1.8 / 2.0
    assert (found["recipe"], found["precision"]) == ("some", "float32")


def test_cases():
    found = train.cases(train.DEFAULT, None, None)
    assert [(case.name, case.recipe.network, case.recipe.precision, case.recipe.batch_size) for case in found] == [
        ("microbotnet_x032_cifar10", "microbotnet_x0.32", "float32", 128),
        ("wrn_22_6_cifar100", "wrn_22_6", "float32", 128),
        ("wrn_22_6_cifar100", "wrn_22_6", "mixed_bfloat16", 128),
    ]
    (case,) = train.cases(["wrn_22_6_cifar100"], "float32", 8)
    assert (case.recipe.precision, case.recipe.batch_size) == ("float32", 8)
    with pytest.raises(cli.UsageError, match="batch_size is -1; it must be 1 or more"):
        train.cases(train.DEFAULT, None, -1)


@pytest.mark.parametrize(("seconds", "expected"), [(3.0, 12), (0.0, 1), (0.2, 1)])
def test_a_sample_lasts_about_as_long_as_is_asked_for(seconds, expected):
    class Slow:
        now, ran = 0.0, ()

        def run(self, steps):
            self.now += 0.25 * steps if self.ran else 100.0  # the first is no measure
            self.ran += (steps,)

    slow = Slow()
    assert train.steps_a_sample(slow, seconds, lambda: slow.now) == expected
    assert slow.ran == (1, 1)


# what is trained


def test_recipes_lose_what_would_end_or_change_a_step():
    recipe = dataclasses.replace(RECIPE, teacher="folder", cycle=2, epochs=2)
    found = trainers.endless(recipe, augmented=True)
    assert (found.teacher, found.cycle, found.hold_out, found.augmentation, found.mixup) == (None, 0, 0, "crop_flip", 0.2)
    assert found.epochs == 10**6
    plain = trainers.endless(recipe, augmented=False)
    assert plain == dataclasses.replace(found, augmentation="none", mixup=0.0)


def test_images_are_as_large_and_as_many_as_the_data_sets():
    split = trainers.made_up(RECIPE)
    assert (split.images.shape, split.labels.shape, len(split.class_names)) == ((50_000, 32, 32, 3), (50_000,), 10)
    assert len(np.unique(split.labels)) == 10
    large = dataclasses.replace(RECIPE, dataset="tiny_imagenet", image_size=512, batch_size=2)
    assert trainers.made_up(large).images.shape == (2**28 // (512 * 512 * 3), 512, 512, 3)


def test_what_model_fit_reads():
    """One batch is the first, normalised; augmented ones are made by the functions of the training step."""
    split = trainers.made_up(dataclasses.replace(RECIPE, image_size=128))
    recipe = dataclasses.replace(RECIPE, image_size=128)
    same = trainers.same_batch(split, trainers.endless(recipe, augmented=False)).take(2)
    for inputs, targets in same:
        np.testing.assert_allclose(inputs, (split.images[:16] / 255 - 0.5) / 0.25, atol=1e-5)
        np.testing.assert_array_equal(targets, np.eye(10)[split.labels[:16]])
    (first, mixed), (second, _) = trainers.augmented_batches(split, recipe).take(2)
    assert first.shape == second.shape == (16, 128, 128, 3)
    np.testing.assert_allclose(np.sum(mixed, 1), 1, atol=1e-6)
    assert np.any((mixed > 0) & (mixed < 1))


# the tool


def test_too_many_threads():
    done = programs.start("tools/benchmark.py", "train", "--threads=100000")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--threads=100000: this process may use" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_bfloat16"])
def test_train_from_the_command_line(tmp_path, precision):
    path = tmp_path / "found.json"
    command = [sys.executable, str(ROOT / "tools/benchmark.py"), "train", "--recipe=synthetic10", "--batch_size=8"]
    command += [f"--precision={precision}", "--seconds=0", "--repeats=2", "--threads=1", f"--output={path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"frenzy_small, {precision}\n")
    found = json.loads(path.read_text())
    assert [each["name"] for each in found["timings"]] == [kind.text for kind in train.kinds()]
    assert all(len(each["seconds"]) == 2 and each["least"] > 0 and each["steps"] == 1 for each in found["timings"])
    assert (found["threads"], bool(found["torch"])) == (1, train.TORCH in train.kinds())
    assert found["summary"][0]["peer_over_ours"].keys() == {kind.text for kind in train.kinds()[2:]}

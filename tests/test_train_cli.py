"""tools/train.py from beginning to end on made-up images: what it leaves, going on after a kill, what its runs are good for."""

import io
import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import programs
import pytest
import tensorflow as tf
from PIL import Image

from frenzy import export
from frenzy.data import synthetic
from frenzy.training.callbacks import COLUMNS, read_history
from frenzy.training.recipe import Recipe
from tools import cli

ROOT = pathlib.Path(cli.__file__).parents[1]
SMALL = [
    "--recipe=synthetic10", "--network=frenzy_small", "--image_size=16", "--batch_size=1000", "--epochs=2", "--save_every=4",
]  # fmt: skip
STEPS = 2 * 9  # 10,000 images less the recipe's 1,000 held out


def start(tool, *arguments, cwd, **environment):
    """A tool, run to its end."""
    return programs.start(f"tools/{tool}", *arguments, cwd=cwd, **environment)


def well(done):
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done


def weights_of(folder):
    """Every value in a run's last checkpoint but the seconds that it took."""
    path = tf.train.latest_checkpoint(str(folder / "checkpoints"))
    assert path.endswith(f"ckpt-{STEPS}")
    reader = tf.train.load_checkpoint(path)
    names = [name for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE") and "seconds" not in name]
    return {name: reader.get_tensor(name) for name in names}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that nothing cut off, and how the tool ended."""
    folder = tmp_path_factory.mktemp("trained")
    return folder / "run", well(start("train.py", *SMALL, "--run_dir=run", cwd=folder))


@pytest.fixture(scope="module")
def exported(trained):
    folder = trained[0].parent
    return folder / "model", well(start("export.py", "--run_dir=run", "--output=model", cwd=folder))


@pytest.mark.slow
def test_what_a_run_leaves(trained):
    folder, done = trained
    assert done.stdout == "trained; python tools/export.py --run_dir run makes a SavedModel of it\n"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "curves.png", "events", "history.csv", "run.json"]
    record = json.loads((folder / "run.json").read_text())
    recipe = Recipe(**record["recipe"])
    assert (recipe.network, recipe.image_size, recipe.batch_size, recipe.epochs) == ("frenzy_small", 16, 1000, 2)
    assert record["command"] == "python tools/train.py --recipe synthetic10 --epochs 2 --batch_size 1000 --image_size 16"
    assert re.fullmatch("[0-9a-f]{64}", record["data_sha256"])
    assert record["versions"]["tensorflow"] == tf.__version__
    rows = read_history(folder / "history.csv")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(set(row) == set(COLUMNS) and min(row.values()) > 0 for row in rows)
    assert rows[1]["loss"] < rows[0]["loss"]
    assert Image.open(io.BytesIO((folder / "curves.png").read_bytes())).format == "PNG"


@pytest.mark.slow
def test_progress_goes_to_stderr(trained):
    lines = trained[1].stderr.splitlines()
    assert re.fullmatch(r"step 18/18  epoch 2/2  loss \d\.\d{4}  accuracy \d+\.\d\d%  lr 0\.\d{5}  0\.0 min left", lines[-1])
    assert len(lines) == 1  # TensorFlow has nothing to say


@pytest.mark.slow
def test_events_hold_the_curves_and_the_network_s_size(trained):
    (path,) = (trained[0] / "events").iterdir()
    found = {}
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        event = tf.compat.v1.Event.FromString(record)
        found |= {(value.tag, event.step): float(tf.make_ndarray(value.tensor)) for value in event.summary.value}
    rows = read_history(trained[0] / "history.csv")
    for name in ("loss", "val_accuracy", "lr"):
        assert [found[name, 1], found[name, 2]] == pytest.approx([row[name] for row in rows], rel=1e-6)
    assert found["storage_bytes", 2] > 0
    assert found["operations", 2] > found["storage_bytes", 2]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(trained, tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "train.py"), *SMALL, "--run_dir=run"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 600
    while (
        not (tmp_path / "run" / "checkpoints" / "ckpt-4.index").exists() and process.poll() is None and time.monotonic() < until
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    again = start("train.py", *SMALL, "--run_dir=run", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr == "train.py: run holds a run already; pass --resume to go on with it, or another --run_dir\n"
    well(start("train.py", *SMALL, "--run_dir=run", "--resume", cwd=tmp_path))
    ours, theirs = weights_of(tmp_path / "run"), weights_of(trained[0])
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    first, second = (read_history(run / "history.csv") for run in (tmp_path / "run", trained[0]))
    for mine, other in zip(first, second, strict=True):
        assert {**mine, "images_per_second": 0} == {**other, "images_per_second": 0}


@pytest.mark.slow
def test_a_run_exported_and_scored(exported, tmp_path):
    folder, done = exported
    card = json.loads((folder / export.CARD).read_text())
    assert card["dataset"] == "synthetic10"
    assert card["class_names"] == list(synthetic.class_names(10))
    assert card["accuracy"]["n"] == 2000
    assert card["training"]["steps"] == STEPS
    assert card["training"]["seconds"] > 0
    assert f"top-1 {card['accuracy']['top1']:.2%}" in done.stdout
    scored = well(start("evaluate.py", "--load_folder", folder, "--image_size=16", "--format=json", cwd=tmp_path))
    assert json.loads(scored.stdout)["top1"] == pytest.approx(card["accuracy"]["top1"], abs=1 / 2000)


@pytest.mark.slow
def test_a_network_begins_with_another_s_weights(exported, tmp_path):
    """An image folder of three classes: all but the classifier is taken over."""
    images, labels = synthetic.generate(10, 120, seed=9, size=20)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        if label < 3:
            path = tmp_path / "data" / ("circle", "square", "other")[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    more = ["--dataset_name=image_folder", "--data_dir=data", "--batch_size=8", "--hold_out=0", "--epochs=1", "--peak_lr=1e-9"]
    done = well(start("train.py", *SMALL, *more, "--init_from", exported[0], "--run_dir=run", cwd=tmp_path))
    told = next(line for line in done.stderr.splitlines() if line.startswith(f"weights of {exported[0]}; fresh: "))
    fresh = told.split("fresh: ")[1].split(", ")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["recipe"]["init_from"] == str(exported[0])
    assert re.fullmatch("[0-9a-f]{64}", record["networks_sha256"]["init_from"])
    exported_weights = export.stored_weights(exported[0])
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(tmp_path / "run" / "checkpoints")))
    stem = reader.get_tensor("model/layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE")
    same = [
        name for name, value in exported_weights.items() if value.shape == stem.shape and np.allclose(value, stem, atol=1e-6)
    ]
    assert len(same) == 1
    assert fresh
    assert all("kernel" in name or "gamma" in name or "beta" in name or "moving" in name or "bias" in name for name in fresh)
    assert len(fresh) < len(exported_weights) / 4


@pytest.mark.slow
def test_a_range_test_in_place_of_a_run(tmp_path):
    done = well(start("train.py", *SMALL, "--batch_size=100", "--find_lr=rates.png", cwd=tmp_path))
    told = re.fullmatch(r"the loss falls fastest at a rate of (\S+); rates\.png shows it\n", done.stdout)
    assert 1e-7 < float(told[1]) < 10
    assert Image.open(io.BytesIO((tmp_path / "rates.png").read_bytes())).format == "PNG"
    assert [path.name for path in tmp_path.iterdir()] == ["rates.png"]


REFUSED = {
    "unknown recipe": (["--recipe=nope"], "--recipe=nope: value should be one of <"),
    "unknown network": (["--network=nope"], "nope"),
    "unknown data set": (["--dataset_name=nope"], "no data set 'nope'; known: cifar10, cifar100, image_folder, "),
    "field out of range": (["--epochs=0"], "recipe: epochs is 0; it must be 1 or more"),
    "unknown schedule": (["--schedule=nope"], "recipe: schedule is 'nope'; allowed: constant, "),
    "unknown augmentation": (["--augmentation=nope"], "recipe: augmentation is 'nope'; allowed: crop_flip, "),
    "too much held out": (["--hold_out=10000"], "a hold-out of 10000 out of 10000 images; take 1 to 9999"),
    "too large a batch": (["--batch_size=20000"], "batch_size 20000 is above the 9000 images; take a smaller one"),
    "no dropout": (["--dropout=0.5"], "frenzy_small has no dropout; leave --dropout out"),
    "no teacher": (["--teacher=nowhere"], "nowhere"),
    "no beginning": (["--init_from=nowhere"], "nowhere"),
    "no cluster": (["--strategy=multiworker"], "--strategy multiworker needs TF_CONFIG to name the cluster; set it on every"),
    "range test of replicas": (["--strategy=mirrored", "--find_lr=a.png"], "--find_lr and --export_step run on one replica"),
}
QUICK = ["unknown recipe", "unknown data set"]


@pytest.mark.parametrize("case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in REFUSED])
def test_bad_input_is_one_line(case, tmp_path):
    arguments, said = REFUSED[case]
    done = start("train.py", *SMALL, *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("train.py: ")
    assert said in line
    assert done.stdout == ""

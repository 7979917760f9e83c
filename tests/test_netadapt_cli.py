"""tools/netadapt.py and tools/latency.py: bad input in one line, and a network from folder to folder, killed on the way."""

import csv
import dataclasses
import json
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import programs
import pytest
import tf_keras as keras

from frenzy import export
from frenzy.compress import netadapt
from frenzy.render import adaptation
from frenzy.training.recipe import Recipe
from tools import cli, session

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRAINED = Recipe(network="frenzy_small", dataset="synthetic10", epochs=8, batch_size=500, peak_lr=0.1, hold_out=1000)
OPTIONS = ["--resource=macs", "--budget=0.5", "--iterations=2", "--first=0.1", "--short_steps=2", "--run_dir=run"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Two convs of 16 channels, exported with its architecture beside it, as an adapted network is."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3), name="images")
    x = inputs
    for number in (1, 2):
        x = keras.layers.Conv2D(16, 3, 4, "same", use_bias=False, name=f"conv{number}")(x)
        x = keras.layers.ReLU(name=f"relu{number}")(keras.layers.BatchNormalization(name=f"bn{number}")(x))
    x = keras.layers.Dense(10, name="logits")(keras.layers.GlobalAveragePooling2D(name="pool")(x))
    model = keras.Model(inputs, x, name="tiny")
    export.round_weights(model, "float16")
    folder = tmp_path_factory.mktemp("zoo") / "tiny"
    facts = {"dataset": "synthetic10", "training": {"recipe": dataclasses.asdict(TRAINED)}}
    pixels = export.Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    export.export(model, folder, pixels, [f"class {i}" for i in range(10)], facts=facts)
    netadapt.write_architecture(model, folder / "assets.extra" / "architecture.json")
    return folder


def command(tool, *arguments):
    return [sys.executable, str(ROOT / "tools" / tool), *map(str, arguments)]


def start(tool, *arguments, cwd):
    return programs.start(f"tools/{tool}", *arguments, cwd=cwd, FRENZY_DATA="nowhere")


@pytest.mark.parametrize(
    ("tool", "arguments", "expected"),
    [
        ("netadapt.py", ["--load_folder=nowhere"], "nowhere is no SavedModel: it holds no saved_model.pb"),
        ("latency.py", ["--network=nothing"], "no network 'nothing'; known: alexnet"),
        pytest.param(
            "netadapt.py",
            ["--load_folder=FOLDER"],
            "no table latency.json; measure one by tools/latency.py",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "netadapt.py",
            ["--load_folder=FOLDER", *OPTIONS, "--budget=1.5"],
            "budget is 1.5; a share of the network's resource is above 0 and below 1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "netadapt.py",
            ["--load_folder=FOLDER", *OPTIONS, "--budget=0.01"],
            "below the",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["no network", "unknown network", "no table", "budget", "out of reach"],
)
def test_bad_input_is_one_line(exported, tmp_path, tool, arguments, expected):
    done = start(tool, *(each.replace("FOLDER", str(exported)) for each in arguments), cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_adapted_network_is_built_as_it_is(exported, tmp_path):
    """Whatever network the recipe names; what is made of it carries it on."""
    recipe = Recipe(network="alexnet_cifar", dataset="synthetic10", epochs=1, init_from=str(exported))
    model, fresh = session.build_network(recipe, 10, (32, 32, 3))
    assert fresh == []
    np.testing.assert_array_equal(model.get_layer("conv2").kernel, export.stored_weights(exported)["conv2/kernel"])
    with pytest.raises(
        cli.UsageError, match=r"is an adapted network of 10 classes and images of \(32, 32, 3\); synthetic10 has 7"
    ):
        session.build_network(recipe, 7, (32, 32, 3))
    with pytest.raises(cli.UsageError, match="has no dropout; leave --dropout out"):
        session.fresh_network(dataclasses.replace(recipe, dropout=0.1), 10, (32, 32, 3))
    (tmp_path / "assets.extra").mkdir()
    session.carry_architecture(model, tmp_path, recipe)
    assert session.adapted_network(tmp_path).get_config() == model.get_config()
    session.carry_architecture(model, tmp_path / "elsewhere", dataclasses.replace(recipe, init_from=None))
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "assets.extra" / "architecture.json").write_text("{}")
    with pytest.raises(cli.UsageError, match="holds no network that can be built"):
        session.adapted_network(tmp_path)


def rows_of(folder):
    return json.loads((folder / "run" / "journal.json").read_text())["rows"]


def variables(folder):
    return (folder / "variables" / "variables.data-00000-of-00001").read_bytes()


@pytest.mark.slow
def test_from_folder_to_folder(exported, tmp_path):
    """The example with short phases; a second run that is killed at random, twice, ends with the same network."""
    arguments = [f"--load_folder={exported}", *OPTIONS, "--epochs=1"]
    whole = tmp_path / "whole"
    whole.mkdir()
    begin = time.monotonic()
    done = start("netadapt.py", *arguments, cwd=whole)
    took = time.monotonic() - begin
    assert done.returncode == 0, done.stderr
    rows = rows_of(whole)
    assert [row["iteration"] for row in rows] == [0, 1, 2, 2]
    with (whole / "run" / "iterations.csv").open(newline="") as file:
        assert [float(row["resource"]) for row in csv.DictReader(file)] == [row["resource"] for row in rows]
    assert (whole / "run" / "adaptation.png").read_bytes().startswith(b"\x89PNG")
    assert list((whole / "run" / "events").iterdir())
    card = json.loads((whole / "run" / "iteration_02" / export.CARD).read_text())
    assert card["adaptation"]["resource"] == rows[2]["resource"]
    killed = tmp_path / "killed"
    killed.mkdir()
    at = random.Random(0)
    for _ in range(2):
        process = subprocess.Popen(
            command("netadapt.py", *arguments, "--resume"), cwd=killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(at.uniform(0.4, 0.95) * took)
        process.send_signal(signal.SIGKILL)
        process.wait()
    again = start("netadapt.py", *arguments, "--resume", cwd=killed)
    assert again.returncode == 0, again.stderr
    assert rows_of(killed) == rows
    assert variables(killed / "run" / "SavedModel") == variables(whole / "run" / "SavedModel")
    more = [*OPTIONS, "--iterations=1", "--multiple=4", "--budget=0.9", "--run_dir=more", "--epochs=1"]
    onwards = start("netadapt.py", f"--load_folder={whole / 'run' / 'SavedModel'}", *more, cwd=whole)
    assert onwards.returncode == 0, onwards.stderr
    further = json.loads((whole / "more" / "journal.json").read_text())["rows"]
    assert further[0]["resource"] == rows[-1]["resource"] > further[-1]["resource"]
    pruning = ["--method=prune", "--sparsity=0.5", "--tensors=conv", "--epochs=1", "--run_dir=pruned"]
    pruned = start("compress.py", f"--load_folder={whole / 'run' / 'SavedModel'}", *pruning, cwd=whole)
    assert pruned.returncode == 0, pruned.stderr
    assert session.adapted_network(whole / "pruned" / "SavedModel").count_params() > 0


@pytest.mark.slow
def test_latency_from_table_to_budget(exported, tmp_path):
    done = start("latency.py", f"--load_folder={exported}", "--points=2", "--rounds=3", "--check=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tiny takes " in done.stdout
    assert "median of 2 cuts: " in done.stdout
    other = start("latency.py", f"--load_folder={exported}", "--threads=2", cwd=tmp_path)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "was measured with threads 1, and here it is 2" in other.stderr


ROWS = [
    {"iteration": 0, "network": "start", "resource": 200.0, "accuracy": 0.9, "loss": 0.5},
    {"iteration": 1, "group": "conv1", "channels": 64, "kept": 56, "target": 195.0, "resource": 190.0, "before": 0.8,
     "accuracy": 0.89, "loss": 0.6},
]  # fmt: skip


def test_a_table_of_the_steps():
    assert adaptation.table(ROWS).splitlines() == [
        "iteration,group,channels,kept,target,resource,before,accuracy,loss",
        "0,,,,,200.0,,0.9,0.5",
        "1,conv1,64,56,195.0,190.0,0.8,0.89,0.6",
    ]


def test_a_picture_of_the_steps(monkeypatch):
    drawn = []
    png = adaptation.plots._png
    monkeypatch.setattr(adaptation.plots, "_png", lambda figure: drawn.append(figure) or png(figure))
    assert adaptation.picture(ROWS, "macs", "title").startswith(b"\x89PNG")
    left, right = drawn[0].axes
    np.testing.assert_allclose(left.lines[0].get_xydata(), [[100, 90], [95, 89]])
    np.testing.assert_allclose(left.lines[1].get_xydata(), [[95, 80]])
    np.testing.assert_allclose(right.lines[0].get_xydata(), [[100, 0.5], [95, 0.6]])

"""tools/search.py: bad input in one line, and a search from the command line to an exported network; its pictures and benchmark."""

import csv
import json
import pathlib
import subprocess
import sys

import numpy as np
import programs
import pytest
import tensorflow as tf
import tf_keras as keras

from frenzy import export, models
from frenzy.accounting import account, read
from frenzy.compress.single_path import Decision, extract, network_of, read_rows
from frenzy.compress.single_path.decisions import text
from frenzy.models import frenzy
from tools import cli, found, searching
from tools.benchmarks import measure
from tools.benchmarks import search as benchmark

ROOT = pathlib.Path(__file__).resolve().parent.parent


def start(*arguments, cwd):
    return programs.start("tools/search.py", *arguments, cwd=cwd, FRENZY_DATA="nowhere")


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "one target is needed, came none; give one of --target_operations, --target_storage, --target_score, --sweep"),
        (["--target_storage=4 parsec"], "'4 parsec' is no size; give bytes, or a number with KB, MB, KiB or MiB: 4MB"),
        (["--target_score=0.1", "--fractions=0.1,0.5"], "--fractions=0.1,0.5: the largest must be 1"),
        (["--target_score=0.1", "--init_from=x"], "a search takes no teacher and no --init_from"),
    ],
    ids=["no target", "no size", "fractions", "start"],
)
def test_bad_input_is_one_line(tmp_path, arguments, expected):
    done = start(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_from_the_command_line_to_a_network(tmp_path):
    """A short search stopped by nothing: rows, report and picture agree with the exported network, and --resume adds nothing."""
    arguments = ["--network=frenzy_small", "--dataset_name=synthetic10", "--target_operations=5e6", "--convention=frenzy"]
    arguments += ["--epochs=1", "--batch_size=500", "--image_size=16", "--hold_out=0", "--run_dir=run"]
    done = start(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "run" / "rows.json")
    report = account(read(tmp_path / "run" / "found" / "SavedModel"), "frenzy")
    assert 0.97 * 5e6 <= float(report.totals.operations) <= 5e6
    assert rows.facts["budget"]["reached"] == float(report.totals.operations)
    assert f"{float(report.totals.operations):,.0f} operations" in (tmp_path / "run" / "report.txt").read_text()
    assert len(table(tmp_path / "run" / "search.csv")) == 4  # every 5 of 20 steps
    card = json.loads((tmp_path / "run" / "found" / "SavedModel" / export.CARD).read_text())
    assert card["training"]["began_with"] == "the supernet's weights"
    shape = rows.input_shape
    small = extract(models.build(rows.network, rows.num_classes, shape, symmetric_padding=True), rows.decisions)
    stored = export.stored_weights(tmp_path / "run" / "found" / "SavedModel")
    assert {v.name.split(":")[0]: tuple(v.shape) for v in small.weights} == {name: v.shape for name, v in stored.items()}
    events = [path.name for path in (tmp_path / "run" / "events").iterdir()]
    assert len(events) == 2
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.suffix in (".json", ".txt", ".csv")}
    again = start(*arguments, "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    for name in ("rows.json", "report.txt", "search.csv"):
        assert (tmp_path / "run" / name).read_bytes() == before[name]


@pytest.mark.slow
def test_a_sweep_draws_its_front(tmp_path):
    arguments = [
        "--dataset_name=synthetic10",
        "--sweep=0.3",
        "--epochs=1",
        "--batch_size=1000",
        "--image_size=16",
        "--hold_out=0",
        "--run_dir=run",
    ]
    done = start(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    points = table(tmp_path / "run" / "front.csv")
    assert [point["kind"] for point in points] == ["search", "uniform"]
    whole = float(export.account_model(models.build("frenzy_small", 10, (16, 16, 3)), ["micronet"])["micronet"].score.total)
    assert all(float(point["score"]) <= 0.3 * whole for point in points)
    assert (tmp_path / "run" / "front.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_frenzys_own_supernet_at_full_width():
    """Two steps and the repair to the published operations."""
    from frenzy.compress import single_path

    keras.utils.set_random_seed(0)
    plain = models.build("frenzy_unpruned", symmetric_padding=True)
    net = single_path.supernet(plain)
    objective = single_path.operations("frenzy")
    state = single_path.penalize(net, objective, 828_928_000)
    state.multiplier.assign(1.0)
    x, labels = tf.random.normal((2, 32, 32, 3)), tf.constant([3, 5])
    optimizer = keras.optimizers.SGD(0.01)
    for _ in range(2):
        with tf.GradientTape() as tape:
            logits = net.model(x, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)) + net.model.losses[0]
        gradients = tape.gradient(loss, net.model.trainable_weights)
        assert all(np.isfinite(each).all() for each in gradients)
        optimizer.apply_gradients(zip(gradients, net.model.trainable_weights, strict=True))
    decisions, _ = single_path.repair(net, objective, 828_928_000)
    assert 0.97 * 828_928_000 <= objective.of(net.network, decisions) <= 828_928_000


# what is shown

DECISIONS = {
    "stem": Decision((1, 1), 10),
    "block1_conv1": Decision((3, 1), 3),
    "block2_conv1": Decision((1, 3), 20),
}


@pytest.fixture(scope="module")
def network():
    return network_of(frenzy.build(frenzy.unpruned_rows((10, 20), 1), 10, (8, 8, 3), symmetric_padding=True))


def test_the_table_of_decisions(network):
    lines = found.table(network, DECISIONS, "frenzy").splitlines()
    assert lines[0] == "frenzy, convention frenzy"
    stem = next(line.split() for line in lines if line.startswith("stem"))
    assert stem[:5] == ["stem", "3x3", "->", "1x1", "10"]
    assert stem[5] == str(2 * 3 * 10)  # bytes
    assert f"{3 * 10 * 8 * 8 * 1.5:,.0f}" in stem
    total = next(line.split() for line in lines if line.startswith("total"))
    assert total[2] == total[4] == "100.0%"
    shares = [float(line.split()[-1].rstrip("%")) for line in lines if line.endswith("%") and not line.startswith("total")]
    assert sum(shares) == pytest.approx(100, abs=0.3)


def test_the_picture_of_what_was_cut(network, tmp_path):
    text = found.source(network, DECISIONS, "frenzy")
    assert "3x3 → 1x3, width 20" in text
    assert text.count("<B>") == sum(op.kind in found.SHOWN for op in network.ops.values())
    assert found.GONE in text
    found.draw(network, DECISIONS, "frenzy", tmp_path / "cut.svg")
    assert b"block1_conv1" in (tmp_path / "cut.svg").read_bytes()


def test_the_front(tmp_path):
    points = [found.Point("search", 0.5, 0.1, 1e6, 2e3, 0.8, 2000), found.Point("uniform", 0.5, 0.1, 1e6, 2e3, 0.7, 2000)]
    assert found.front_csv(points).splitlines() == [
        "kind,share,score,operations,storage_bytes,top1,n",
        "search,0.5,0.1,1000000.0,2000.0,0.8,2000",
        "uniform,0.5,0.1,1000000.0,2000.0,0.7,2000",
    ]
    assert found.front_png(points, "it").startswith(b"\x89PNG")


def test_the_network_is_padded_symmetrically_where_it_can_be():
    names = {layer.name for layer in searching.plain_network("frenzy_small", 10, (32, 32, 3)).layers}
    assert {"block4_conv1_space", "block7_conv1_space"} <= names
    assert searching.plain_network("resnet_20", 10, (32, 32, 3)).name == "resnet_20"
    with pytest.raises(cli.UsageError, match="no network 'nowhere'; known: "):
        searching.plain_network("nowhere", 10, (32, 32, 3))


def test_a_network_is_built_from_its_rows(tmp_path):
    path = tmp_path / "rows.json"
    decisions = {"stem": Decision((1, 1), 8), "block9_conv2": Decision((1, 3), 6)}
    path.write_text(text("frenzy_small", 10, (32, 32, 3), decisions))
    small = searching.from_rows(str(path), 20, (16, 16, 3))
    assert small.get_layer("stem").kernel.shape == (1, 1, 3, 8)
    assert small.get_layer("block9_conv2").kernel.shape == (1, 3, 64, 6)
    assert (small.input_shape, small.output_shape) == ((None, 16, 16, 3), (None, 20))
    with pytest.raises(cli.UsageError, match="nowhere is no rows file"):
        searching.from_rows("nowhere", 20, (16, 16, 3))


# the benchmark


def test_the_benchmarks_table():
    from frenzy.training.recipe import Recipe

    recipe = Recipe(network="frenzy_small", dataset="cifar10", epochs=1, batch_size=10)
    timings = [
        measure.Timing("plain network", (1.0, 2.0), {"steps": 10}),
        measure.Timing("supernet", (1.1, 2.1), {"steps": 10}),
    ]
    memories = [benchmark.Memory(100_000_000, 200_000_000), benchmark.Memory(100_000_000, 210_000_000)]
    text = benchmark.table(recipe, timings, memories)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "supernet over plain: 1.075 (1.050 to 1.100); 1.15 is allowed" in text
    assert "most memory of the processes, supernet over plain: 1.050" in text
    assert text.splitlines()[3].split() == ["plain", "network", "150.0", "100.0", "200.0", "67", "200", "100"]


@pytest.mark.slow
def test_the_benchmark_from_the_command_line(tmp_path):
    path = tmp_path / "found.json"
    command = [sys.executable, str(ROOT / "tools/benchmark.py"), "search", "--batch_size=8", "--seconds=0", "--repeats=2"]
    done = subprocess.run([*command, "--threads=1", f"--output={path}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(path.read_text())
    assert [each["name"] for each in record["timings"]] == ["plain network", "supernet"]
    assert record["supernet_over_plain"]["median"] > 0
    assert record["memory"]["supernet"]["most"] > record["memory"]["supernet"]["before"]

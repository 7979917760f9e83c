"""winner.py against the published figures, and against the accountant."""

import ast
import json
import pathlib
import subprocess
import sys

import pytest

import winner
from frenzy.accounting import account, read
from frenzy.models import frenzy
from frenzy.render.names import short_names

PATH = pathlib.Path(winner.__file__)
CONVENTIONS = ["frenzy", "micronet"]


def of_kind(rows, kind):
    return [node for node in rows if node.kind == kind]


def total(rows, field):
    return sum(getattr(node, field) for node in rows)


def run(*arguments):
    return subprocess.run([sys.executable, "-I", "-S", str(PATH), *arguments], capture_output=True, text=True, check=False)


def test_rows_are_those_of_the_model():
    blocks = [
        frenzy.Block(width, prune, kernel1, a, kernel2, b, stride)
        for width, prune, kernel1, a, kernel2, b, stride in winner.BLOCKS
    ]
    assert frenzy.Rows(*winner.STEM, tuple(blocks)) == frenzy.FINAL


def test_nodes():
    kinds = [node.kind for node in winner.nodes("frenzy")]
    counts = {kind: kinds.count(kind) for kind in kinds}
    expected = {"input": 1, "conv": 29, "bn": 29, "relu": 28, "add": 9, "pad": 7, "pool": 3, "reshape": 1}
    assert counts == expected


def test_published_totals():
    rows = winner.nodes("frenzy")
    convs, adds, pools = (of_kind(rows, kind) for kind in ("conv", "add", "pool"))
    assert total(convs, "parameters") == 4_419_800
    assert total(convs, "parameters") * 2 == 8_839_600
    assert total(convs, "multiplies") * 1.5 == total(convs, "operations") == 810_624_000
    assert [node.operations for node in adds] == [102_400] * 3 + [25_600, 25_600, 51_200] + [25_600] * 3
    assert total(adds, "operations") == 486_400
    assert [node.operations for node in pools] == [11_059_200, 5_529_600, 1_228_800]
    assert all(node.formula.endswith("# fitted") for node in pools)
    assert total(rows, "operations") == 828_928_000 == 810_624_000 + 486_400 + 17_817_600
    assert total(rows, "parameters") == 4_419_800
    assert round(float(sum(winner.score(rows, "frenzy"))), 4) == 0.2001


def test_naive_count_is_wrong():
    rows = winner.nodes("frenzy", liveness=False)
    convs = of_kind(rows, "conv")
    assert total(convs, "parameters") * 2 == 8_853_600
    assert total(convs, "operations") == 813_312_000
    assert [node.operations for node in of_kind(rows, "add")][3:5] == [51_200] * 2


def test_live_channels():
    live = {node.name: len(node.live) for node in winner.network()}
    assert [live[f"block{i}_add"] for i in range(1, 10)] == [100] * 5 + [200] + [400] * 3
    assert live["block5_prune_relu"] == live["block6_prune_bn"] == 100
    assert live["block4_pad"] == 20


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_formulas_give_the_values(convention):
    for node in winner.nodes(convention):
        assert eval(node.formula.split("#")[0] or "0") == node.operations
        assert eval(node.storage_formula or "0") == node.parameters * 2
        assert node.operations == node.multiplies / 2 + node.adds


def test_micronet_rules():
    nodes = {node.name: node for node in winner.nodes("micronet")}
    folded = [node.name for node in nodes.values() if node.status == "folded"]
    assert folded == [f"block{i}_conv{k}_bn" for i in range(1, 10) for k in (1, 2)] + ["head_out_bn"]
    assert nodes["block1_prune_bn"].parameters == 2 * 100  # the stem feeds the shortcut too
    assert nodes["block6_prune_bn"].operations == 1.5 * 16 * 16 * 100
    assert nodes["block2_add"].adds == 32 * 32 * 25
    assert nodes["block4_add"].adds == 16 * 16 * 20
    assert nodes["block4_shortcut_pool"].adds == 16 * 16 * 100 * 8
    assert nodes["block8_conv1"].adds == (3600 - 1) * 8 * 8 * 400
    assert nodes["block8_conv1_relu"].operations == 8 * 8 * 400 / 2


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("folder", ["SavedModel", "fresh"])
def test_agrees_with_the_accountant(request, folder, convention):
    place = PATH.parent / folder if folder == "SavedModel" else request.getfixturevalue("frenzy_folder")
    report = account(read(place), convention)
    names = short_names(report.rows)
    rows = {names[row.name]: row for row in report.rows if row.op != "Identity"}
    nodes = winner.nodes(convention)
    assert set(rows) == {node.name for node in nodes}
    for node in nodes:
        row = rows[node.name]
        ours = (node.multiplies, node.adds, node.parameters, 2 * node.parameters, node.operations, node.status)
        assert ours == (row.multiplies, row.adds, row.parameters, row.storage_bytes, row.operations, row.status), node.name
        assert row.live_out is None or row.live_out == len(node.live), node.name
        if node.kind in ("conv", "pool"):
            assert (row.kernel, row.stride) == (node.kernel, (node.stride, node.stride)), node.name
    assert sum(winner.score(nodes, convention)) == report.score.total


def test_stands_alone():
    modules = set()
    for node in ast.walk(ast.parse(PATH.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
    assert modules <= sys.stdlib_module_names
    assert len(PATH.read_text().splitlines()) < 200


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_table(convention):
    done = run("--convention", convention)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    names = [line.split()[0] for line in lines if line]
    assert set(names) >= {node.name for node in winner.network()}
    if convention == "frenzy":
        assert "8,839,600 bytes = 8.430 MiB" in done.stdout
        assert "828,928,000 = 810,624,000 conv + 486,400 add + 17,817,600 pool" in done.stdout
        assert done.stdout.endswith("= 0.2001\n")
        assert "3*3*100*100 * 32*32 * 1.5" in done.stdout


def test_json():
    rows = json.loads(run("--format", "json").stdout)
    keys = ["name", "kind", "multiplies", "adds", "parameters", "storage_bytes", "operations", "formula", "status"]
    assert all(list(row) == keys for row in rows)
    assert sum(row["operations"] for row in rows) == 828_928_000
    assert sum(row["storage_bytes"] for row in rows) == 8_839_600


@pytest.mark.parametrize("arguments", [["--nope"], ["--convention", "nope"], ["stray"], ["--format"]])
def test_bad_flags(arguments):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("winner.py: ")
    assert done.stderr.count("\n") == 1

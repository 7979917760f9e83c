"""Report -> text, data and pictures: reports made by hand, and the real network from winner.py."""

import ast
import csv
import dataclasses
import io
import itertools
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
from fractions import Fraction

import pytest
from winner_report import winner_report

import frenzy.render
from frenzy.accounting.report import COUNTED, FOLDED, FREE, UNKNOWN, Report, Row, Score
from frenzy.render import colour, data, files, labels, layout, names, picture, table, units

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="no 'dot' on the PATH: graphviz is not installed")


def node(name, op="Relu", inputs=(), shape=(1, 8, 8, 16), macs=0, parameters=0, status=None, **facts):
    """A row with as many multiplies as adds, and 16-bit parameters."""
    came = facts.pop("input_shapes", tuple((1, 8, 8, 16) for _ in inputs))
    status = status or (COUNTED if macs or parameters else FREE)
    return Row(
        name, op, tuple(inputs), came, shape, parameters=parameters, multiplies=macs, adds=macs, storage_bits=16 * parameters,
        operation_bits=48 * macs, status=status, **facts,
    )  # fmt: skip


def report_of(*rows, notes=()):
    return Report(
        "model/", "serving_default", "frenzy", "a paper", rows, Score("cifar100", Fraction(1, 8), Fraction(1, 3)), notes
    )


def conv(name, *inputs, **facts):
    facts = {"kernel": (3, 3), "stride": (1, 1), "width": 16, "groups": 1, "macs": 1000, "parameters": 100, **facts}
    return node(name, "Conv2D", inputs, **facts)


def gated():
    """A squeeze-and-excite gate inside a residual block, a concat of three branches, an op without a rule, an Identity."""
    return report_of(
        node("x", "Placeholder"),
        conv("a", "x"),
        node("a/bn", "FusedBatchNormV3", ["a"]),
        node("a/act", "Relu6", ["a/bn"]),
        node("mean", "Mean", ["a/act"], (1, 16)),
        node("fc", "MatMul", ["mean"], (1, 16), macs=256, parameters=256),
        node("gate", "Sigmoid", ["fc"], (1, 16), macs=16),
        node("scaled", "Mul", ["a/act", "gate"], macs=1024),
        node("sum", "AddV2", ["x", "scaled"], macs=1024),
        node("seen/through", "Identity", ["sum"]),
        conv("b1", "seen/through"),
        conv("b2", "seen/through", macs=50_000),
        conv("b3", "seen/through"),
        conv("b3/second", "b3"),
        node("joined", "ConcatV2", ["b1", "b2", "b3/second"]),
        node("odd", "Exotic", ["joined"], status=UNKNOWN, formula="no rule for op 'Exotic'"),
        notes=("weights at 16 bits",),
    )


# units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"), (600, "600 B"), (1023, "1,023 B"), (1024, "1.000 KiB"), (8_839_600, "8.430 MiB"),
        (2**20 - 1, "1,023.999 KiB"), (2**20, "1.000 MiB"), (2**30 - 1, "1.000 GiB"), (Fraction(25, 2), "12.500 B"),
    ],
)  # fmt: skip
def test_size(value, text):
    assert units.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (999, "999"), (1000, "1.000 k"), (828_928_000, "828.928 M"), (999_999, "999.999 k"),
        (999_999_999, "1.000 G"), (Fraction(13, 2), "6.500"), (Fraction(1, 100_000), "<0.001"), (3 * 10**15, "3,000.000 T"),
    ],
)  # fmt: skip
def test_count(value, text):
    assert units.count(value) == text


def test_small_texts():
    assert units.grouped(8_839_600) == "8,839,600"
    assert units.grouped(Fraction(13, 2)) == "6.5"
    assert units.exact(Fraction(4, 2)) == 2
    assert isinstance(units.exact(Fraction(4, 2)), int)
    assert units.percent(1, 3) == "33.3%"
    assert units.percent(1, 10**6) == "<0.1%"
    assert units.percent(1, 0) == "-"
    assert units.decimals(Fraction(-5, 4), 1) == "-1.2"
    assert [units.hwc(shape) for shape in ((1, 32, 32, 3), (1, 100), ())] == ["32x32x3", "100", "scalar"]
    assert [units.step(stride) for stride in ((2, 2), (2, 1), None)] == ["2", "2x1", ""]
    assert [units.op_name(op) for op in ("AddV2", "FusedBatchNormV3", "Conv2D", "Relu6")] == [
        "Add",
        "BatchNorm",
        "Conv2D",
        "Relu6",
    ]
    assert units.shortened("block4_shortcut_pool", 12) == "bloc..._pool"


def test_short_names():
    rows = [
        node("images", "Placeholder"),
        node("net/stem/Conv2D", "Conv2D"),
        node("net/add/add", "AddV2"),
        node("net/fc/MatMul", "MatMul"),
        node("net/fc/BiasAdd", "BiasAdd"),
        node("net/dw/depthwise", "DepthwiseConv2dNative"),
        node("net/add_1/add_1", "AddV2"),
        node("net/a/BatchNorm/FusedBatchNormV3", "FusedBatchNormV3"),
        node("net/a/pad/Pad", "Pad"),
    ]
    short = names.short_names(rows)
    assert list(short.values()) == ["images", "stem", "add", "fc", "fc", "dw", "add_1", "a", "a/pad"]


def test_short_names_stay_apart():
    rows = [node(name, "Conv2D") for name in ("net/a", "net/a/Conv2D", "a", "net/b", "net/c", "net/d", "net/e")]
    short = names.short_names(rows)
    assert len(set(short.values())) == len(rows)


# colour


def test_colours_darken_evenly_and_text_is_legible():
    scale = [colour.heat(i / 100) for i in range(101)]
    lightness = [colour.oklab(each)[0] for each in scale]
    assert all(before >= after for before, after in itertools.pairwise(lightness))
    assert all(colour.contrast(colour.ink(each), each) >= 4.5 for each in scale)  # WCAG 2, AA
    assert colour.heat(0) == "#ffffff"
    assert colour.srgb(colour.oklab("#3a7bc8")) == "#3a7bc8"


# layout


def test_blocks_come_from_the_graph_not_from_names():
    report = winner_report()
    new = {row.name: f"q{number * 7919 % 1000}" for number, row in enumerate(report.rows)}
    rows = [dataclasses.replace(row, name=new[row.name], inputs=tuple(map(new.get, row.inputs))) for row in report.rows]
    blocks = layout.blocks(layout.cells(dataclasses.replace(report, rows=tuple(rows))))
    framed = [block for block in blocks if block.title]
    assert [block.title for block in framed] == [f"block {i}" for i in range(1, 10)]
    assert [block.cells[-1].main.op for block in framed] == ["AddV2"] * 9
    assert [block.lanes for block in framed] == [1, 1, 1, 2, 1, 1, 2, 1, 1]


@pytest.mark.parametrize("collapse", [False, True])
def test_no_row_is_lost(collapse):
    for report in (winner_report("micronet"), gated()):
        cells = layout.cells(report, collapse)
        drawn = [row.name for cell in cells for row in cell.rows]
        assert sorted(drawn) == sorted(row.name for row in report.rows if row.op != "Identity")
        placed = [cell for column in layout.columns(layout.blocks(cells), 3) for block in column for cell in block.cells]
        assert placed == cells
        seen = set()
        for cell in cells:
            assert set(cell.inputs) <= seen
            seen.add(cell.name)


def test_collapse():
    cells = {cell.name: cell for cell in layout.cells(winner_report("micronet"), collapse=True)}
    assert [row.name for row in cells["block3_prune"].rows] == [
        "block3_prune_bn", "block3_prune_relu", "block3_prune", "block3_conv1_bn", "block3_conv1_relu",
    ]  # fmt: skip
    assert [row.name for row in cells["head"].rows] == ["head_bn", "head_relu", "head", "head_out_bn"]
    assert cells["block3_add"].inputs == ("block3_pad", "block2_add")
    assert sum(cell.operation_bits for cell in cells.values()) == winner_report("micronet").totals.operation_bits
    assert not any(row.op in layout.ATTACHED for cell in cells.values() for row in (cell.main,))


def test_gates_and_branches():
    cells = layout.cells(gated(), collapse=True)
    by_name = {cell.name: cell for cell in cells}
    assert [row.name for row in by_name["a"].rows] == ["a", "a/bn", "a/act"]
    assert [row.name for row in by_name["fc"].rows] == ["fc", "gate"]
    assert by_name["b1"].inputs == ("sum",)
    blocks = layout.blocks(cells)
    assert [[cell.name for cell in block.cells] for block in blocks if block.title] == [
        ["a", "mean", "fc", "scaled", "sum"],
        ["b1", "b2", "b3", "b3/second", "joined"],
    ]
    spine = layout.spine(blocks[2])
    assert spine == {("sum", "b3"), ("b3", "b3/second"), ("b3/second", "joined")}


def test_deep_blocks_are_cut():
    rows = [node("x")] + [node(f"r{i}", inputs=[f"r{i - 1}" if i else "x"]) for i in range(100)]
    blocks = layout.blocks(layout.cells(report_of(*rows, node("sum", "AddV2", ["x", "r99"]))))
    assert max(block.ranks for block in blocks) <= layout.MAX_RANKS
    assert sum(len(block.cells) for block in blocks) == 102


def test_unsorted_rows_and_cycles_are_drawn():
    rows = list(gated().rows)
    random.Random(0).shuffle(rows)
    assert {cell.name for cell in layout.cells(report_of(*rows))} == {row.name for row in rows if row.op != "Identity"}
    loop = report_of(node("a", inputs=["b"]), node("b", inputs=["a"]), node("c", inputs=["c", "nowhere"]))
    assert len(layout.cells(loop)) == 3
    assert "n2" in picture.source(loop)


# table


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize(
    "report", [winner_report("frenzy"), winner_report("micronet"), gated()], ids=["frenzy", "micronet", "gated"]
)
def test_table_fits(report, width):
    text = table.table(report, width)
    assert max(map(len, text.splitlines())) <= width
    assert text.isascii()
    shown = names.short_names(report.rows)
    lines = text.splitlines()
    assert (
        sum(line.startswith(units.shortened(shown[row.name], 16)[:6]) for row in report.rows for line in lines)
        >= len(report.rows) - 1
    )


def test_table_says_it_all():
    text = table.table(winner_report())
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert lines["block4_shortcut_pool"].split() == [
        "block4_shortcut_pool",
        *"AvgPool 16x16x100 3x3 2 100->100 11.059 M 1.3%".split(),
    ]
    assert lines["block8_conv1"].split() == [
        "block8_conv1",
        *"Conv2D 8x8x400 3x3 1 400->400 1,440,000 2.747 MiB 138.240 M 16.7%".split(),
    ]
    assert lines["head_bn"].split()[-1] == "free"
    assert lines["MS"] == "MS          8,839,600 bytes = 8.430 MiB"
    assert lines["OC"] == "OC          828,928,000 operations = 828.928 M"
    assert lines["score"] == "score       0.2001 = 0.1210904 + 0.0790208 (storage + operations, cifar100)"
    assert {"convention", "units", "note", "parameters", "multiplies", "adds"} <= lines.keys()


def test_table_hides_identities_and_names_unknown_ops():
    text = table.table(gated())
    assert "seen/through" not in text
    assert "1 free Identity or NoOp node not shown" in text
    assert "not counted Exotic 'odd', 8x8x16 -> 8x8x16: no rule for op 'Exotic'" in text
    assert [line.split()[-2:] for line in text.splitlines() if line.startswith("odd")] == [["?", "?"]]
    costly = report_of(node("kept", "Identity", macs=3))
    assert "kept" in table.table(costly)


# data

NODE_KEYS = (
    "name op input_shapes output_shape kernel stride groups width parameters nonzero weight_bits live_in live_out multiplies adds "
    "storage_bytes operations formula status"
).split()


@pytest.mark.parametrize("convention", ["frenzy", "micronet"])
def test_json(convention):
    report = winner_report(convention)
    found = json.loads(data.json_text(report))
    assert list(found) == ["convention", "source", "entry", "nodes", "totals", "score", "unknown"]
    assert all(list(each) == NODE_KEYS for each in found["nodes"])
    assert list(found["totals"]) == ["parameters", "storage_bytes", "multiplies", "adds", "operations"]
    assert list(found["score"]) == ["task", "storage", "operations", "total"]
    for key, value in found["totals"].items():
        assert type(value) is int
        assert value == sum(each[key] for each in found["nodes"])
    assert found["score"]["total"] == pytest.approx(found["score"]["storage"] + found["score"]["operations"], abs=1e-15)
    assert (found["convention"], found["entry"], found["unknown"]) == (convention, "serving_default", [])
    if convention == "frenzy":
        assert found["totals"]["operations"] == 828_928_000
        assert found["nodes"][1]["input_shapes"] == [[1, 32, 32, 3]]
        assert found["nodes"][1]["formula"] == "1*1*3*100 * 32*32 * 1.5"


def test_json_fractions_and_unknown():
    half = dataclasses.replace(node("half", macs=1), storage_bits=12)
    odd = node("odd", "Exotic", status=UNKNOWN)
    found = json.loads(data.json_text(report_of(half, odd)))
    assert found["nodes"][0]["storage_bytes"] == 1.5
    assert found["nodes"][0]["operations"] == 1.5
    assert found["unknown"] == [{"name": "odd", "op": "Exotic", "input_shapes": [], "output_shape": [1, 8, 8, 16]}]
    assert json.loads(data.json_text(report_of()))["nodes"] == []


def test_csv_is_the_json():
    report = winner_report()
    rows = list(csv.DictReader(io.StringIO(data.csv_text(report))))
    nodes = json.loads(data.json_text(report))["nodes"]
    assert len(rows) == len(nodes) == 107
    for row, each in zip(rows, nodes, strict=True):
        assert list(row) == NODE_KEYS
        for key in ("name", "op", "parameters", "multiplies", "adds", "storage_bytes", "operations", "formula", "status"):
            assert row[key] == str(each[key])
    assert rows[1]["input_shapes"] == "1x32x32x3"
    assert rows[1]["kernel"] == "1x1"
    assert rows[2]["kernel"] == ""
    add = next(row for row in rows if row["op"] == "AddV2")
    assert add["input_shapes"] == "1x32x32x100;1x32x32x100"


# files


def test_write_replaces(tmp_path):
    path = tmp_path / "out.txt"
    files.write(path, "first")
    path.chmod(0o640)
    files.write(path, b"second")
    assert path.read_text() == "second"
    assert path.stat().st_mode & 0o777 == 0o640
    link = tmp_path / "link"
    link.symlink_to(path)
    files.write(link, "third")
    assert link.is_symlink()
    assert path.read_text() == "third"
    files.write("/dev/null", "gone")


@pytest.mark.parametrize("broken", ["os.replace", "os.fdopen"])
def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch, broken):
    path = tmp_path / "out.txt"
    path.write_text("whole")

    class Full(io.BytesIO):
        def write(self, content):
            raise OSError(28, "No space left on device")

    def fails(handle, *rest):
        if broken == "os.replace":
            raise OSError(18, "Invalid cross-device link")
        os.close(handle)
        return Full()

    monkeypatch.setattr(broken, fails)
    with pytest.raises(files.RenderError, match=r"cannot write .*out.txt: (no space left|invalid cross-device)"):
        files.write(path, "half")
    assert [each.name for each in tmp_path.iterdir()] == ["out.txt"]
    assert path.read_text() == "whole"


def test_unwritable(tmp_path):
    with pytest.raises(files.RenderError, match=r"cannot write .*nowhere/out\.txt: no such file or directory"):
        files.write(tmp_path / "nowhere" / "out.txt", "text")
    with pytest.raises(files.RenderError, match=r"cannot write .*: it is a folder"):
        files.write(tmp_path, "text")


# picture


def png_size(path):
    return struct.unpack(">II", path.read_bytes()[16:24])


@needs_dot
@pytest.mark.parametrize("collapse", [False, True])
def test_the_real_network_is_drawn(tmp_path, collapse):
    path = tmp_path / "frenzy.png"
    picture.draw(winner_report(), path, collapse)
    width, height = png_size(path)
    assert 1500 <= width <= 3500
    assert 1000 <= height <= 4500
    assert picture.FONT_POINTS * 96 / 72 >= 10  # px
    assert [each.name for each in tmp_path.iterdir()] == ["frenzy.png"]


@needs_dot
@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")])
def test_formats(tmp_path, suffix, start):
    path = tmp_path / f"graph{suffix}"
    picture.draw(gated(), path)
    assert path.read_bytes().startswith(start)


@needs_dot
@pytest.mark.parametrize(
    "report",
    [report_of(), report_of(node('a"b\\<>&{|}:é\\N\\G', shape=())), gated()],
    ids=["empty", "hostile name", "gated"],
)
def test_any_graph_is_drawn(tmp_path, report):
    for collapse in (False, True):
        picture.draw(report, tmp_path / "graph.png", collapse)


@needs_dot
def test_random_graphs_are_drawn():
    draw = random.Random(0)
    for _ in range(6):
        rows = [node("n0", "Placeholder")]
        for i in range(1, 40):
            sources = draw.sample(rows[-8:], min(len(rows[-8:]), draw.choice([1, 1, 1, 2, 3])))
            op = draw.choice(["Conv2D", "Relu", "AddV2"])
            rows.append(node(f"n{i}", op, [source.name for source in sources], macs=draw.choice([0, 10])))
        assert picture._pipe(picture.source(report_of(*rows)), ".svg").startswith(b"<?xml")


def test_source_says_everything(tmp_path):
    path = tmp_path / "graph.dot"
    picture.draw(winner_report(), path)
    text = path.read_text()
    assert text == picture.source(winner_report())
    for row in winner_report().rows:
        assert f"<B>{row.name}</B>" in text
    boxes = [line for line in text.splitlines() if "<B>block7_conv2</B>" in line]
    assert len(boxes) == 1
    for fact in ("Conv2D 3x3/1", "8x8x200 → 8x8x400", "width 400", "MS 1.373 MiB   OC 69.120 M", "8.3%"):
        assert fact in boxes[0]
    for fact in ("MS 8.430 MiB", "OC 828.928 M", "8,839,600 bytes", "score 0.2001", "convention frenzy", "16.7%"):
        assert fact in text
    assert "16x16x200 (100 live) → 16x16x20" in text  # block 5's prune conv
    assert "2 x 16x16x200 → 16x16x200 (100 live)" in text  # block 4's ADD


def test_shortcuts_stand_out():
    lines = picture.source(winner_report()).splitlines()
    blue = [line for line in lines if "->" in line and labels.BRANCH in line]
    assert len(blue) == 7 * 1 + 2 * 3  # one edge a plain block; pool, pad and ADD in blocks 4 and 7


def test_dear_nodes_are_dark_and_unknown_ones_marked():
    text = picture.source(gated())
    scale = labels.Scale.of(gated())
    assert scale.colour(scale.peak_bits) == colour.heat(1.0)
    dear = next(line for line in text.splitlines() if "<B>b2</B>" in line)
    assert f'BGCOLOR="{colour.heat(1.0)}"' in dear
    assert '<FONT COLOR="#ffffff">' in dear
    odd = next(line for line in text.splitlines() if "<B>odd</B>" in line)
    assert "no rule: not counted" in odd
    assert "1 node without a rule, not counted" in text


def test_folded_is_said():
    folded = dataclasses.replace(node("bn", "FusedBatchNormV3", macs=1), status=FOLDED)
    assert "folded" in picture.source(report_of(folded))


def test_one_column_where_dot_gives_up(tmp_path, monkeypatch):
    asked = []

    def pipe(text, suffix):
        asked.append(text)
        if "cluster_column1" in text:
            raise picture._DotFailed("assertion failed")
        return b"picture"

    monkeypatch.setattr(picture, "check", lambda path: ".png")
    monkeypatch.setattr(picture, "_pipe", pipe)
    picture.draw(winner_report(), tmp_path / "graph.png")
    assert (tmp_path / "graph.png").read_bytes() == b"picture"
    assert len(asked) == 2


def fake_dot(folder, script):
    path = folder / "dot"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "script", ["echo 'Error: out of memory' >&2; exit 1", "cat > /dev/null; echo 'out of memory' >&2; exit 1"]
)
def test_dot_fails(tmp_path, monkeypatch, script):
    fake_dot(tmp_path, script)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(picture.RenderError, match=r"cannot draw .*graph.png: dot failed: .*; a .dot file can be written"):
        picture.draw(winner_report(), tmp_path / "graph.png")
    assert [each.name for each in tmp_path.iterdir()] == ["dot"]


def test_no_dot(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(picture.RenderError, match="no 'dot' on the PATH: install graphviz"):
        picture.draw(gated(), tmp_path / "graph.png")
    picture.draw(gated(), tmp_path / "graph.dot")
    assert [each.name for each in tmp_path.iterdir()] == ["graph.dot"]


@pytest.mark.parametrize("name", ["graph.gif", "graph", "graph.png.bak"])
def test_unknown_suffix(tmp_path, name):
    with pytest.raises(picture.RenderError, match=r"unknown suffix '.*'; allowed are .png, .svg, .pdf, .dot"):
        picture.draw(gated(), tmp_path / name)


# the package


def test_imports_nothing_of_frenzy_but_the_report():
    for path in pathlib.Path(frenzy.render.__file__).parent.glob("*.py"):
        for statement in ast.walk(ast.parse(path.read_text())):
            if isinstance(statement, ast.ImportFrom) and statement.module.startswith("frenzy"):
                assert statement.module == "frenzy.accounting.report" or statement.module.startswith("frenzy.render"), path
        assert len(path.read_text().splitlines()) <= 250


def test_needs_no_tensorflow():
    code = "import sys; from frenzy.render import data, picture, table; sys.exit('tensorflow' in sys.modules)"
    root = pathlib.Path(frenzy.render.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0

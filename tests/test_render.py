"""Report -> text, data and files: reports made by hand, and the real network from winner.py."""

import ast
import csv
import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys
from fractions import Fraction

import pytest
from drawn_reports import gated, node, report_of
from winner_report import winner_report

import frenzy.render
from frenzy.accounting.report import UNKNOWN
from frenzy.render import data, files, names, table, units

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


@pytest.mark.parametrize(
    ("value", "count", "size"),
    [
        (0, "0", "0 B"), (600, "600", "600 B"), (1000, "1.00 k", "0.977 KiB"), (1024, "1.02 k", "1.00 KiB"),
        (828_928_000, "829 M", "791 MiB"), (-8_839_600, "-8.84 M", "-8.43 MiB"), (1001 * 1024, "1.03 M", "0.978 MiB"),
        (999_499, "999 k", "976 KiB"), (999_500, "1.00 M", "976 KiB"), (Fraction(25, 2), "12.5", "12.5 B"),
        (9996, "10.0 k", "9.76 KiB"), (99_960, "100 k", "97.6 KiB"),
        (Fraction(1, 32), "0.031", "0.031 B"), (Fraction(-1, 10**6), ">-0.001", ">-0.001 B"),
    ],
)  # fmt: skip
def test_brief(value, count, size):
    assert (units.brief(value), units.brief_size(value)) == (count, size)


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
    "name op input_shapes output_shape kernel stride groups width parameters nonzero weight_bits "
    "stored_as values multiply_bits live_in live_out multiplies adds storage_bytes operations formula status"
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

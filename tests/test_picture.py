"""Report -> pictures: layout, colours, and what dot makes of them."""

import dataclasses
import itertools
import random
import shutil
import struct

import pytest
from drawn_reports import gated, node, report_of
from winner_report import winner_report

from frenzy.accounting.report import FOLDED
from frenzy.render import colour, labels, layout, picture

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="no 'dot' on the PATH: graphviz is not installed")


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

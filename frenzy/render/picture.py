"""Report -> graphviz source -> .png, .svg, .pdf or .dot.

The network runs down columns that stand side by side. A box is a node; its colour is its share of all operations, light
to dark. Blocks with branches are framed; shortcuts and side branches are blue. Where the network goes on in the next
column, a grey line leads from the foot of one to the head of the other, where a pill names the tensor again.
"""

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

import graphviz

from frenzy.accounting.report import FREE, Report
from frenzy.render import files, labels, layout, units
from frenzy.render.files import RenderError as RenderError
from frenzy.render.labels import BRANCH, CARRY, Scale
from frenzy.render.layout import Block, Cell

SUFFIXES = (".png", ".svg", ".pdf", ".dot")
FONT = "Helvetica,Arial,sans-serif"
FONT_POINTS = 9  # 12 px at 96 dots an inch
MAIN = "#444444"
CELL_WIDTH, GUTTER, LINE, GAP, HEADER = 300, 80, 18, 40, 60  # px, about: they decide the number of columns
ASPECT = 1.4  # width : height of the picture aimed at
MAX_COLUMNS = 40
NO_DOT = "no 'dot' on the PATH: install graphviz (apt-get install graphviz, brew install graphviz), or write a .dot file"


def source(report: Report, collapse: bool = False, wrap: bool = True) -> str:
    """The picture in graphviz's language.

    `collapse` draws BN, bias and activation inside the conv beside them; without `wrap` all stands in one column.
    """
    scale = Scale.of(report)
    blocks = layout.blocks(layout.cells(report, collapse))
    columns = layout.columns(blocks, _column_count(blocks) if wrap else 1)
    head = [
        "digraph network {",
        "graph " + _attributes(
            label=f"<{labels.title(report, scale)}>", labelloc="t", labeljust="l", fontname=FONT, fontsize=FONT_POINTS,
            bgcolor="white", newrank=str(wrap).lower(), nodesep=0.22, ranksep=0.2, pad=0.25, dpi=96,
        ),
        "node " + _attributes(shape="plain", fontname=FONT, fontsize=FONT_POINTS),
        "edge " + _attributes(color=MAIN, arrowsize=0.6, penwidth=1.2),
    ]  # fmt: skip
    return "\n".join([*head, *_body(columns, scale), "}", ""])


def draw(report: Report, path: str | Path, collapse: bool = False) -> None:
    """Writes the picture; the suffix decides the format. Raises RenderError."""
    suffix = check(path)
    if suffix == ".dot":
        return files.write(path, source(report, collapse))
    try:
        data = _pipe(source(report, collapse), suffix)
    except _DotFailed:  # some graphs make dot give up on columns; it has no such trouble with one
        try:
            data = _pipe(source(report, collapse, wrap=False), suffix)
        except _DotFailed as error:
            raise RenderError(f"cannot draw {path}: dot failed: {error}; a .dot file can be written") from error
    return files.write(path, data)


def check(path: str | Path) -> str:
    """The path's suffix, if a picture can be made for it: before the work rather than after. Raises RenderError."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise RenderError(f"cannot draw {path}: unknown suffix {suffix!r}; allowed are {', '.join(SUFFIXES)}")
    if suffix != ".dot" and shutil.which("dot") is None:
        raise RenderError(NO_DOT)
    return suffix


class _DotFailed(Exception):
    pass


def _pipe(text: str, suffix: str) -> bytes:
    try:
        return graphviz.pipe("dot", suffix[1:], text.encode(), quiet=True)
    except graphviz.ExecutableNotFound as error:
        raise RenderError(NO_DOT) from error
    except graphviz.CalledProcessError as error:
        said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr or ""
        raise _DotFailed(" ".join(said.split())[:200] or f"exit code {error.returncode}") from error


def _column_count(blocks: Sequence[Block]) -> int:
    """The least area, and the nearer to ASPECT the better."""

    def height(block: Block) -> float:
        lines = sum(2 if cell.main.status == FREE else 3 + (len(cell.rows) > 1) for cell in block.cells) / len(block.cells)
        return block.ranks * (LINE * lines + GAP) + HEADER * bool(block.title)

    def cost(count: int) -> float:
        columns = layout.columns(blocks, count)
        wide = sum(max(block.lanes for block in column) * CELL_WIDTH + GUTTER for column in columns)
        high = max(sum(height(block) for block in column) for column in columns)
        return wide * high * max(wide / high / ASPECT, ASPECT * high / wide) ** 0.5

    return min(range(1, 1 + min(len(blocks), MAX_COLUMNS)), key=cost, default=1)


def _attributes(**values: object) -> str:
    def quoted(value: object) -> str:
        text = str(value)
        return text if text.startswith("<") else graphviz.quoting.quote(graphviz.escape(text))

    return "[" + " ".join(f"{name}={quoted(value)}" for name, value in values.items()) + "]"


POINT = _attributes(shape="point", width=0.01, height=0.01, color=CARRY, label="")
UNSEEN = _attributes(style="invis", label="", margin=8)


def _body(columns: Sequence[Sequence[Block]], scale: Scale) -> list[str]:
    cells = {cell.name: cell for column in columns for block in column for cell in block.cells}
    ids = {name: f"n{number}" for number, name in enumerate(cells)}
    lines, heads, tail = [], [], ""
    for index, column in enumerate(columns):
        here = [cell for block in column for cell in block.cells]
        away = {name for cell in here for name in cell.inputs} - {cell.name for cell in here}
        pills = {name: f"pill{index}_{ids[name]}" for name in cells if name in away}
        head = pills[tail] if tail in pills else next(iter(pills.values()), ids[here[0].name])
        heads.append((head, tail in pills))
        lines.append(f"subgraph cluster_column{index} {{ graph {UNSEEN}")
        lines += [f"{pill} {_pill(cells[name])}" for name, pill in pills.items()]
        for number, block in enumerate(column):
            lines += _block(block, f"cluster_{index}_{number}", {**ids, **pills}, scale)
        if index + 1 < len(columns):
            lines += [f"corner{index} {POINT}", "}", f"subgraph cluster_gutter{index} {{ graph {UNSEEN}"]
            lines += [f"up{index} {POINT}", f"down{index} {POINT}"]
        lines.append("}")
        tail = here[-1].name
    return lines + _carry([ids[column[-1].cells[-1].name] for column in columns], heads)


def _pill(cell: Cell) -> str:
    label = f"{units.shortened(cell.label, 32)}  {units.hwc(cell.rows[-1].output_shape)}"
    return _attributes(label=label, shape="box", style="rounded", color=CARRY, fontcolor=MAIN, height=0.25)


def _block(block: Block, cluster: str, ids: dict[str, str], scale: Scale) -> list[str]:
    lines = [f"{ids[cell.name]} " + _attributes(label=f"<{labels.box(cell, scale)}>") for cell in block.cells]
    if block.title:
        frame = _attributes(
            label=f"<{labels.block_title(block, scale)}>", labeljust="l" if block.lanes > 1 else "c",
            style="rounded,filled", color="#c9d1d9", fillcolor="#f4f6f8", margin=9,
        )  # fmt: skip
        lines = [f"subgraph {cluster} {{ graph {frame}", *lines, "}"]
    spine = layout.spine(block)
    for cell in block.cells:
        for name in cell.inputs:
            branch = (name, cell.name) not in spine
            style = _attributes(color=BRANCH, penwidth=2, weight=1) if branch else _attributes(weight=100)
            lines.append(f"{ids[name]} -> {ids[cell.name]} {style}")
    return lines


def _carry(tails: Sequence[str], heads: Sequence[tuple[str, bool]]) -> list[str]:
    """Columns from left to right, and the grey line from the foot of one up to the head of the next where the data goes on.

    The line runs in a gutter, a cluster of its own between two columns. heads: (node, whether the tensor that it stands
    for is the one that the column before ended with).
    """
    top, bottom, lines = [head for head, _ in heads[:1]], [], []
    for index, (tail, (head, goes_on)) in enumerate(zip(tails[:-1], heads[1:], strict=True)):
        corner, down, up = f"corner{index}", f"down{index}", f"up{index}"
        style: dict[str, object] = {"color": CARRY, "penwidth": 2} if goes_on else {"style": "invis"}
        for one, other, arrow, weight in (
            (tail, corner, "none", 40), (corner, down, "none", 0), (up, down, "none", 2), (up, head, "forward", 0),
        ):  # fmt: skip
            lines.append(f"{one} -> {other} " + _attributes(dir=arrow, weight=weight, **style))
        top += [up, head]
        bottom += [corner, down]
    for rank, names in (("min", top), ("max", bottom)):
        if len(names) > 1:
            lines.append(f"{{ rank={rank}; {'; '.join(names)} }}")
            lines += [f"{one} -> {other} [style=invis]" for one, other in itertools.pairwise(names)]
    return lines

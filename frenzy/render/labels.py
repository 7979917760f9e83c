"""What stands in a picture's boxes: graphviz's HTML labels for a cell, a block and the whole report."""

import dataclasses
import html
import textwrap
from collections.abc import Sequence
from fractions import Fraction

from frenzy.accounting.report import FOLDED, FREE, UNKNOWN, Report
from frenzy.render import units
from frenzy.render.colour import heat, ink
from frenzy.render.layout import Block, Cell

BRANCH, CARRY, ALARM = "#1a66b3", "#7d7d7d", "#b00020"  # shortcuts and side branches, the line to the next column, no rule
BOX_POINTS = 206  # least width of a box; most are no wider
NOTE_CHARACTERS = 170


@dataclasses.dataclass(frozen=True)
class Scale:
    """All operations of a report, and those of the row that has most: the dark end of the colours."""

    total_bits: int
    peak_bits: int

    @classmethod
    def of(cls, report: Report) -> "Scale":
        return cls(report.totals.operation_bits, max((row.operation_bits for row in report.rows), default=0))

    def colour(self, operation_bits: int) -> str:
        """Light to dark with the square root of the share, so that small shares can be told apart."""
        return heat(min(operation_bits / self.peak_bits, 1.0) ** 0.5 if self.peak_bits else 0.0)

    def percent(self, operation_bits: int | Fraction) -> str:
        return units.percent(operation_bits, self.total_bits)


def text(content: str, bold: bool = False, **font: object) -> str:
    """HTML text; `font` takes graphviz's attributes of FONT: color, point_size."""
    result = html.escape(content)
    result = f"<B>{result}</B>" if bold else result
    style = " ".join(f'{name.upper().replace("_", "-")}="{value}"' for name, value in font.items())
    return f"<FONT {style}>{result}</FONT>" if style else result


def table(rows: Sequence[str], **attributes: object) -> str:
    style = {"border": 0, "cellborder": 0, "cellspacing": 0, "cellpadding": 2, **attributes}
    opened = " ".join(f'{name.upper()}="{value}"' for name, value in style.items())
    return f"<TABLE {opened}>{''.join(f'<TR>{row}</TR>' for row in rows)}</TABLE>"


def cell_of(content: str, align: str = "LEFT", **attributes: object) -> str:
    style = "".join(f' {name.upper()}="{value}"' for name, value in attributes.items())
    return f'<TD ALIGN="{align}"{style}>{content}</TD>'


def box(cell: Cell, scale: Scale) -> str:
    """Name and op; shapes and width; MS, OC and share, on the colour of the share."""
    main, statuses = cell.main, {row.status for row in cell.rows}
    background, edge = scale.colour(cell.operation_bits), "#666666"
    window = units.pair(main.kernel) + (f"/{units.step(main.stride)}" if main.stride else "")
    lines = [(text(units.shortened(cell.label, 32), bold=True), text(f"{units.op_name(main.op)} {window}".strip()))]
    if len(cell.rows) > 1:
        lines.append((text(" → ".join(units.op_name(row.op) for row in cell.rows)), ""))
    width = f"width {main.width}" if main.width else ""
    if statuses == {FREE}:
        edge = "#999999"
        lines.append((text(shapes(cell)), "free"))
    elif UNKNOWN in statuses:
        background, edge = "#efe3fb", "#7a2fb5"
        lines += [(text(shapes(cell)), width), (text("no rule: not counted", bold=True, color=ALARM), "")]
    else:
        size, count = (
            units.size(Fraction(cell.storage_bits, 8)),
            units.count(sum((row.operations for row in cell.rows), Fraction(0))),
        )
        note = "folded" if statuses == {FOLDED} else scale.percent(cell.operation_bits)
        lines += [(text(shapes(cell)), width), (text(f"MS {size}   OC {count}"), text(note))]
    rows = [cell_of("", colspan=2, width=BOX_POINTS, height=1, cellpadding=0)]
    rows += [cell_of(left) + cell_of(right, "RIGHT") if right else cell_of(left, colspan=2) for left, right in lines]
    framed = table(rows, border=1, cellpadding=3, style="ROUNDED", color=edge, bgcolor=background)
    return f'<FONT COLOR="{ink(background)}">{framed}</FONT>'


def shapes(cell: Cell) -> str:
    """ "16x16x200 (100 live) → 16x16x20"; equal inputs are drawn together: "2 x 8x8x400 → 8x8x400"."""
    first, last = cell.rows[0], cell.rows[-1]
    came = [units.hwc(shape) for shape in first.input_shapes]
    if len(came) > 1 and len(set(came)) == 1:
        came = [f"{len(came)} x {came[0]}"]
    out, left = live(last.live_out, last.output_shape), ""
    if not out and len(first.input_shapes) == 1:
        left = live(first.live_in, first.input_shapes[0])
    return f"{' + '.join(came)}{left} → {units.hwc(last.output_shape)}{out}" if came else units.hwc(last.output_shape)


def live(channels: int | None, shape: Sequence[int]) -> str:
    """Said only where some channels are known beforehand."""
    return f" ({channels} live)" if channels is not None and shape and channels < shape[-1] else ""


def block_title(block: Block, scale: Scale) -> str:
    """Name, share, MS and OC where no line passes: left and right of a lone main line, else in the left corner."""
    bits = sum(cell.operation_bits for cell in block.cells)
    size = text(f"MS {units.size(Fraction(sum(cell.storage_bits for cell in block.cells), 8))}")
    operations = sum((row.operations for cell in block.cells for row in cell.rows), Fraction(0))
    count = text(f"OC {units.count(operations)}")
    name = text(units.shortened(block.title, 24 if block.lanes > 1 else 12), bold=True, point_size=11)
    share = text(scale.percent(bits), bold=True, point_size=11)
    if block.lanes > 1:
        return table([cell_of(line) for line in (f"{name}   {share}", size, count)], cellpadding=1)
    gap = cell_of("", width=10)
    halves = ((name, share), (size, count))
    return table([cell_of(left, width=84) + gap + cell_of(right, "RIGHT", width=84) for left, right in halves], cellpadding=1)


def title(report: Report, scale: Scale) -> str:
    """Totals, score, convention, notes and the legend."""
    totals, score = report.totals, report.score
    size = f"MS {units.size(totals.storage_bytes)}   ({units.grouped(totals.storage_bytes)} bytes)"
    count = f"OC {units.count(totals.operations)}   ({units.grouped(totals.operations)} {report.unit} an image)"
    lines = [
        text(f"{report.folder}   {report.entry}", bold=True, point_size=15),
        text(f"{size}      {count}      {totals.parameters:,} parameters", point_size=12),
    ]
    if score:
        parts = " + ".join(units.decimals(part, 4) for part in (score.storage, score.operations))
        lines.append(
            text(f"score {units.decimals(score.total, 4)} = {parts} ({score.task}: storage + operations)", point_size=12)
        )
    for note in (f"convention {report.convention}: {report.source}", *report.notes):
        lines += [text(line, point_size=10) for line in textwrap.wrap(note, NOTE_CHARACTERS, break_on_hyphens=False)]
    if report.unknown:
        nodes = f"{len(report.unknown)} node{'s' if len(report.unknown) > 1 else ''}"
        lines.append(text(f"{nodes} without a rule, not counted", bold=True, point_size=12, color=ALARM))
    return table([cell_of(line) for line in (*lines, legend(scale))])


def legend(scale: Scale) -> str:
    swatches = ""
    for tenth in (0, 2, 4, 6, 8, 10):
        colour = heat(tenth / 10)
        share = scale.percent(Fraction(tenth, 10) ** 2 * scale.peak_bits) if tenth else "0"
        swatches += cell_of(text(share, color=ink(colour)), "CENTER", bgcolor=colour, width=44, border=1, color="#999999")
    words = (
        "   3x3/2: kernel 3x3, stride 2   free: MS 0, OC 0",
        f"   {text('blue', bold=True, color=BRANCH)}: shortcut or side branch",
        f"   {text('grey', bold=True, color=CARRY)}: goes on in the next column",
    )
    return table([cell_of("share of operations ") + swatches + "".join(map(cell_of, words))], cellpadding=3)

"""Report -> a text table: one line a node, then totals, score, and what a reader of the numbers has to know."""

import textwrap
from collections.abc import Callable, Sequence

from frenzy.accounting.report import FREE, UNKNOWN, Report, Row
from frenzy.render import units
from frenzy.render.layout import hidden
from frenzy.render.names import shared_scope, short_names

WIDTH = 100
NAME_LEAST, OP_LEAST = 16, 8
UNITS = {"operations": "32-bit operations"}
DISPENSABLE = ("params", "share")  # left out, in this order, where the width does not hold all columns


def table(report: Report, width: int = WIDTH) -> str:
    """The report in lines of at most `width` characters; from 80 upwards nothing but names and ops is shortened."""
    rows = [row for row in report.rows if not hidden(row)]
    lines = [units.shortened(f"{report.folder} ({report.entry}), convention {report.convention}", width), ""]
    return "\n".join([*lines, *_grid(rows, report, width), "", *_summary(report, len(report.rows) - len(rows), width)]) + "\n"


def side_by_side(reports: Sequence[Report], width: int = WIDTH) -> str:
    """The totals of one network under several conventions, a line each, and below them where the conventions are from."""
    first = reports[0]
    head = f"{'convention':20} {'parameters':>13} {'MS':>12} {'OC':>18} {'unit':12} {'score':>7} {'unknown':>7}"
    lines = [units.shortened(f"{first.folder} ({first.entry})", width), "", head, "-" * len(head)]
    for report in reports:
        totals, score = report.totals, f"{units.decimals(report.score.total, 4)}" if report.score else ""
        lines.append(
            f"{report.convention:20} {totals.parameters:>13,} {units.size(totals.storage_bytes):>12} "
            f"{units.grouped(totals.operations):>18} {report.unit:12} {score:>7} {len(report.unknown) or '':>7}".rstrip()
        )
    lines.append("")
    for report in reports:
        lines += textwrap.wrap(f"{report.convention}: {report.source}", width, subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _columns(report: Report) -> dict[str, Callable[[Row], str]]:
    """Heading -> a row's text; all but the first two are aligned to the right."""
    total = report.totals.operation_bits

    names = short_names(report.rows)

    def live(row: Row) -> str:
        sides = [str(side) for side in (row.live_in, row.live_out) if side is not None]
        return "->".join(sides)

    def priced(row: Row, text: str) -> str:
        return {UNKNOWN: "?", FREE: "free"}.get(row.status, text)

    return {
        "node": lambda row: names[row.name],
        "op": lambda row: units.op_name(row.op),
        "output": lambda row: units.hwc(row.output_shape),
        "kernel": lambda row: units.pair(row.kernel),
        "str": lambda row: units.step(row.stride),
        "live": live,
        "params": lambda row: f"{row.parameters:,}" if row.parameters else "",
        "MS": lambda row: units.size(row.storage_bytes) if row.storage_bits else "?" * (row.status == UNKNOWN),
        "OC": lambda row: priced(row, units.count(row.operations)),
        "share": lambda row: units.percent(row.operation_bits, total) if row.operation_bits else "",
    }


def _grid(rows: Sequence[Row], report: Report, width: int) -> list[str]:
    columns = {heading: [heading, *map(text, rows)] for heading, text in _columns(report).items()}
    needed = {heading: max(map(len, cells)) for heading, cells in columns.items()}

    def spare() -> int:
        return width - sum(needed.values()) - (len(needed) - 1)

    for heading in DISPENSABLE:
        if spare() + max(needed["node"] - NAME_LEAST, 0) + max(needed["op"] - OP_LEAST, 0) < 0:
            del needed[heading]
    for heading, least in (("op", OP_LEAST + 2), ("node", NAME_LEAST), ("op", OP_LEAST)):  # names are worth more than ops
        needed[heading] -= min(max(-spare(), 0), max(needed[heading] - least, 0))
    for heading in ("node", "op"):
        columns[heading] = [units.shortened(cell, needed[heading]).ljust(needed[heading]) for cell in columns[heading]]
    lines = [
        " ".join(columns[heading][index].rjust(size) for heading, size in needed.items()).rstrip()
        for index in range(len(rows) + 1)
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _summary(report: Report, left_out: int, width: int) -> list[str]:
    totals, score = report.totals, report.score
    scored = []
    if score:
        parts = f"{units.decimals(score.storage, 7)} + {units.decimals(score.operations, 7)}"
        scored = [("score", f"{units.decimals(score.total, 4)} = {parts} (storage + operations, {score.task})")]
    facts = [
        ("parameters", f"{totals.parameters:,}"),
        ("multiplies", f"{totals.multiplies:,}"),
        ("adds", f"{totals.adds:,}"),
        ("MS", f"{units.grouped(totals.storage_bytes)} bytes = {units.size(totals.storage_bytes)}"),
        ("OC", f"{units.grouped(totals.operations)} {report.unit} = {units.count(totals.operations)}"),
        *scored,
        ("convention", f"{report.convention}: {report.source}"),
        (
            "units",
            f"MS in bytes, 1 KiB = 2^10, 1 MiB = 2^20; OC in {UNITS.get(report.unit, report.unit)} for one image, 1 k = 10^3, 1 M = 10^6; "
            "output is height x width x channels, str the stride, live the channels in and out that are not known beforehand",
        ),
        *(("note", note) for note in report.notes),
    ]
    if scope := shared_scope([row.name for row in report.rows]):
        facts.append(("note", f"node names are shown without {scope!r} and without a last part that repeats the op"))
    if left_out:
        facts.append(("note", f"{left_out} free Identity or NoOp node{'s' if left_out > 1 else ''} not shown"))
    facts += [("not counted", unknown(row)) for row in report.unknown]
    lines = []
    for label, text in facts:
        lines += textwrap.wrap(f"{label:11} {text}", width, subsequent_indent=" " * 12, break_on_hyphens=False)
    return lines


def unknown(row: Row) -> str:
    """A row that has no rule: what it is, its shapes, and why it is not counted."""
    came = " + ".join(units.hwc(shape) for shape in row.input_shapes) or "nothing"
    return f"{row.op} '{row.name}', {came} -> {units.hwc(row.output_shape)}: {row.formula or 'no rule for this op'}"

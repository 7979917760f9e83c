"""Report -> a text table: one line a node, then totals, score, and what a reader of the numbers has to know."""

import textwrap
from collections.abc import Callable, Mapping, Sequence

from frenzy.accounting.report import FREE, UNKNOWN, Report, Row
from frenzy.render import units
from frenzy.render.layout import hidden
from frenzy.render.names import shared_scope, short_names

WIDTH, NARROW = 100, 80
LEAST = (("op", 10), ("node", 16), ("module", 16), ("op", 8))  # what a width may shorten, and to what; names are worth more
LEGEND = "output is height x width x channels, str the stride, live the channels in and out that are not known beforehand"
UNITS = {"operations": "32-bit operations", "pJ": "picojoules"}


def table(report: Report, width: int = WIDTH) -> str:
    """The report in lines of at most `width` characters; from 80 upwards nothing but names and ops is shortened."""
    rows = [row for row in report.rows if not hidden(row)]
    notes = shown_names(report)
    notes += unseen(len(report.rows) - len(rows))
    columns = {heading: [text(row) for row in rows] for heading, text in _columns(report).items()}
    return "\n".join([title(report, width), "", *grid(columns, width), "", *summary(report, width, notes, LEGEND)]) + "\n"


def title(report: Report, width: int) -> str:
    """What the numbers are of."""
    return units.shortened(f"{report.folder} ({report.entry}), convention {report.convention}", width)


def shown_names(report: Report) -> list[str]:
    """How the names in a table differ from those in the file: no note, or one."""
    scope = shared_scope([row.name for row in report.rows])
    return [f"node names are shown without {scope!r} and without a last part that repeats the op"] if scope else []


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


def grid(columns: Mapping[str, Sequence[str]], width: int, dispensable: Sequence[str] = ("params", "share")) -> list[str]:
    """Heading -> cells, as lines of at most `width` characters where that can be: dispensable columns are left out, in their
    order, then those of LEAST are shortened. Those are aligned to the left, all others to the right.
    """
    needed = {heading: max(map(len, [heading, *cells])) for heading, cells in columns.items()}
    least = {heading: min(size, needed[heading]) for heading, size in LEAST if heading in needed}

    def spare() -> int:
        return width - sum(needed.values()) - (len(needed) - 1)

    for heading in dispensable:
        if heading in needed and spare() + sum(needed[name] - size for name, size in least.items()) < 0:
            del needed[heading]
            least.pop(heading, None)
    for heading, size in LEAST:
        if heading in needed:
            needed[heading] -= min(max(-spare(), 0), max(needed[heading] - size, 0))
    cells = {heading: [heading, *columns[heading]] for heading in needed}
    for heading in least:
        cells[heading] = [units.shortened(cell, needed[heading]).ljust(needed[heading]) for cell in cells[heading]]
    lines = [" ".join(row).rstrip() for row in zip(*([c.rjust(needed[h]) for c in cells[h]] for h in needed), strict=True)]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def unseen(left_out: int) -> list[str]:
    """How many hidden nodes a table leaves out: no note, or one."""
    return [f"{left_out} free Identity or NoOp node{'s' if left_out > 1 else ''} not shown"] if left_out else []


def summary(report: Report, width: int, notes: Sequence[str] = (), legend: str = "") -> list[str]:
    """Totals and score, then the convention, the units and the legend, all notes, and what is not counted."""
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
        ("units", "; ".join(filter(None, (measures(report), legend)))),
        *(("note", note) for note in (*report.notes, *notes)),
        *(("not counted", unknown(row)) for row in report.unknown),
    ]
    return wrapped(facts, width)


def measures(report: Report) -> str:
    """What MS and OC are counted in."""
    unit = UNITS.get(report.unit, report.unit)
    return f"MS in bytes, 1 KiB = 2^10, 1 MiB = 2^20; OC in {unit} for one image, 1 k = 10^3, 1 M = 10^6"


def wrapped(facts: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Label and text in lines of at most `width`, the texts one below the other."""
    return [
        line
        for label, text in facts
        for line in textwrap.wrap(f"{label:11} {text}", width, subsequent_indent=" " * 12, break_on_hyphens=False)
    ]


def unknown(row: Row) -> str:
    """A row that has no rule: what it is, its shapes, and why it is not counted."""
    came = " + ".join(units.hwc(shape) for shape in row.input_shapes) or "nothing"
    return f"{row.op} '{row.name}', {came} -> {units.hwc(row.output_shape)}: {row.formula or 'no rule for this op'}"

"""Diff -> a text table, JSON and CSV."""

import csv
import io
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from frenzy.render import data, groups, table, units
from frenzy.render.diff import AFTER, BEFORE, NAME, PLACE, Change, Diff
from frenzy.render.names import short_names

SIGNS = {NAME: "=", PLACE: "~", BEFORE: "-", AFTER: "+", groups.OTHERS: ""}
LEGEND = "= nodes of one name, ~ nodes of one op in the same place, - only before, + only after"
SIDES = (BEFORE, AFTER, "difference")


def text(found: Diff, width: int = table.NARROW) -> str:
    """A line a change in at most `width` characters from 80 upwards, then totals and score, and what a reader has to know."""
    reports = {BEFORE: found.before, AFTER: found.after}
    heads = [units.shortened(f"{side:6} {report.folder} ({report.entry})", width) for side, report in reports.items()]
    facts = [
        ("convention", f"{found.before.convention}: {found.before.source}"),
        ("units", f"{table.measures(found.before)}; ratio is before / after; {LEGEND}"),
        *(("note", note) for note in _notes(found)),
        *(("not counted", f"{side}: {table.unknown(row)}") for side, report in reports.items() for row in report.unknown),
    ]
    lines = [*heads, "", *table.grid(_columns(found), width, ("op",)), "", *_totals(found), "", *table.wrapped(facts, width)]
    return "\n".join(lines) + "\n"


def _columns(found: Diff) -> dict[str, list[str]]:
    listed = [change for change in found.changes if change.costs]
    names = [short_names(report.rows) for report in (found.before, found.after)]
    labels = [names[0][old] if old is not None else names[1][new or ""] for old, new in (change.names for change in listed)]
    if found.others:
        listed, labels = [*listed, found.others], [*labels, f"{found.left_out} {groups.OTHERS}"]
    columns = {"": [SIGNS[change.match] for change in listed], "node": labels}
    columns["op"] = [units.op_name(change.op) for change in listed]
    for heading, field, brief in (("MS", "storage_bytes", units.brief_size), ("OC", "operations", units.brief)):
        for side in (BEFORE, AFTER):
            columns[f"{heading} {side}"] = [_cell(getattr(change, side), field, brief) for change in listed]
        columns[f"{heading} diff"] = [_signed(getattr(change.difference, field), brief) for change in listed]
    return columns


def _cell(sums: groups.Sums, field: str, brief: Callable[[Fraction], str]) -> str:
    value = getattr(sums, field)
    return brief(value) if value else ""


def _signed(value: Fraction, written: Callable[[Fraction], str]) -> str:
    return "+" * (value > 0) + written(value) if value else ""


def _totals(found: Diff) -> list[str]:
    """Each total before, after, their difference and their ratio, every digit of them."""
    whole, scores = found.whole, [report.score for report in (found.before, found.after)]
    rows = [
        (label, *(getattr(getattr(whole, side), field) for side in SIDES), units.grouped)
        for label, field in (
            ("parameters", "parameters"), ("multiplies", "multiplies"), ("adds", "adds"), ("MS bytes", "storage_bytes"),
            ("OC", "operations"),
        )
    ]  # fmt: skip
    if scores[0] and scores[1]:
        old, new = (score.total for score in scores if score)
        rows.append(("score", old, new, new - old, lambda value: units.decimals(value, 4)))
    lines = [f"{'':10} {BEFORE:>17} {AFTER:>17} {SIDES[2]:>17} {'ratio':>10}"]
    for label, old, new, difference, written in rows:
        lines.append(
            f"{label:10} {written(old):>17} {written(new):>17} {_signed(difference, written) or '0':>17} {_ratio(old, new):>10}"
        )
    return lines


def _ratio(before: Fraction, after: Fraction) -> str:
    return units.decimals(Fraction(before) / Fraction(after), 3) if after else "-"


def _notes(found: Diff) -> Iterator[str]:
    if free := sum(not change.costs for change in found.changes):
        yield f"{free} nodes that cost nothing, neither before nor after, are not shown"
    if found.others:
        yield f"shown: {len(found.changes)} of {len(found.changes) + found.left_out} changes, the largest"
    for match, words in ((BEFORE, "only before"), (AFTER, "only after"), (PLACE, "matched by place, not by name")):
        if count := sum(change.match == match for change in found.changes):
            yield f"{count} node{'s' if count > 1 else ''} {words}"
    for side, report in ((BEFORE, found.before), (AFTER, found.after)):
        yield from (f"{side}: {note}" for note in report.notes)


def record(change: Change) -> dict[str, Any]:
    """What was matched with what and by what, and every field of groups.FIELDS before, after, and their difference."""
    values = {
        f"{field}_{side}": units.exact(getattr(getattr(change, side), field)) for field in groups.FIELDS for side in SIDES
    }
    return {"match": change.match, "before": change.names[0], "after": change.names[1], "op": change.op, **values}


def as_dict(found: Diff) -> dict[str, Any]:
    """The diff as plain dicts, lists and numbers: what json_text writes. The change of the totals has no names and no op."""
    whole = [data.as_dict(report) for report in (found.before, found.after)]
    totals = {key: value for key, value in record(found.whole).items() if key.startswith(groups.FIELDS)}
    sides = [{"folder": report.folder, "entry": report.entry} for report in (found.before, found.after)]
    return {
        "convention": found.before.convention,
        "source": found.before.source,
        BEFORE: sides[0],
        AFTER: sides[1],
        "changes": [record(change) for change in found.changes],
        groups.OTHERS: found.others and record(found.others),
        "totals": totals,
        "score_before": whole[0]["score"],
        "score_after": whole[1]["score"],
        "unknown_before": whole[0]["unknown"],
        "unknown_after": whole[1]["unknown"],
    }


def json_text(found: Diff) -> str:
    """JSON with one change a line."""
    return data.lined(as_dict(found))


def csv_text(found: Diff) -> str:
    """CSV with one change a line; where some are not listed, the last line is their sum."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(record(found.whole)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(record, [*found.changes, *([found.others] if found.others else [])]))
    return file.getvalue()

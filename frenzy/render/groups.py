"""Report -> sums over modules, ops or nodes, and the dearest of them; what is left out is one more row, so all still adds up."""

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

from frenzy.accounting.report import Report, Row, Totals
from frenzy.render import data, table, units
from frenzy.render.layout import hidden
from frenzy.render.names import shared_scope, short_names

NODE, OP, MODULE = BY = ("node", "op", "module")
OTHERS = "others"


@dataclasses.dataclass(frozen=True)
class Sums:
    """What rows cost together, exactly; operations in the unit of the report."""

    parameters: int
    storage_bytes: Fraction
    multiplies: int
    adds: int
    operations: Fraction

    @classmethod
    def of(cls, rows: "Iterable[Row | Totals | Sums]") -> "Sums":
        """The sum over rows, or over sums."""
        many = list(rows)
        return cls(
            sum(row.parameters for row in many),
            sum((row.storage_bytes for row in many), Fraction(0)),
            sum(row.multiplies for row in many),
            sum(row.adds for row in many),
            sum((row.operations for row in many), Fraction(0)),
        )

    def minus(self, other: "Sums") -> "Sums":
        return Sums(*(getattr(self, field) - getattr(other, field) for field in FIELDS))


FIELDS = tuple(field.name for field in dataclasses.fields(Sums))
METRICS = {field.removesuffix("_bytes"): field for field in FIELDS}  # what nodes are ranked by -> the sum that it is


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows that are summed under one name."""

    name: str
    rows: tuple[Row, ...]

    @property
    def sums(self) -> Sums:
        return Sums.of(self.rows)


@dataclasses.dataclass(frozen=True)
class View:
    """A report's groups. `others` holds the rows of all groups that are not shown; without any it is None."""

    report: Report
    by: str
    metric: str
    groups: tuple[Group, ...]
    others: Group | None
    left_out: int = 0


def modules(names: Sequence[str], depth: int) -> dict[str, str]:
    """name -> the first `depth` levels of its path, inside the scope that nearly all share and without its last part, the op.

    Levels lie between '/': encoder/layer_3/query/MatMul is encoder, then encoder/layer_3. Where most layers lie side by side
    in one scope, as Keras writes them, the words between '_' are levels too: block1_conv1/Conv2D is block1, then block1_conv1.
    """
    scope = shared_scope(names)
    paths = {name: name.removeprefix(scope).rpartition("/")[0] for name in names}
    nested = 2 * sum("/" in path for path in paths.values()) >= sum(map(bool, paths.values()))
    level = r"[^/]+/?" if nested else r"[^/_]*[/_]*"
    return {name: "".join(re.findall(level, path)[:depth]).rstrip("/_") or name for name, path in paths.items()}


def grouped(report: Report, by: str, depth: int = 1) -> list[Group]:
    """Every row in one group, in the order of the groups' first nodes."""
    inside = modules([row.name for row in report.rows], depth) if by == MODULE else {}
    members: dict[str, list[Row]] = {}
    for row in report.rows:
        members.setdefault({NODE: row.name, OP: row.op}.get(by) or inside[row.name], []).append(row)
    return [Group(name, tuple(rows)) for name, rows in members.items()]


def view(report: Report, by: str, depth: int = 1, top: int | None = None, metric: str = "operations") -> View:
    """The groups, or the `top` dearest by a metric of METRICS with the rest as one. Ops stand dearest first in any case."""
    groups = grouped(report, by, depth)
    if top is not None or by == OP:
        groups.sort(key=lambda group: _dearness(group.sums, metric), reverse=True)
    rest = groups[top:] if top is not None else []
    others = Group(OTHERS, tuple(row for group in rest for row in group.rows)) if rest else None
    return View(report, by, metric, tuple(groups[:top]), others, len(rest))


def _dearness(sums: Sums, metric: str) -> tuple[int | Fraction, ...]:
    return getattr(sums, METRICS[metric]), sums.operations, sums.storage_bytes


def text(shown: View, width: int = table.NARROW) -> str:
    """A line a group in at most `width` characters, then the report's summary and what share the dearest hold."""
    report, whole = shown.report, shown.report.totals
    seen = [group for group in shown.groups if not all(map(hidden, group.rows))]
    groups = [*seen, *([shown.others] if shown.others else [])]
    names = short_names(report.rows) if shown.by == NODE else {}
    labels = [names.get(group.name, units.op_name(group.name) if shown.by == OP else group.name) for group in seen]
    if shown.others:
        labels.append(f"{shown.left_out} {OTHERS}")
    columns = {shown.by: labels}
    if shown.by == NODE:
        columns["op"] = [units.op_name(group.rows[0].op) for group in seen] + [""] * bool(shown.others)
    else:
        columns["nodes"] = [f"{len(group.rows):,}" for group in groups]
    columns["params"] = [f"{group.sums.parameters:,}" if group.sums.parameters else "" for group in groups]
    columns["MS"] = [units.size(group.sums.storage_bytes) if group.sums.storage_bytes else "" for group in groups]
    columns["MS %"] = [_share(group.sums.storage_bytes, whole.storage_bytes) for group in groups]
    columns["OC"] = [_operations(group) for group in groups]
    columns["OC %"] = [_share(group.sums.operations, whole.operations) for group in groups]
    left_out = sum(len(group.rows) for group in shown.groups) - sum(len(group.rows) for group in seen)
    notes = [*(table.shown_names(report) if shown.by == NODE else []), *table.unseen(left_out), *_held(shown)]
    lines = [table.title(report, width), "", *table.grid(columns, width), "", *table.summary(report, width, notes)]
    return "\n".join(lines) + "\n"


def _operations(group: Group) -> str:
    """Unknown nodes are a question mark behind what is known."""
    unknown = "?" * any(row.status == table.UNKNOWN for row in group.rows)
    known = units.count(group.sums.operations) if group.sums.operations else ""
    return " + ".join(filter(None, (known, unknown))) or "free"


def _share(part: units.Number, whole: units.Number) -> str:
    return units.percent(part, whole) if part else ""


def _held(shown: View) -> list[str]:
    """What the groups that are shown hold of everything."""
    if not shown.others:
        return []
    whole, rest = shown.report.totals, shown.others.sums
    shares = [
        f"{units.percent(getattr(whole, field) - getattr(rest, field), getattr(whole, field))} of {what}"
        for what, field in (("OC", "operations"), ("MS", "storage_bytes"), ("the parameters", "parameters"))
        if getattr(whole, field)
    ]
    number = len(shown.groups)
    return [", ".join([f"shown: {number} of {number + shown.left_out}, the dearest by {shown.metric}", *shares])]


def record(group: Group) -> dict[str, Any]:
    """A group's name, how many nodes it sums, and FIELDS."""
    values = {field: units.exact(getattr(group.sums, field)) for field in FIELDS}
    return {"name": group.name, "nodes": len(group.rows), **values}


def as_dict(shown: View) -> dict[str, Any]:
    """data.as_dict with groups in place of nodes, and the sum of those that are not shown."""
    whole = data.as_dict(shown.report)
    head = {key: whole[key] for key in ("convention", "source", "entry")}
    tail = {key: whole[key] for key in ("totals", "score", "unknown")}
    groups = {"by": shown.by, "metric": shown.metric, "groups": [record(group) for group in shown.groups]}
    return {**head, **groups, OTHERS: shown.others and record(shown.others), **tail}


def json_text(shown: View) -> str:
    """JSON with one group a line."""
    return data.lined(as_dict(shown))


def csv_text(shown: View) -> str:
    """CSV with one group a line; where some are not shown, the last line is theirs."""
    file = io.StringIO()
    writer = csv.DictWriter(file, ("name", "nodes", *FIELDS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(record, [*shown.groups, *([shown.others] if shown.others else [])]))
    return file.getvalue()

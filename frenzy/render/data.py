"""Report -> JSON and CSV, for programs. Every number is whole where it can be, and exact: nothing is rounded for reading."""

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from frenzy.accounting.report import Report, Row, Shape
from frenzy.render.units import exact

FIELDS = (
    "name", "op", "input_shapes", "output_shape", "kernel", "stride", "groups", "width", "parameters", "nonzero",
    "weight_bits", "stored_as", "values", "multiply_bits", "live_in", "live_out", "multiplies", "adds", "storage_bytes",
    "operations", "formula", "status",
)  # fmt: skip


def record(row: Row) -> dict[str, Any]:
    """One node: FIELDS -> its values."""
    values = {field: getattr(row, field) for field in FIELDS}
    return {**values, "storage_bytes": exact(row.storage_bytes), "operations": exact(row.operations)}


def as_dict(report: Report) -> dict[str, Any]:
    """The report as plain dicts, lists and numbers: what json_text writes."""
    totals, score = report.totals, report.score
    return {
        "convention": report.convention,
        "source": report.source,
        "entry": report.entry,
        "nodes": [record(row) for row in report.rows],
        "totals": {
            "parameters": totals.parameters,
            "storage_bytes": exact(totals.storage_bytes),
            "multiplies": totals.multiplies,
            "adds": totals.adds,
            "operations": exact(totals.operations),
        },
        "score": score
        and {
            "task": score.task,
            "storage": float(score.storage),
            "operations": float(score.operations),
            "total": float(score.total),
        },
        "unknown": [{field: getattr(row, field) for field in FIELDS[:4]} for row in report.unknown],
    }


def json_text(report: Report) -> str:
    """JSON with one node a line."""
    return lined(as_dict(report))


def lined(values: Mapping[str, Any]) -> str:
    """JSON with one key a line, and one item a line where the value is a list."""
    lines = []
    for key, value in values.items():
        if isinstance(value, list):
            items = ",\n".join(f"    {json.dumps(item)}" for item in value)
            text = f"[\n{items}\n  ]" if items else "[]"
        else:
            text = json.dumps(value)
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def csv_text(report: Report) -> str:
    """CSV with one node a line: a shape is 1x32x32x3, several are joined by ';', what is not known is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(FIELDS)
    for row in report.rows:
        values = record(row)
        values["input_shapes"] = ";".join(map(_sides, row.input_shapes))
        for field in ("output_shape", "kernel", "stride"):
            values[field] = _sides(values[field])
        writer.writerow(values.values())
    return file.getvalue()


def _sides(shape: Shape | None) -> str:
    return "x".join(map(str, shape)) if shape is not None else ""

#!/usr/bin/env python3
"""Counts a SavedModel node by node: python tools/count.py [--load_folder F] [--convention C] [--format table|json|csv].

Needs saved_model.pb alone; what depends on the weights' values is counted if the variables are there. --convention all prints
the totals of every convention; --reconcile holds the documents' printed figures against networks built and exported now.
Exit codes: 0 done, 1 --strict and a node has no rule, 2 bad input, 130 interrupted.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from collections.abc import Iterable

from absl import flags

from frenzy.accounting import CONVENTIONS
from frenzy.render import data, table
from tools import cli, published

FORMATS = {"table": table.table, "json": data.json_text, "csv": data.csv_text}
FLAGS = flags.FLAGS


def reconcile() -> str:
    """The printed figures beside ours. Builds the networks, which takes a minute."""
    with cli.hushed():
        from frenzy import export, models

    def reports(network: str, conventions: Iterable[str]):
        with cli.hushed():
            return export.account_model(models.build(network), list(conventions))

    return "\n".join(published.lines(reports)) + "\n"


def main() -> int:
    if FLAGS.reconcile:
        cli.output(reconcile(), FLAGS.output)
        return 0
    if FLAGS.convention == "all":
        if FLAGS.format != "table":
            raise cli.UsageError(f"--convention all gives a table; for --format {FLAGS.format} name one convention")
        reports = cli.load_reports(CONVENTIONS)
        text = table.side_by_side(reports)
    else:
        reports = [cli.load_report()]
        text = FORMATS[FLAGS.format](reports[0])
    cli.output(text, FLAGS.output)
    if FLAGS.strict and reports[0].unknown:
        print(f"count.py: not counted: {'; '.join(map(table.unknown, reports[0].unknown))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    cli.define_network_flags("all")
    flags.adopt_module_key_flags(cli)
    flags.DEFINE_enum("format", "table", list(FORMATS), "table for people, json and csv for programs")
    flags.DEFINE_bool("strict", False, "exit with 1 where a node has no rule")
    flags.DEFINE_bool(
        "reconcile", False, "every count that the documents print, beside ours, with the reason where they differ"
    )
    flags.DEFINE_string("output", None, "file to write instead of stdout")
    cli.run(main)

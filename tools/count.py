#!/usr/bin/env python3
"""Counts a SavedModel node by node: python tools/count.py [--load_folder F] [--convention C] [--format table|json|csv].

Needs saved_model.pb alone; what depends on the weights' values is counted if the variables are there.
  --by module|op|node [--depth N]   sums; --top 10 keeps the dearest by --metric and sums the rest
  --diff BEFORE AFTER               two SavedModels node by node: what did compression buy?
  --format model_explorer           node data of --metric for Google's Model Explorer; model_explorer_graph: the graph itself
  --convention all                  the totals of every convention
  --reconcile                       the documents' printed figures against networks built and exported now
Exit codes: 0 done, 1 --strict and a node has no rule, 2 bad input, 130 interrupted.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from collections.abc import Sequence

from absl import flags

from frenzy.accounting import CONVENTIONS, Report
from frenzy.render import changes, data, groups, model_explorer, table
from frenzy.render.diff import diff
from tools import cli, published

FORMATS = {
    "table": table.table,
    "json": data.json_text,
    "csv": data.csv_text,
    "model_explorer_graph": model_explorer.graph_text,
}
SUMS = {"table": groups.text, "json": groups.json_text, "csv": groups.csv_text}
CHANGES = {"table": changes.text, "json": changes.json_text, "csv": changes.csv_text}
FLAGS = flags.FLAGS


def check_flags(folders: Sequence[str]) -> None:
    """Raises UsageError for what cannot be had together, before anything is read. `folders` stand behind --diff's first."""
    if FLAGS.diff is None and folders:
        raise cli.UsageError(f"unexpected argument {folders[0]!r}; flags start with '--'")
    if FLAGS.diff is not None and len(folders) != 1:
        raise cli.UsageError(f"--diff {FLAGS.diff}: a second folder is missing; --diff takes two: --diff BEFORE AFTER")
    for folder in [FLAGS.diff, *folders] if folders else []:
        if not pathlib.Path(folder, "saved_model.pb").is_file():
            raise cli.UsageError(f"--diff: {folder} is no folder with a saved_model.pb; name two SavedModels")
    views = {"--diff": FLAGS.diff is not None, "--by": FLAGS.by is not None, "--top": FLAGS.top is not None}
    asked = next((name for name, given in views.items() if given), None)
    if FLAGS.convention == "all" and (FLAGS.format != "table" or asked):
        wanted = asked or f"--format {FLAGS.format}"
        raise cli.UsageError(f"--convention all gives a table of totals; for {wanted} name one convention")
    if asked and FLAGS.format not in SUMS:
        raise cli.UsageError(f"--format {FLAGS.format} gives every node of one network; for {asked} choose {', '.join(SUMS)}")
    if views["--diff"] and views["--by"]:
        raise cli.UsageError("--diff compares node by node; leave --by out, or count both folders by it")
    if FLAGS.depth is not None and FLAGS.by != groups.MODULE:
        raise cli.UsageError("--depth is that of modules; add --by module, or leave it out")


def node_data(report: Report) -> str:
    """The metric for the graphs that Model Explorer makes of the file, and for that of --format model_explorer_graph."""
    with cli.hushed():
        from tools.bodies import bodies

        found = bodies(FLAGS.load_folder, report.entry)
    return model_explorer.node_data_text(report, FLAGS.metric, found)


def one(report: Report) -> str:
    """A single report in the view and format that the flags ask for."""
    if FLAGS.by is not None or FLAGS.top is not None:
        view = groups.view(report, FLAGS.by or groups.NODE, FLAGS.depth or 1, FLAGS.top, FLAGS.metric)
        return SUMS[FLAGS.format](view)
    return node_data(report) if FLAGS.format == "model_explorer" else FORMATS[FLAGS.format](report)


def folder_report(folder: str) -> Report:
    FLAGS.load_folder = folder
    return cli.load_report()


def main(*folders: str) -> int:
    if FLAGS.reconcile:
        cli.output(published.reconciled(), FLAGS.output)
        return 0
    check_flags(folders)
    if FLAGS.diff is not None:
        reports = [folder_report(folder) for folder in (FLAGS.diff, *folders)]
        text = CHANGES[FLAGS.format](diff(reports[0], reports[1], FLAGS.top, FLAGS.metric))
    elif FLAGS.convention == "all":
        reports = cli.load_reports(CONVENTIONS)
        text = table.side_by_side(reports)
    else:
        reports = [cli.load_report()]
        text = one(reports[0])
    cli.output(text, FLAGS.output)
    unknown = [row for report in (reports if FLAGS.diff is not None else reports[:1]) for row in report.unknown]
    if FLAGS.strict and unknown:
        print(f"count.py: not counted: {'; '.join(map(table.unknown, unknown))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    cli.define_network_flags("all")
    flags.adopt_module_key_flags(cli)
    flags.DEFINE_enum("format", "table", ["table", "json", "csv", "model_explorer", "model_explorer_graph"], "what to print")
    flags.DEFINE_enum("by", None, groups.BY, "sum over modules, ops or nodes [one line a node, with its shapes]")
    flags.DEFINE_integer("depth", None, "levels of a module's path [1]", lower_bound=1)
    flags.DEFINE_integer("top", None, "keep so many, the dearest by --metric; the rest is summed", lower_bound=1)
    flags.DEFINE_enum("metric", "operations", list(groups.METRICS), "what --top ranks by, and Model Explorer shows")
    flags.DEFINE_string("diff", None, "two folders, before and after: compares them node by node")
    flags.DEFINE_bool("strict", False, "exit with 1 where a node has no rule")
    flags.DEFINE_bool(
        "reconcile", False, "every count that the documents print, beside ours, with the reason where they differ"
    )
    flags.DEFINE_string("output", None, "file to write instead of stdout")
    cli.run(main, positional=1)

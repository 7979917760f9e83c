#!/usr/bin/env python3
"""Counts a SavedModel node by node: python tools/count.py [--load_folder F] [--convention C] [--format table|json|csv].

Needs saved_model.pb alone; what depends on the weights' values is counted if the variables are there.
Exit codes: 0 done, 1 --strict and a node has no rule, 2 bad input, 130 interrupted.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from frenzy.render import data, table
from tools import cli

FORMATS = {"table": table.table, "json": data.json_text, "csv": data.csv_text}
FLAGS = flags.FLAGS


def main() -> int:
    report = cli.load_report()
    cli.output(FORMATS[FLAGS.format](report), FLAGS.output)
    if FLAGS.strict and report.unknown:
        print(f"count.py: not counted: {'; '.join(map(table.unknown, report.unknown))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    cli.define_network_flags()
    flags.adopt_module_key_flags(cli)
    flags.DEFINE_enum("format", "table", list(FORMATS), "table for people, json and csv for programs")
    flags.DEFINE_bool("strict", False, "exit with 1 where a node has no rule")
    flags.DEFINE_string("output", None, "file to write instead of stdout")
    cli.run(main)

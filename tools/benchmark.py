#!/usr/bin/env python3
"""Measures what the project costs to run: python tools/benchmark.py SUBCOMMAND [--repeats 5] [--output FILE.json].

  account    reading and accounting a SavedModel, over networks of more and more nodes: seconds a thousand nodes
  train      a training step of ours beside Model.fit and PyTorch (where it is installed), and what augmentation takes of it
  compress   a training step of a network wrapped by each method of compress.py beside one of the plain network
  infer      what standalone_inference.py chooses beside every engine that is installed: images/s, share of the GEMM peak, memory
  score      what standalone_inference.py adds to a network: scoring all test images, and its start
  optimize   a graph as tools/export.py --optimize writes it beside the original, in the same engines
  search     a step of a single-path search's supernet beside one of the plain network: time and memory
All that is compared takes turns in one run; the table gives medians and between what the samples lie, the file every sample,
the machine, the date, the command and the versions. Every subcommand has flags of its own: account --help.
Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

import importlib
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from frenzy.render.files import write
from tools import cli
from tools.benchmarks import document, measure

SUBCOMMANDS = ("account", "train", "compress", "infer", "score", "optimize", "search")
FLAGS = flags.FLAGS


def main(subcommand: str) -> None:
    """Measures, prints the table, and writes the record where --output says."""
    text, record = importlib.import_module(f"tools.benchmarks.{subcommand}").run(measure.Plan(FLAGS.repeats, FLAGS.warmup))
    cli.output(text, None)
    if FLAGS.output:
        write(FLAGS.output, json.dumps(record, indent=1) + "\n")
    if FLAGS.write:
        path, section = pathlib.Path(FLAGS.write), FLAGS.section or subcommand
        with cli.user_errors(document.DocumentError, OSError):
            known = path.read_text() if path.exists() else ""
            write(path, document.replaced(known, section, document.section(section, text, record)))


def chosen(arguments: list[str]) -> str | None:
    """The subcommand, which stands first; None where only help is wanted. Ends the program where there is none."""
    if arguments and arguments[0] in SUBCOMMANDS:
        return arguments[0]
    if not any(argument.startswith(("--help", "-h")) for argument in arguments):
        came = f"no subcommand {arguments[0]!r}" if arguments else "a subcommand is missing"
        cli.fail(f"{came}; first comes one of: {', '.join(SUBCOMMANDS)}")
    return None


if __name__ == "__main__":
    flags.DEFINE_integer("repeats", 5, "rounds that count", lower_bound=1)
    flags.DEFINE_integer("warmup", 1, "rounds before them that do not", lower_bound=0)
    flags.DEFINE_string("output", None, "JSON file to write besides the table")
    flags.DEFINE_string("write", None, "Markdown file whose section is renewed: BENCHMARKS.md")
    flags.DEFINE_string(
        "section", None, "the section's name in it, where several runs of a subcommand stand there [the subcommand]"
    )
    if name := chosen(sys.argv[1:]):
        module = importlib.import_module(f"tools.benchmarks.{name}")
        module.define_flags()
        flags.adopt_module_key_flags(module)
    cli.run(main, positional=1)

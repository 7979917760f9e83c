#!/usr/bin/env python3
"""Draws a SavedModel with what each node costs: python tools/visualize.py [--load_folder F] [--output G.png] [--collapse].

The suffix of --output decides: .png, .svg, .pdf, or .dot, the source, which needs no graphviz. Darker is dearer.
Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from frenzy.render import picture
from tools import cli

FLAGS = flags.FLAGS


def main() -> None:
    picture.check(FLAGS.output)
    picture.draw(cli.load_report(), FLAGS.output, FLAGS.collapse)
    print(f"wrote {FLAGS.output}")


if __name__ == "__main__":
    cli.define_network_flags()
    flags.adopt_module_key_flags(cli)
    flags.DEFINE_string("output", "graph_visualization.png", "file to write: .png, .svg, .pdf or .dot")
    flags.DEFINE_bool("collapse", False, "draw batch normalisation, bias and activation inside the conv beside them")
    cli.run(main)

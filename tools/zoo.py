#!/usr/bin/env python3
"""Lists the networks that can be built by name: python tools/zoo.py [--name 'wrn_*' ...].

Each is built and counted as it is printed: trainable parameters (BN's scales and shifts too) and multiply-accumulates an
image of convs and dense layers, from the tf_keras layers. tools/count.py counts exported ones, by any convention.
Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

import fnmatch
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from frenzy.render.units import grouped
from tools import cli

FLAGS = flags.FLAGS
LINE = "{:<31}  {:>10}  {:>13}  {:>9}  {:>4}  {}"


def chosen(patterns: list[str], names: list[str]) -> list[str]:
    """The names that match any pattern, in the order of the zoo. Raises UsageError for a pattern that none matches."""
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise cli.UsageError(f"--name={pattern}: no network of that name; known: {', '.join(names)}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def main() -> int:
    with cli.hushed():
        import tf_keras as keras

        from frenzy import models
        from frenzy.models.macs import count_macs
    names = chosen(FLAGS.name, list(models.ZOO))
    cli.output(LINE.format("network", "parameters", "MACs", "input", "out", "source") + "\n", None)
    for name in names:
        with cli.hushed():
            keras.backend.clear_session()
            model = models.build(name)
        parameters = sum(math.prod(v.shape) for v in model.trainable_weights)
        size, entry = "x".join(map(str, model.input_shape[1:])), models.ZOO[name]
        line = LINE.format(name, grouped(parameters), grouped(count_macs(model)), size, entry.num_classes, entry.source)
        cli.output(line + "\n", None)
    return 0


if __name__ == "__main__":
    flags.DEFINE_multi_string("name", ["*"], "networks to list: a name, or a pattern with * and ?; may be repeated")
    cli.run(main)

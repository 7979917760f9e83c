#!/usr/bin/env python3
"""Measures a table of latencies of a network's layers: python tools/latency.py --network alexnet_cifar --table latency.json.

Every shape of layer is measured alone, on LiteRT with XNNPACK or on TensorFlow, at some widths from the narrowest that
tools/netadapt.py cuts to, up to the network's own. What the file has already is not measured again: a run that was stopped goes on,
and a second network shares what it has in common with the first. --check 10 then measures so many random cuts of the network
whole, beside what the table predicts. Weights do not matter; a network of one's own is named by --load_folder.
Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np
from absl import flags

from tools import cli, session

FLAGS = flags.FLAGS
LINE = "{:>7}  {:>12}  {:>12}  {:>12}  {:>8}"


def define_table_flags() -> None:
    """What tells one table from another."""
    flags.DEFINE_string("table", "latency.json", "the file of the table")
    flags.DEFINE_enum("runtime", "litert", ["litert", "tensorflow"], "what runs the networks that are measured")
    flags.DEFINE_integer("threads", 1, "of that runtime", lower_bound=1)
    flags.DEFINE_integer("images", 1, "images a call", lower_bound=1)


def open_table():
    """The table that the flags name, empty where there is no file yet. Raises LatencyError."""
    from frenzy import latency

    runtime = latency.Runtime(FLAGS.runtime, FLAGS.threads, FLAGS.images)
    latency.set_threads(runtime)
    return latency.Table(FLAGS.table, runtime)


def load_network():
    """The network of --load_folder, as it was written, or --network with fresh weights."""
    from frenzy import export, models

    with cli.user_errors(models.UnknownNetworkError, ValueError, export.ExportError, KeyError, TypeError):
        if not FLAGS.load_folder:
            return models.build(FLAGS.network)
        if carried := session.adapted_network(FLAGS.load_folder):
            return carried
        card = export.read_card(FLAGS.load_folder)
        return models.build(card["name"], len(card["class_names"]), tuple(card["input_shape"]))


def random_cuts(channels, count: int, multiple: int) -> list[np.ndarray]:
    """Masks of classes that are alive: every group at a random width."""
    from frenzy.compress.netadapt import schedule

    random, norms, found = np.random.default_rng(0), channels.norms(), []
    for _ in range(count):
        gone: list[int] = []
        for group in channels.groups:
            size = len(group.classes)
            gone += schedule.strongest(group, norms, int(random.choice([size, *schedule.widths(size, multiple)])))
        found.append(channels.without(gone))
    return found


def compare(table, channels) -> str:
    """Predicted and measured latency of random cuts, and how far off the median one is."""
    from frenzy import latency

    cuts = random_cuts(channels, FLAGS.check, FLAGS.multiple)
    predicted = [table.of(channels.layers(alive)) for alive in cuts]
    timings = latency.measure([latency.compiled(channels.cut(alive), table.runtime) for alive in cuts], FLAGS.rounds)
    lines = [LINE.format("cut", "predicted/ms", "median/ms", "least/ms", "off")]
    off = [guess / each.median - 1 for guess, each in zip(predicted, timings, strict=True)]
    for number, (guess, each, error) in enumerate(zip(predicted, timings, off, strict=True), 1):
        lines.append(
            LINE.format(number, f"{1e3 * guess:.3f}", f"{1e3 * each.median:.3f}", f"{1e3 * each.least:.3f}", f"{error:+.1%}")
        )
    lines.append(f"median of {len(off)} cuts: {statistics.median(map(abs, off)):.1%} off")
    return "\n".join(lines)


def main() -> None:
    with cli.hushed():
        from frenzy import latency
        from frenzy.compress import CompressError, netadapt
        from frenzy.compress.netadapt import schedule
    with cli.user_errors(latency.LatencyError, CompressError, OSError):
        table = open_table()
        channels = netadapt.Channels(load_network())
        least = schedule.floor(channels, channels.norms(), FLAGS.multiple)
        plans = latency.plan(channels.layers(), least.layers, FLAGS.points)
        begin = time.monotonic()

        def told(done: int, count: int) -> None:
            left = (time.monotonic() - begin) / done * (count - done)
            end = "\n" if done == count or not sys.stderr.isatty() else "  "
            start = "\r" if sys.stderr.isatty() else ""
            print(f"{start}{done}/{count} networks measured, {left / 60:.1f} min left", end=end, file=sys.stderr, flush=True)

        table.build(plans, FLAGS.rounds, told)
        of = table.of(channels.layers())
        print(
            f"{FLAGS.table}: {len(plans)} kinds of layers, {FLAGS.runtime}, {FLAGS.threads} threads, {FLAGS.images} images a call; "
            f"{channels.model.name} takes {1e3 * of:.3f} ms by it, {1e3 * table.of(least.layers):.3f} ms cut as far as can be"
        )
        if FLAGS.check:
            print(compare(table, channels))


if __name__ == "__main__":
    define_table_flags()
    flags.DEFINE_string("network", "alexnet_cifar", "a network of tools/zoo.py")
    flags.DEFINE_string("load_folder", None, "in place of it: the SavedModel whose network is meant")
    flags.DEFINE_integer("points", 5, "widths along an axis of the table", lower_bound=2)
    flags.DEFINE_integer("rounds", 30, "calls that count, of every network", lower_bound=1)
    flags.DEFINE_integer("multiple", 8, "channels are cut to multiples of so many", lower_bound=1)
    flags.DEFINE_integer("check", 0, "random cuts to measure whole, beside what the table predicts", lower_bound=0)
    cli.run(main)

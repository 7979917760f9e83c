"""What reading and accounting cost, and how that grows: ResNets of section 4.2 of arXiv 1512.03385, deeper and deeper.

read(folder) and account(graph, convention) as tools/count.py calls them, each a subject of its own; nodes are those of the flat
graph, functions inlined. The weights' values are taken away after the export, for reading them costs by the megabyte, not by the node;
a classifier is measured a second time with them.
"""

import contextlib
import io
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from absl import flags

from tools import cli
from tools.benchmarks import measure

FLAGS = flags.FLAGS
CONVENTION = "micronet"
READ, ACCOUNT = "read", "account"
WITH = " +"  # the name of a network whose values are there ends so


def define_flags() -> None:
    flags.DEFINE_list("depths", ["20", "38", "56", "74", "92", "110"], "depths of the ResNets, 6 n + 2 each")
    flags.DEFINE_multi_string(
        "classifier", [], "a network of tf_keras.applications to measure too, NASNetLarge say; may be repeated"
    )


def parse_depths(texts: Sequence[str]) -> list[int]:
    """["20", "38"] -> [20, 38]. Raises UsageError for what is no depth of a CIFAR ResNet."""
    wrong = [text for text in texts if not (text.isascii() and text.isdigit() and int(text) >= 8 and int(text) % 6 == 2)]
    if wrong or not texts:
        raise cli.UsageError(f"--depths={','.join(texts)}: a CIFAR ResNet has 6 n + 2 layers, from 8: 20,56,110 say")
    return [int(text) for text in texts]


def networks(depths: Sequence[int], classifiers: Sequence[str], folder: pathlib.Path) -> Iterable[tuple[str, pathlib.Path]]:
    """Exports the networks, one after the other; (name, folder of the SavedModel). Raises UsageError."""
    import tf_keras as keras

    from frenzy.models import resnet

    for name in classifiers:
        if not (name[:1].isupper() and callable(getattr(keras.applications, name, None))):
            raise cli.UsageError(f"--classifier={name}: tf_keras.applications has no such network; NASNetLarge is one")
    builders = {f"resnet{depth}": partial(resnet.build, resnet.cifar(depth)) for depth in depths}
    builders |= {name: partial(getattr(keras.applications, name), weights=None) for name in classifiers}
    for name, build in builders.items():
        keras.backend.clear_session()
        whole, lean = folder / f"{name}{WITH}", folder / name
        with contextlib.redirect_stdout(io.StringIO()):
            build().export(str(whole))
        shutil.copytree(whole, lean, ignore=shutil.ignore_patterns("variables.data*"))
        yield name, lean
        if name in classifiers:
            yield whole.name, whole
        else:
            shutil.rmtree(whole)


def subjects(exported: Iterable[tuple[str, pathlib.Path]]) -> list[measure.Subject]:
    """Two a network: reading it, and accounting what was read just before, for a graph remembers what was asked of it."""
    from frenzy.accounting import account, read

    def again(folder: pathlib.Path, _: object) -> object:
        return read(folder)

    found = []
    for name, folder in exported:
        graph = read(folder)
        report = account(graph, CONVENTION)
        facts = {"network": name, "nodes": len(graph.nodes), "rows": len(report.rows), "parameters": report.totals.parameters}
        facts["megabytes"] = sum(os.path.getsize(path) for path in folder.glob("variables/variables.data*")) / 1e6
        price = partial(account, convention=CONVENTION)
        found.append(measure.Subject(f"{READ} {name}", partial(again, folder), facts={"part": READ, **facts}))
        found.append(measure.Subject(f"{ACCOUNT} {name}", price, partial(read, folder), {"part": ACCOUNT, **facts}))
    return found


def totals(timings: Sequence[measure.Timing]) -> list[measure.Timing]:
    """Reading and accounting of each network in one, round by round, by rising number of nodes."""
    parts = {(each.facts["part"], each.facts["network"]): each for each in timings}
    found = []
    for (part, network), each in parts.items():
        if part == READ:
            seconds = zip(each.seconds, parts[ACCOUNT, network].seconds, strict=True)
            found.append(measure.Timing(network, tuple(map(sum, seconds)), {**each.facts, "part": "both"}))
    return sorted(found, key=lambda each: each.facts["nodes"])


def per_thousand(timing: measure.Timing) -> float:
    """Seconds a thousand nodes."""
    return 1000 * timing.spread.median / timing.facts["nodes"]


def table(timings: Sequence[measure.Timing]) -> str:
    """A line a network in at most 80 characters, then how the cost grows with the nodes."""
    both = totals(timings)
    parts = {each.name: each.spread.median for each in timings}
    head = f"{'network':16} {'nodes':>7} {'read s':>8} {'account s':>9} {'both s':>8} {'from':>8} {'to':>8} {'s/1000':>8}"
    lines = [head, "-" * len(head)]
    for each in both:
        spread = each.spread
        lines.append(
            f"{each.name[:16]:16} {each.facts['nodes']:>7,} {parts[f'{READ} {each.name}']:>8.3f} "
            f"{parts[f'{ACCOUNT} {each.name}']:>9.3f} {spread.median:>8.3f} {spread.least:>8.3f} {spread.most:>8.3f} "
            f"{per_thousand(each):>8.4f}"
        )
    lines += ["", f"rounds in which all took turns: {len(both[0].seconds)}; medians; s/1000: a thousand nodes"]
    lines += [f"{each.name}: with {each.facts['megabytes']:,.0f} MB of values" for each in both if each.facts["megabytes"]]
    without = [each for each in both if not each.facts["megabytes"]]
    small, large = without[0], without[-1]
    if (fit := growth(both)) is not None:
        times, cost = large.facts["nodes"] / small.facts["nodes"], large.ratio(small)
        lines += [
            f"line: {1000 * fit.slope:.4f} s a thousand nodes, and {fit.offset:+.4f} s; R^2 {fit.r2:.4f}",
            f"{large.name} / {small.name}: {times:.2f} times the nodes,",
            f"  {cost.median:.2f} times the seconds ({cost.least:.2f} to {cost.most:.2f})",
            f"a node costs {per_thousand(large) / per_thousand(small):.2f} times as much in the largest as in the smallest",
        ]
    return "\n".join(lines) + "\n"


def growth(both: Sequence[measure.Timing]) -> measure.Line | None:
    """Seconds over nodes, by the medians, of networks without values."""
    return measure.line([(each.facts["nodes"], each.spread.median) for each in both if not each.facts["megabytes"]])


def run(plan: measure.Plan) -> tuple[str, dict[str, Any]]:
    """The table, and the record for --output."""
    depths = parse_depths(FLAGS.depths)
    with tempfile.TemporaryDirectory() as folder, cli.hushed():
        timings = measure.measure(subjects(networks(depths, FLAGS.classifier, pathlib.Path(folder))), plan)
    both = totals(timings)
    fit, without = growth(both), [each for each in both if not each.facts["megabytes"]]
    grown = {"largest_to_smallest": per_thousand(without[-1]) / per_thousand(without[0]), "line": fit and vars(fit)}
    return table(timings), measure.record([*timings, *both], plan, benchmark="account", convention=CONVENTION, **grown)

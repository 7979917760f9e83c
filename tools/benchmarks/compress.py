"""What a wrapped network costs to train: a step under every method of tools/compress.py beside a step of the plain network.

Every subject is a process of its own that sleeps until its turn, as for `train`; all of them run the loop of this project.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import flags

from tools import cli
from tools.benchmarks import measure, train, trainers, workers

FLAGS = flags.FLAGS
METHODS = ("ttq", "one_negative_one", "hysteresis", "mcdonnell", "int8", "prune", "cluster")
PLAIN = "plain"


def define_flags() -> None:
    from tools import session

    flags.DEFINE_multi_enum("recipe", ["microbotnet_x032_cifar10"], session.RECIPES, "whose network to train; may be repeated")
    flags.DEFINE_multi_enum("method", list(METHODS), METHODS, "how it is wrapped; may be repeated")
    flags.DEFINE_integer("batch_size", None, "in place of the recipe's", lower_bound=1)
    flags.DEFINE_float("seconds", 3.0, "how long a sample of the plain network lasts, about", lower_bound=0.0)
    flags.DEFINE_integer("threads", None, "cores to use [all]", lower_bound=1)


def timings_of(
    case: train.Case, methods: Sequence[str], plan: measure.Plan, threads: int, seconds: float
) -> list[measure.Timing]:
    """The plain network, then every method, by turns. Raises WorkerError."""
    recipe = trainers.endless(case.recipe, augmented=True)
    with contextlib.ExitStack() as stack:
        started = []
        for method in (None, *methods):
            name = method or PLAIN
            worker = workers.Worker(name, trainers.ours, recipe, threads, method, threads=threads)
            stack.callback(worker.close)
            worker.run(1)  # graphs are built in the first step
            started.append((train.Kind(name, trainers.ours, True), worker))
        steps = train.steps_a_sample(started[0][1], seconds)
        facts = {"recipe": case.name, "network": recipe.network, "precision": recipe.precision, "batch_size": recipe.batch_size}
        return measure.measure([train.subject(kind, worker, steps, facts) for kind, worker in started], plan)


def throughputs(timings: Sequence[measure.Timing]) -> dict[str, measure.Spread]:
    """{method: images a second over those of the plain network}, round by round."""
    plain, *wrapped = timings
    return {each.name: plain.ratio(each) for each in wrapped}


def table(case: train.Case, timings: Sequence[measure.Timing]) -> str:
    """A line a method in at most 80 characters."""
    recipe, steps, found = case.recipe, timings[0].facts["steps"], throughputs(timings)
    head = f"{'':18} {'ms/step':>9} {'from':>9} {'to':>9} {'images/s':>9} {'of plain':>9}"
    lines = [f"{recipe.network}, {recipe.precision}", head, "-" * len(head)]
    for each in timings:
        median, least, most = (1000 * value / steps for value in dataclasses.astuple(each.spread))
        share = f" {found[each.name].median:>8.2f}x" if each.name in found else ""
        lines.append(
            f"{each.name:18} {median:>9.1f} {least:>9.1f} {most:>9.1f} {1000 * recipe.batch_size / median:>9,.0f}{share}"
        )
    lines.append(f"batches of {recipe.batch_size}, steps a sample: {steps}, samples: {len(timings[0].seconds)}; medians")
    return "\n".join(lines) + "\n"


def run(plan: measure.Plan) -> tuple[str, dict[str, Any]]:
    """The tables, and the record for --output."""
    threads = measure.threads_or_all(FLAGS.threads)
    texts, every, found = [], [], []
    for case in train.cases(FLAGS.recipe, "float32", FLAGS.batch_size):
        with cli.user_errors(workers.WorkerError):
            timings = timings_of(case, FLAGS.method, plan, threads, FLAGS.seconds)
        texts.append(table(case, timings))
        every += timings
        shares = {name: dataclasses.asdict(spread) for name, spread in throughputs(timings).items()}
        found.append({"recipe": case.name, "throughput_of_plain": shares})
    texts.append(f"threads: {threads}; with augmentation, float32\n")
    return "\n".join(texts), measure.record(every, plan, benchmark="compress", threads=threads, summary=found)

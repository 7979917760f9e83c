"""Optimised graphs beside the originals, in the same engines: what tools/export.py --optimize saves, and that it costs nothing.

Every graph in every engine is a process of its own that sleeps until its turn.
"""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

from absl import flags

from tools import cli
from tools.benchmarks import engines_peers, infer, measure, workers

FLAGS = flags.FLAGS
ENGINES = ("TensorFlow", "LiteRT", "OpenVINO", "OpenVINO bfloat16")
GRAPHS = ("original", "optimised")
LEAST = 0.97  # of the original's speed
COUNTED = "micronet-baseline-bn"  # charges every BN and every channel that is in the graph


@dataclasses.dataclass(frozen=True)
class Pair:
    """One engine's two timings."""

    engine: str
    batch: int
    original: measure.Timing
    optimised: measure.Timing

    @property
    def speed(self) -> measure.Spread:
        """The optimised graph's speed in terms of the original's."""
        return self.original.ratio(self.optimised)


def define_flags() -> None:
    flags.DEFINE_multi_string("load_folder", [], "exported SavedModel; may be repeated [SavedModel/, without --network]")
    flags.DEFINE_multi_string("network", [], "a network of tools/zoo.py with fresh weights; may be repeated")
    flags.DEFINE_list("batch_sizes", ["1", "256"], "images a call")
    flags.DEFINE_integer("threads", None, "cores to use [all]", lower_bound=1)
    flags.DEFINE_multi_enum("engine", list(ENGINES), list(ENGINES), "subjects; may be repeated")
    flags.DEFINE_integer(
        "starts", 1, "sets of processes, one after the other; a process keeps its luck with memory", lower_bound=1
    )
    flags.DEFINE_float("seconds", 0.5, "how long a sample lasts, about; it has at least one call", lower_bound=0.0)
    flags.DEFINE_string("data_dir", None, "folder with the data [$FRENZY_DATA, the tf_keras cache]")


def optimised(case: infer.Case) -> tuple[str, float, float]:
    """The folder of the optimised graph, beside the original's; operations before and after. Raises UsageError."""
    with cli.hushed():
        from frenzy import optimize
        from frenzy.accounting import account, read
    folder = pathlib.Path(case.folder).parent / "optimised" / "SavedModel"
    with cli.user_errors(optimize.OptimizeError), cli.hushed():
        optimize.optimize(case.folder, folder)
        before, after = (float(account(read(each), COUNTED).totals.operations) for each in (case.folder, folder))
    return str(folder), before, after


def pairs_of(
    folders: Sequence[str], batch: int, threads: int, engines: Sequence[str], plan: measure.Plan, seconds: float
) -> tuple[list[Pair], dict[str, str]]:
    """All engines on both graphs by turns, and {engine: why it is missing}."""
    missing: dict[str, str] = {}
    started: list[workers.Worker] = []
    known: list[str] = []
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as scratch:
        facts = f"{scratch}/facts.json"
        for peer in engines_peers.PEERS:
            if peer.name not in engines:
                continue
            if not peer.installed:
                missing[peer.name] = "not installed"
                continue
            own = []
            try:
                for graph, folder in zip(GRAPHS, folders, strict=True):
                    setting = engines_peers.Setting(folder, batch, threads, facts)
                    own.append(workers.Worker(f"{peer.name}, {graph}", engines_peers.main, peer.name, setting, threads=threads))
                    stack.callback(own[-1].close)
            except workers.WorkerError as error:
                missing[peer.name] = str(error)
                continue
            known.append(peer.name)
            started += own
        subjects = []
        for original, other in zip(started[::2], started[1::2], strict=True):
            calls = infer.calls_a_sample(original.run, seconds)
            for worker in (original, other):
                run = functools.partial(_run, worker, calls)
                subjects.append(measure.Subject(worker.name, run, facts={"calls": calls}))
        timings = [infer.per_call(each) for each in measure.measure(subjects, plan)]
    return [Pair(name, batch, *timings[2 * i : 2 * i + 2]) for i, name in enumerate(known)], missing


def pooled(runs: Sequence[Sequence[Pair]]) -> list[Pair]:
    """The timings of several starts, an engine's one after the other; of the engines that ran at every start."""
    named = [{pair.engine: pair for pair in run} for run in runs]
    found = []
    for name in [name for name in named[0] if all(name in run for run in named)]:
        original, other = (
            dataclasses.replace(timings[0], seconds=tuple(s for timing in timings for s in timing.seconds))
            for timings in zip(*((run[name].original, run[name].optimised) for run in named), strict=True)
        )
        found.append(Pair(name, named[0][name].batch, original, other))
    return found


def _run(worker: workers.Worker, calls: int, _: Any) -> None:
    worker.run(calls)


def converted(folders: Sequence[str]) -> str | None:
    """What LiteRT's converter, which folds on its own, makes of both graphs; None where it refuses one."""
    with cli.hushed():
        import standalone_inference as script
        from frenzy import litert
    files = [script.Network(pathlib.Path(folder)).cache.folder / "float32.tflite" for folder in folders]
    if not all(file.is_file() for file in files):
        return None
    before, after = (litert.operations(file.read_bytes()) for file in files)
    if before == after:
        return f"LiteRT runs the same {len(before)} operations on the same shapes for both"
    return f"LiteRT runs {len(before)} operations for the original, {len(after)} for the optimised"


def table(
    case: infer.Case,
    operations: tuple[float, float],
    pairs: Sequence[Pair],
    missing: dict[str, str],
    conversion: str | None = None,
) -> str:
    """A line an engine and batch size, in at most 80 characters."""
    before, after = operations
    head = f"{'engine':18} {'images':>6} {'ms original':>12} {'ms optimised':>12} {'speed':>6} {'from':>6} {'to':>6}"
    lines = [case.name, f"{before:,.0f} operations -> {after:,.0f} by {COUNTED}", head, "-" * len(head)]
    for each in pairs:
        ms = [1000 * timing.spread.median for timing in (each.original, each.optimised)]
        speed = each.speed
        lines.append(
            f"{each.engine:18} {each.batch:>6} {ms[0]:>12.3f} {ms[1]:>12.3f} {speed.median:>6.2f} {speed.least:>6.2f} "
            f"{speed.most:>6.2f}"
        )
    lines += [conversion] if conversion else []
    return "\n".join([*lines, *(f"{name} was left out: {why}" for name, why in missing.items())]) + "\n"


def run(plan: measure.Plan) -> tuple[str, dict[str, Any]]:
    """The tables, and the record for --output."""
    batches = infer.whole_numbers("batch_sizes", FLAGS.batch_sizes)
    threads = measure.threads_or_all(FLAGS.threads)
    folders = FLAGS.load_folder or ([] if FLAGS.network else ["SavedModel/"])
    texts, every = [], []
    with tempfile.TemporaryDirectory() as work, cli.user_errors(workers.WorkerError):
        for case in infer.cases(folders, FLAGS.network, pathlib.Path(work)):
            other, *operations = optimised(case)
            for folder in (case.folder, other):
                setting = engines_peers.Setting(folder, 1, threads, f"{work}/facts.json")
                workers.Worker(case.name, engines_peers.prepare, setting, threads=threads).close()
            found: list[Pair] = []
            missing: dict[str, str] = {}
            for batch in batches:
                runs = []
                for _ in range(FLAGS.starts):
                    pairs, absent = pairs_of((case.folder, other), batch, threads, FLAGS.engine, plan, FLAGS.seconds)
                    runs.append(pairs)
                    missing |= absent
                found += pooled(runs)
            texts.append(table(case, (operations[0], operations[1]), found, missing, converted((case.folder, other))))
            for each in found:
                facts = {"network": case.name, "batch_size": each.batch, "threads": threads, "engine": each.engine}
                every += [dataclasses.replace(timing, facts=facts) for timing in (each.original, each.optimised)]
            shutil.rmtree(pathlib.Path(case.folder).parent)
    samples = f"samples: {FLAGS.starts * plan.repeats} of about {FLAGS.seconds:g} s, medians"
    texts.append(f"{samples}; speed: of the original's, {LEAST} at least\n")
    return "\n".join(texts), measure.record(every, plan, benchmark="optimize", starts=FLAGS.starts, engines=infer.versions())

"""What a search costs: a step of a supernet beside a step of the plain network with the same convolutions, by the same loop.

Both are processes of their own that take turns. The supernet's step has the penalty and the controller that the search has; memory
is the most that each process ever held, less what it held before its first step.
"""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from absl import flags

from frenzy.training.recipe import Recipe
from tools import cli
from tools.benchmarks import measure, train, trainers, workers

FLAGS = flags.FLAGS
PLAIN, SUPERNET = "plain network", "supernet"
ALLOWED = 1.15
SHARE = 0.5  # of the whole network's operations: the budget


def define_flags() -> None:
    flags.DEFINE_string("network", "frenzy_small", "a network of the zoo")
    flags.DEFINE_integer("batch_size", 128, "images a step", lower_bound=1)
    flags.DEFINE_enum("precision", "float32", ["float32", "mixed_bfloat16"], "policy of both")
    flags.DEFINE_float("seconds", 3.0, "how long a sample lasts, about; it has at least one step", lower_bound=0.0)
    flags.DEFINE_integer("threads", None, "cores to use [all]", lower_bound=1)


def plain(turns: workers.Turns, recipe: Recipe, threads: int) -> None:
    """frenzy.training.fit of the plain network."""
    _trained(turns, recipe, threads, searched=False)


def searched(turns: workers.Turns, recipe: Recipe, threads: int) -> None:
    """frenzy.training.fit of its supernet, with penalty and controller."""
    _trained(turns, recipe, threads, searched=True)


def _trained(turns: workers.Turns, recipe: Recipe, threads: int, searched: bool) -> None:
    import tensorflow as tf

    from frenzy.compress import single_path
    from frenzy.training import fit, run

    tf.config.experimental.enable_op_determinism()
    split, model = trainers.set_up(recipe, threads)
    callbacks: list[Any] = [trainers.by_turns(turns)]
    if searched:
        net = single_path.supernet(model)
        objective = single_path.operations()
        budget = SHARE * objective.of(net.network, net.whole())
        state = single_path.penalize(net, objective, budget)
        callbacks.append(single_path.Controller(net, objective, budget, state, single_path.Plan()))
        model = net.model
    with tempfile.TemporaryDirectory() as folder:
        record = run.Run(pathlib.Path(folder) / "run", recipe, {"data_sha256": split.sha256}, resume=False)
        fit.fit(model, split, recipe, record, callbacks, save_every=10**9)


def memory(worker: workers.Worker, field: str) -> int | None:
    """Bytes of a worker: VmHWM, the most so far, or VmRSS, now; None where the system does not say."""
    path = pathlib.Path(f"/proc/{worker.process.pid}/status")
    lines = path.read_text().splitlines() if path.is_file() else []
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return 1024 * int(found[0]) if found else None


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes before the first step, and the most that were held after the last."""

    before: int | None
    most: int | None

    @property
    def steps(self) -> int | None:
        """What the steps took."""
        return None if self.before is None or self.most is None else self.most - self.before


def timings_of(recipe: Recipe, plan: measure.Plan, threads: int, seconds: float) -> tuple[list[measure.Timing], list[Memory]]:
    """The plain network and its supernet by turns. Raises WorkerError."""
    with contextlib.ExitStack() as stack:
        started, before = [], []
        for name, main in ((PLAIN, plain), (SUPERNET, searched)):
            worker = workers.Worker(name, main, recipe, threads, threads=threads)
            stack.callback(worker.close)
            before.append(memory(worker, "VmRSS"))
            worker.run(1)  # graphs are built in the first step
            started.append(worker)
        steps = train.steps_a_sample(started[0], seconds)
        facts = {"network": recipe.network, "precision": recipe.precision, "batch_size": recipe.batch_size}
        kinds = [train.Kind(worker.name, plain, True) for worker in started]
        subjects = [train.subject(kind, worker, steps, facts) for kind, worker in zip(kinds, started, strict=True)]
        timings = measure.measure(subjects, plan)
        most = [memory(worker, "VmHWM") for worker in started]
    return timings, [Memory(*each) for each in zip(before, most, strict=True)]


def table(recipe: Recipe, timings: Sequence[measure.Timing], memories: Sequence[Memory]) -> str:
    """A line a subject in at most 80 characters, and the ratios."""
    steps = timings[0].facts["steps"]
    head = f"{'':14} {'ms/step':>9} {'from':>9} {'to':>9} {'images/s':>9} {'MB most':>9} {'of steps':>9}"
    lines = [f"{recipe.network}, {recipe.precision}", head, "-" * len(head)]
    for each, held in zip(timings, memories, strict=True):
        median, least, most = (1000 * value / steps for value in dataclasses.astuple(each.spread))
        sizes = [f"{'-' if value is None else f'{value / 1e6:,.0f}':>9}" for value in (held.most, held.steps)]
        speed = 1000 * recipe.batch_size / median
        lines.append(f"{each.name:14} {median:>9.1f} {least:>9.1f} {most:>9.1f} {speed:>9,.0f} {' '.join(sizes)}")
    ratio = timings[1].ratio(timings[0])
    lines.append(f"supernet over plain: {ratio.median:.3f} ({ratio.least:.3f} to {ratio.most:.3f}); {ALLOWED} is allowed")
    if (share := memory_ratio(memories)) is not None:
        lines.append(f"most memory of the processes, supernet over plain: {share:.3f}")
    lines.append(f"batches of {recipe.batch_size}, steps a sample: {steps}, samples: {len(timings[0].seconds)}; medians")
    return "\n".join(lines) + "\n"


def memory_ratio(memories: Sequence[Memory]) -> float | None:
    own, other = memories[1].most, memories[0].most
    return None if own is None or other is None else own / other


def run(plan: measure.Plan) -> tuple[str, dict[str, Any]]:
    """The table, and the record for --output."""
    threads = measure.threads_or_all(FLAGS.threads)
    recipe = Recipe(
        network=FLAGS.network, dataset="cifar10", epochs=10**6, batch_size=FLAGS.batch_size, precision=FLAGS.precision
    )
    with cli.user_errors(workers.WorkerError):
        timings, memories = timings_of(recipe, plan, threads, FLAGS.seconds)
    found = {
        "supernet_over_plain": dataclasses.asdict(timings[1].ratio(timings[0])),
        "memory": {each.name: dataclasses.asdict(held) for each, held in zip(timings, memories, strict=True)},
        "memory_supernet_over_plain": memory_ratio(memories),
    }
    return table(recipe, timings, memories), measure.record(timings, plan, benchmark="search", threads=threads, **found)

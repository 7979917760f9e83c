"""How fast training goes: the loop of this project beside tf_keras's Model.fit and PyTorch, on the same networks.

Every subject is a process of its own that sleeps until its turn; a sample is so many steps of one of them. Where PyTorch is not
installed, its row is left out.
"""

import contextlib
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from tools import cli
from tools.benchmarks import measure, trainers, workers

FLAGS = flags.FLAGS
DEFAULT = ["microbotnet_x032_cifar10", "wrn_22_6_cifar100"]


@dataclasses.dataclass(frozen=True)
class Kind:
    """One way to train; peers are compared with ours of the same augmentation."""

    text: str
    main: workers.Main
    augmented: bool


OURS = Kind("ours, augmented", trainers.ours, True)
OURS_PLAIN = Kind("ours, not augmented", trainers.ours, False)
TORCH = Kind("PyTorch, one batch", trainers.pytorch, False)
KINDS = (
    OURS,
    OURS_PLAIN,
    Kind("Model.fit, augmented", trainers.keras_fit, True),
    Kind("Model.fit, one batch", trainers.keras_fit, False),
    TORCH,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """What all subjects of one table train: a recipe, by its name and as it is here."""

    name: str
    recipe: Any


def define_flags() -> None:
    from tools import session

    flags.DEFINE_multi_enum(
        "recipe", DEFAULT, session.RECIPES, "whose network, batch and augmentation to train; may be repeated"
    )
    flags.DEFINE_enum("precision", None, ["float32", "mixed_bfloat16"], "[float32, and the recipe's own]")
    flags.DEFINE_integer("batch_size", None, "in place of the recipe's", lower_bound=1)
    flags.DEFINE_float("seconds", 3.0, "how long a sample of ours lasts, about; it has at least one step", lower_bound=0.0)
    flags.DEFINE_integer("threads", None, "cores to use [all]", lower_bound=1)


def cases(names: Sequence[str], precision: str | None, batch_size: int | None) -> list[Case]:
    """A recipe once for every precision that is asked for. Raises UsageError."""
    from tools.session import RecipeError

    found = []
    for name in names:
        recipe = importlib.import_module(f"tools.recipes.{name}").RECIPE
        for each in [precision] if precision else sorted({"float32", recipe.precision}):
            with cli.user_errors(RecipeError):
                changed = dataclasses.replace(recipe, precision=each, batch_size=batch_size or recipe.batch_size)
            found.append(Case(name, changed))
    return found


def kinds() -> list[Kind]:
    """Those that can be measured here."""
    return [kind for kind in KINDS if kind is not TORCH or importlib.util.find_spec("torch")]


def steps_a_sample(worker: workers.Worker, seconds: float, clock: Callable[[], float] = time.perf_counter) -> int:
    """How many steps last so long, as the second step from here goes; at least 1."""
    worker.run(1)
    begin = clock()
    worker.run(1)
    return max(1, round(seconds / (clock() - begin)))


def subject(kind: Kind, worker: workers.Worker, steps: int, facts: Mapping[str, Any]) -> measure.Subject:
    """A sample of it is so many steps."""

    def sample(_: object) -> None:
        worker.run(steps)

    return measure.Subject(kind.text, sample, facts={**facts, "steps": steps, "augmented": kind.augmented})


def timings_of(case: Case, plan: measure.Plan, threads: int, seconds: float) -> list[measure.Timing]:
    """All kinds by turns. Raises WorkerError."""
    with contextlib.ExitStack() as stack:
        started = []
        for kind in kinds():
            recipe = trainers.endless(case.recipe, kind.augmented)
            worker = workers.Worker(kind.text, kind.main, recipe, threads, threads=threads)
            stack.callback(worker.close)
            worker.run(1)  # graphs are built in the first step
            started.append((kind, worker))
        steps = steps_a_sample(started[0][1], seconds)
        facts = {"recipe": case.name, "network": case.recipe.network, "precision": case.recipe.precision}
        facts["batch_size"] = case.recipe.batch_size
        return measure.measure([subject(kind, worker, steps, facts) for kind, worker in started], plan)


def ratios(timings: Sequence[measure.Timing]) -> dict[str, measure.Spread]:
    """{peer: its seconds over ours with the same augmentation}; above 1 ours is faster."""
    own = {each.facts["augmented"]: each for each in timings if each.name in (OURS.text, OURS_PLAIN.text)}
    return {each.name: each.ratio(own[each.facts["augmented"]]) for each in timings if each not in own.values()}


def augmentation_share(timings: Sequence[measure.Timing]) -> measure.Spread:
    """What augmentation takes of a step of ours, 0..1."""
    own = {each.name: each for each in timings}
    pairs = zip(own[OURS.text].seconds, own[OURS_PLAIN.text].seconds, strict=True)
    return measure.Spread.of([1 - without / augmented for augmented, without in pairs])


def table(case: Case, timings: Sequence[measure.Timing]) -> str:
    """A line a subject in at most 80 characters."""
    recipe, steps, found = case.recipe, timings[0].facts["steps"], ratios(timings)
    mixup = f" and mixup {recipe.mixup}" if recipe.mixup else ""
    head = f"{'':21} {'ms/step':>9} {'from':>9} {'to':>9} {'images/s':>9} {'ours is':>8}"
    lines = [f"{recipe.network}, {recipe.precision}", head, "-" * len(head)]
    for each in timings:
        median, least, most = (1000 * value / steps for value in dataclasses.astuple(each.spread))
        times = f" {found[each.name].median:>7.2f}x" if each.name in found else ""
        speed = 1000 * recipe.batch_size / median
        lines.append(f"{each.name:21} {median:>9.1f} {least:>9.1f} {most:>9.1f} {speed:>9,.0f}{times}")
    share = augmentation_share(timings)
    lines += [
        f"batches of {recipe.batch_size}, steps a sample: {steps}, samples: {len(timings[0].seconds)}; medians",
        f"augmentation ({recipe.augmentation}{mixup}): {share.median:.1%} of a step ({share.least:.1%} to {share.most:.1%})",
    ]
    return "\n".join(lines) + "\n"


def summary(timings: Sequence[measure.Timing]) -> dict[str, Any]:
    """What the table concludes, for the record."""
    compared = {name: dataclasses.asdict(spread) for name, spread in ratios(timings).items()}
    return {
        "recipe": timings[0].facts["recipe"],
        "precision": timings[0].facts["precision"],
        "peer_over_ours": compared,
        "augmentation_share": dataclasses.asdict(augmentation_share(timings)),
    }


def run(plan: measure.Plan) -> tuple[str, dict[str, Any]]:
    """The tables, and the record for --output."""
    threads = measure.threads_or_all(FLAGS.threads)
    texts, every, found = [], [], []
    for case in cases(FLAGS.recipe, FLAGS.precision, FLAGS.batch_size):
        with cli.user_errors(workers.WorkerError):
            timings = timings_of(case, plan, threads, FLAGS.seconds)
        texts.append(table(case, timings))
        every += timings
        found.append(summary(timings))
    texts.append(f"threads: {threads}; ours is so many times as fast as the peer, each with or each without augmentation\n")
    torch = importlib.metadata.version("torch") if TORCH in kinds() else None
    if torch is None:
        texts.append("PyTorch is not installed here and was left out\n")
    return "\n".join(texts), measure.record(every, plan, benchmark="train", threads=threads, torch=torch, summary=found)

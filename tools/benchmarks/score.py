"""What standalone_inference.py adds to a network: scoring all test images beside the network's own time on them, and its start.

Scoring normalises uint8 images while others are in the network, and ranks the answers; "network" is the same engine in the same
stream on images that were normalised before. A start is a process of its own from its first line to the classes of one image file,
with what it converted and timed before in its cache.
"""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

import standalone_inference as script
from tools import cli
from tools.benchmarks import infer, measure, workers

FLAGS = flags.FLAGS
ALLOWED, ALLOWED_START = 1.15, 4.0  # of the network's own time; seconds
ROOT = pathlib.Path(script.__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Setting:
    """A SavedModel with its cache beside it, the folder with the data, images a call, threads."""

    folder: str
    data_dir: str | None
    batch: int
    threads: int


def define_flags() -> None:
    flags.DEFINE_multi_string("load_folder", [], "exported SavedModel; may be repeated [SavedModel/]")
    flags.DEFINE_integer("batch_size", 250, "images a call", lower_bound=1)
    flags.DEFINE_integer("threads", None, "cores to use [all]", lower_bound=1)
    flags.DEFINE_string("data_dir", None, "folder with the data [$FRENZY_DATA, the tf_keras cache]")


def ready(setting: Setting):
    """(engine, card, images, labels, normalise) as standalone_inference.py has them when it begins to score."""
    network = script.Network(pathlib.Path(setting.folder))
    card = script.read_card(network.folder, None)
    images, labels, _ = script.load_test_set(card["dataset"], setting.data_dir)
    normalise = script.normaliser(card, network.image_shape)
    wanted = script.Wanted(tuple(script.RUNTIMES), None, setting.threads, setting.batch)
    return script.choose(network, wanted, normalise(images[: script.AGREE_ON]))[0], card, images, labels, normalise


def survey(turns: workers.Turns, setting: Setting) -> None:
    """A worker's main that leaves the choice of an engine in the cache."""
    ready(setting)
    turns.take()


def scoring(turns: workers.Turns, setting: Setting) -> None:
    """A worker's main: a step scores all test images."""
    engine, card, images, labels, normalise = ready(setting)
    while True:
        turns.take()
        script.score(engine, setting.folder, images, labels, card, normalise)


def network(turns: workers.Turns, setting: Setting) -> None:
    """A worker's main: a step is the network's answers to all test images, which lie ready."""
    engine, _, images, _, normalise = ready(setting)
    prepared = normalise(images)
    while True:
        turns.take()
        for _ in engine.stream(len(prepared), prepared.__getitem__):
            pass


def start(folder: str, picture: pathlib.Path) -> None:
    """From nothing to the first answer, by LiteRT. Raises UsageError where there is none."""
    command = [sys.executable, str(ROOT / "standalone_inference.py"), "--load_folder", folder, "--runtime", "litert"]
    done = subprocess.run([*command, "--images", str(picture)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise cli.UsageError(done.stderr.strip() or f"standalone_inference.py ended with exit code {done.returncode}")


def _step(worker: workers.Worker, _: Any) -> None:
    worker.run(1)


def timings_of(case: infer.Case, setting: Setting, plan: measure.Plan, picture: pathlib.Path) -> list[measure.Timing]:
    """[scoring, network, start]"""
    workers.Worker("survey", survey, setting, threads=setting.threads).close()
    start(case.folder, picture)
    running = [workers.Worker(main.__name__, main, setting, threads=setting.threads) for main in (scoring, network)]
    try:
        subjects = [measure.Subject(each.name, functools.partial(_step, each)) for each in running]
        return measure.measure([*subjects, measure.Subject("start", lambda _: start(case.folder, picture))], plan)
    finally:
        for each in running:
            each.close()


def table(case: infer.Case, timings: Sequence[measure.Timing], setting: Setting) -> str:
    """Lines of at most 80 characters."""
    scored, alone, started = timings
    times = scored.ratio(alone)
    lines = [f"{case.name}, batches of {setting.batch}, threads: {setting.threads}"]
    for each, what in (
        (scored, "scoring 10,000 test images"),
        (alone, "the network alone on them"),
        (started, "start to answer"),
    ):
        spread = each.spread
        lines.append(f"{what:28} {spread.median:8.3f} s ({spread.least:.3f} to {spread.most:.3f})")
    lines.append(f"scoring over network: {times.median:.3f} ({times.least:.3f} to {times.most:.3f}); {ALLOWED} is allowed")
    lines.append(f"start: {ALLOWED_START:g} s are allowed")
    return "\n".join(lines) + "\n"


def run(plan: measure.Plan) -> tuple[str, dict[str, Any]]:
    """The tables, and the record for --output."""
    from PIL import Image

    threads = measure.threads_or_all(FLAGS.threads)
    texts, every = [], []
    with tempfile.TemporaryDirectory() as work, cli.user_errors(workers.WorkerError, script.UserError):
        for case in infer.cases(FLAGS.load_folder or ["SavedModel/"], [], pathlib.Path(work)):
            if case.sample is None:
                raise cli.UsageError(f"the test images of {case.name} are not at hand; name their folder by --data_dir")
            setting = Setting(case.folder, FLAGS.data_dir or os.environ.get("FRENZY_DATA"), FLAGS.batch_size, threads)
            picture = pathlib.Path(work, "picture.png")
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(picture)
            timings = timings_of(case, setting, plan, picture)
            texts.append(table(case, timings, setting))
            facts = {"network": case.name, "batch_size": setting.batch, "threads": threads}
            every += [dataclasses.replace(each, facts=facts) for each in timings]
    texts.append(f"samples: {plan.repeats}, medians; the cache is warm\n")
    return "\n".join(texts), measure.record(every, plan, benchmark="score", engines=infer.versions())

"""Measuring, the same for every subcommand of tools/benchmark.py: what is compared takes turns within one run.

Every round runs each subject once, and starts with another one than the round before, so that a machine that slows down or has
other work to do meets all alike. Rounds of warm-up are thrown away. A ratio is taken round by round, then its median.
"""

import dataclasses
import datetime
import gc
import importlib.metadata
import os
import pathlib
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tools import cli

PACKAGES = ("tensorflow", "tf_keras", "numpy")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Rounds that count, and rounds before them that do not."""

    repeats: int = 5
    warmup: int = 1

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.warmup < 0:
            raise ValueError(f"{self.repeats} repeats after {self.warmup} of warm-up; at least 1 and 0 are needed")


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is measured: run(prepare()) is one sample, and prepare() is not timed. `facts` are carried into the record."""

    name: str
    run: Callable[[Any], object]
    prepare: Callable[[], Any] = lambda: None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median of samples, and between what they lie."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        return cls(statistics.median(samples), min(samples), max(samples))


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of a subject, one for each round that counts, in the order of the rounds."""

    name: str
    seconds: tuple[float, ...]
    facts: Mapping[str, Any]

    @property
    def spread(self) -> Spread:
        return Spread.of(self.seconds)

    def ratio(self, reference: "Timing") -> Spread:
        """How many times the reference's seconds, round by round."""
        return Spread.of([own / other for own, other in zip(self.seconds, reference.seconds, strict=True)])


@dataclasses.dataclass(frozen=True)
class Line:
    """y = slope x + offset by least squares; r2 is the share of the variance that it explains."""

    slope: float
    offset: float
    r2: float


def measure(subjects: Sequence[Subject], plan: Plan, clock: Callable[[], float] = time.perf_counter) -> list[Timing]:
    """Seconds of every subject in every round. Garbage is collected before each sample, outside of it."""
    seconds: list[list[float]] = [[] for _ in subjects]
    for turn in range(plan.warmup + plan.repeats):
        for step in range(len(subjects)):
            index = (turn + step) % len(subjects)
            prepared = subjects[index].prepare()
            gc.collect()
            start = clock()
            subjects[index].run(prepared)
            taken = clock() - start
            if turn >= plan.warmup:
                seconds[index].append(taken)
    return [Timing(each.name, tuple(taken), each.facts) for each, taken in zip(subjects, seconds, strict=True)]


def line(points: Sequence[tuple[float, float]]) -> Line | None:
    """Through (x, y) points; None where all x are the same."""
    xs, ys = zip(*points, strict=True)
    if len(set(xs)) < 2:
        return None
    slope, offset = statistics.linear_regression(xs, ys)
    residual = sum((y - slope * x - offset) ** 2 for x, y in points)
    variance = sum((y - statistics.fmean(ys)) ** 2 for y in ys)
    return Line(slope, offset, 1 - residual / variance if variance else 1.0)


def processor() -> str:
    """The processor, in words."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What the seconds are of: processor, cores, memory, system, and how much else was running."""
    return {
        "processor": processor(),
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "load": os.getloadavg()[0],
    }


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_or_all(threads: int | None) -> int:
    """As many as are asked for, else a thread a core. Raises UsageError for more than there are cores."""
    if threads and threads > cores():
        raise cli.UsageError(f"--threads={threads}: this process may use {cores()} cores; take 1 to {cores()}")
    return threads or cores()


def record(timings: Sequence[Timing], plan: Plan, **facts: Any) -> dict[str, Any]:
    """All that is needed to judge the numbers or to repeat them: every sample, the machine, the date, the command, versions."""
    return {
        "command": shlex.join(["python", "tools/benchmark.py", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        **dataclasses.asdict(plan),
        **facts,
        "timings": [
            {"name": each.name, **each.facts, **dataclasses.asdict(each.spread), "seconds": list(each.seconds)}
            for each in timings
        ],
    }

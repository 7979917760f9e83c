"""Latency that is measured: a table of what every shape of layer takes on this machine, and networks summed up from it.

A layer is measured with what a runtime fuses into it (its padding before, BN and activation behind), alone, at some widths; between
these the table is interpolated along every axis. A network takes one call, and of every part what it takes beyond a call.
"""

import dataclasses
import itertools
import json
import math
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
import tf_keras as keras

from frenzy.quiet import quiet

RUNTIMES = ("litert", "tensorflow")
POINTS, STEP = 5, 8  # widths an axis, and what they are multiples of
TOGETHER = 12  # networks that take turns
MERGES = ("Add", "Average", "Maximum", "Multiply", "Subtract")
BEHIND = ("Activation", "BatchNormalization", "Dropout", "Flatten", "HardSigmoid", "HardSwish", "LeakyReLU", "ReLU", "Reshape")
FREE = ("Dropout", "Flatten", "Reshape")
WIDTHS = ("filters", "units", "after")  # fields of a config that are an axis of the table
TOLD = (
    "activation", "depth_multiplier", "dilation_rate", "experts", "gate", "groups", "hidden", "keepdims", "kernel_size", "max_value",
    "padding", "pool_size", "scale", "size", "stride", "strides", "use_bias",
)  # fmt: skip
CALL = "call"  # the kind of a network that does next to nothing


class LatencyError(Exception):
    """A table that cannot be built, read or used as asked; the message is one line with the next step."""


class Layer(Protocol):
    """What a layer of a network has to tell: its entry in a functional config, whom it reads, shapes (None, ..., channels)."""

    @property
    def name(self) -> str: ...
    @property
    def reads(self) -> tuple[str, ...]: ...
    @property
    def entry(self) -> Mapping[str, Any]: ...
    @property
    def inputs(self) -> tuple[tuple[int | None, ...], ...]: ...


@dataclasses.dataclass(frozen=True)
class Runtime:
    """What runs a network: LiteRT with XNNPACK, or TensorFlow; on so many threads, so many images at once. Raises LatencyError."""

    name: str = "litert"
    threads: int = 1
    batch: int = 1

    def __post_init__(self) -> None:
        if self.name not in RUNTIMES:
            raise LatencyError(f"runtime is {self.name!r}; allowed: {', '.join(RUNTIMES)}")
        for field in ("threads", "batch"):
            if (value := getattr(self, field)) < 1:
                raise LatencyError(f"{field} is {value}; it must be 1 or more")


@dataclasses.dataclass(frozen=True)
class Unit:
    """Layers that run as one: `kind` tells all but widths, `widths` the channels of inputs and what its layers make."""

    kind: str
    widths: tuple[int, ...]
    entries: tuple[Mapping[str, Any], ...]
    inputs: tuple[tuple[int | None, ...], ...]


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median of `runs`, and between what they lie."""

    median: float
    least: float
    most: float
    runs: int


def processor() -> str:
    """The processor, in words."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def fingerprint(runtime: Runtime) -> dict[str, Any]:
    """The machine and the runtime that a table holds for."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "runtime": runtime.name,
        "threads": runtime.threads,
        "batch": runtime.batch,
        "tensorflow": tf.__version__,
    }


# networks -> units


def _told(entry: Mapping[str, Any]) -> str:
    config = entry["config"]
    words = [f"{name}={json.dumps(config[name])}" for name in TOLD if config.get(name) not in (None, False, "linear")]
    return f"{entry['class_name']}({', '.join(words)})"


def _unit(chain: Sequence[Layer]) -> Unit:
    inputs = chain[0].inputs
    entries = tuple(layer.entry for layer in chain)
    merged = entries[0]["class_name"] in MERGES and len({shape[-1] for shape in inputs}) == 1
    channels = [int(shape[-1] or 0) for shape in (inputs[:1] if merged else inputs)]
    made = [int(entry["config"][field]) for entry in entries for field in WIDTHS if field in entry["config"]]
    places = ", ".join("x".join(map(str, shape[1:-1])) or "1" for shape in inputs)
    return Unit(f"{' > '.join(map(_told, entries))} @ {places}", (*channels, *made), entries, inputs)


def units(layers: Sequence[Layer]) -> list[Unit]:
    """The parts of a network that a runtime runs as one, in its order; what costs nothing is left out."""
    readers: dict[str, int] = {}
    for layer in layers:
        for name in layer.reads:
            readers[name] = readers.get(name, 0) + 1
    chains: dict[str, list[Layer]] = {}  # by the name of their last layer
    for layer in layers:
        before = layer.reads[0] if len(layer.reads) == 1 else ""
        alone = before in chains and readers[before] == 1
        padded = alone and chains[before][-1].entry["class_name"] == "ZeroPadding2D"
        joined = alone and (padded or layer.entry["class_name"] in BEHIND)
        chains[layer.name] = [*(chains.pop(before) if joined else []), layer]
    return [_unit(chain) for chain in chains.values() if any(each.entry["class_name"] not in FREE for each in chain)]


# units -> networks that can be run


def _spread(unit: Unit, widths: Sequence[int]) -> list[tuple[int | None, ...]]:
    """The unit's inputs at other widths."""
    single = len(unit.inputs) > 1 and unit.entries[0]["class_name"] in MERGES and len({s[-1] for s in unit.inputs}) == 1
    counts = [widths[0]] * len(unit.inputs) if single else widths[: len(unit.inputs)]
    return [(*shape[1:-1], count) for shape, count in zip(unit.inputs, counts, strict=True)]


def network(unit: Unit, widths: Sequence[int]) -> keras.Model:
    """The unit alone at other widths, with fresh weights."""
    inputs = [keras.Input(shape) for shape in _spread(unit, widths)]
    made = list(widths[-sum(field in entry["config"] for entry in unit.entries for field in WIDTHS) or len(widths) :])
    x: Any = inputs[0] if len(inputs) == 1 else inputs
    for entry in unit.entries:
        config = {**entry["config"], **{field: made.pop(0) for field in WIDTHS if field in entry["config"]}}
        if "target_shape" in config:
            config["target_shape"] = (*config["target_shape"][:-1], -1)
        new = {key: value for key, value in entry.items() if key in ("module", "class_name", "registered_name")}
        x = keras.layers.deserialize({**new, "config": config})(x)
    return keras.Model(inputs, x)


def compiled(model: keras.Model, runtime: Runtime) -> Callable[[], Any]:
    """One call of the network on images that are there already, as the runtime runs it. Raises LatencyError."""
    specs = [tf.TensorSpec((runtime.batch, *each.shape[1:]), tf.float32) for each in model.inputs]
    random = np.random.default_rng(0)
    images = [random.normal(size=spec.shape).astype(np.float32) for spec in specs]
    called = tf.function(lambda *inputs: model(list(inputs) if len(inputs) > 1 else inputs[0], training=False))
    concrete = called.get_concrete_function(*specs)
    if runtime.name == "tensorflow":
        tensors = [tf.constant(each) for each in images]
        return lambda: concrete(*tensors)
    try:
        with quiet():
            content = tf.lite.TFLiteConverter.from_concrete_functions([concrete], model).convert()
            interpreter = tf.lite.Interpreter(model_content=content, num_threads=runtime.threads)
            interpreter.allocate_tensors()
    except Exception as e:  # the converter raises whatever its passes raise
        raise LatencyError(f"LiteRT cannot run {model.layers[-1].name} ({' '.join(str(e).split())[:200]})") from None
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], random.normal(size=detail["shape"]).astype(np.float32))
    return interpreter.invoke


def set_threads(runtime: Runtime) -> None:
    """TensorFlow's own threads; LiteRT gets them by interpreter. Raises LatencyError where TensorFlow has begun already."""
    if runtime.name == "tensorflow":
        try:
            tf.config.threading.set_intra_op_parallelism_threads(runtime.threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:
            raise LatencyError(
                "TensorFlow runs already, its threads can no longer be set; measure in a fresh process"
            ) from None


def measure(
    runs: Sequence[Callable[[], Any]], rounds: int, warmup: int = 2, clock: Callable[[], float] = time.perf_counter
) -> list[Timing]:
    """Every round calls each once, and starts with another one than the round before; rounds of warm-up do not count."""
    seconds: list[list[float]] = [[] for _ in runs]
    for turn in range(warmup + rounds):
        for step in range(len(runs)):
            index = (turn + step) % len(runs)
            start = clock()
            runs[index]()
            taken = clock() - start
            if turn >= warmup:
                seconds[index].append(taken)
    return [Timing(statistics.median(each), min(each), max(each), rounds) for each in seconds]


# the table


def axis(least: int, most: int, points: int = POINTS) -> list[int]:
    """Widths from `least` to `most`, evenly spread multiples of 8 between: 8 to 64 -> [8, 16, 32, 48, 64]."""
    between = {round(most * i / (points - 1) / STEP) * STEP for i in range(1, points - 1)}
    return sorted({least, most} | {width for width in between if least < width < most})


@dataclasses.dataclass
class Plan:
    """A kind of unit, an example of it, and the widths along every axis that a table needs."""

    unit: Unit
    axes: list[list[int]]


def plan(full: Sequence[Layer], least: Sequence[Layer], points: int = POINTS) -> dict[str, Plan]:
    """By kind, for a network from as narrow as `least` to as wide as `full`: layers of the same kind share."""
    ranges: dict[str, tuple[Unit, list[tuple[int, int]]]] = {}
    for wide, narrow in zip(units(full), units(least), strict=True):
        own = list(zip(narrow.widths, wide.widths, strict=True))
        known = ranges.get(wide.kind, (wide, own))[1]
        joined = [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(known, own, strict=True)]
        ranges[wide.kind] = (wide, joined)
    few = {kind: points if len(spans) < 3 else 3 for kind, (_, spans) in ranges.items()}
    return {kind: Plan(unit, [axis(*span, few[kind]) for span in spans]) for kind, (unit, spans) in ranges.items()}


def _call_unit() -> Unit:
    entry: dict[str, Any] = {"module": "keras.layers", "class_name": "ReLU", "registered_name": None, "config": {}}
    return Unit(CALL, (STEP,), (entry,), ((None, 1, 1, STEP),))


class Table:
    """Timings by kind and widths, in a JSON file that is rewritten whole. Raises LatencyError where that is another machine's."""

    def __init__(self, path: str | os.PathLike, runtime: Runtime):
        self.path, self.runtime, self.fingerprint = pathlib.Path(path), runtime, fingerprint(runtime)
        self.kinds: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            self.kinds = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            stored = json.loads(self.path.read_text())
            of, kinds = dict(stored["fingerprint"]), dict(stored["kinds"])
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise LatencyError(f"{self.path} is no table of latencies ({e}); build one with tools/latency.py") from None
        for name, value in self.fingerprint.items():
            if of.get(name) != value:
                raise LatencyError(
                    f"{self.path} was measured with {name} {of.get(name)!r}, and here it is {value!r}; build another with tools/latency.py"
                )
        return kinds

    def write(self) -> None:
        """To a temporary name, then renamed."""
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text(json.dumps({"fingerprint": self.fingerprint, "kinds": self.kinds}, indent=1) + "\n")
        os.replace(temporary, self.path)

    def missing(self, plans: Mapping[str, Plan]) -> list[tuple[str, Unit, tuple[int, ...]]]:
        """(kind, unit, widths) that are to be measured yet; axes that are there already are kept, and become longer."""
        every = {CALL: Plan(_call_unit(), [[STEP]]), **plans}
        found = []
        for kind, each in every.items():
            row = self.kinds.setdefault(kind, {"axes": each.axes, "points": {}})
            row["axes"] = [sorted({*old, *new}) for old, new in zip(row["axes"], each.axes, strict=True)]
            grid = itertools.product(*row["axes"])
            found += [(kind, each.unit, widths) for widths in grid if _key(widths) not in row["points"]]
        return found

    def build(
        self, plans: Mapping[str, Plan], rounds: int = 30, told: Callable[[int, int], Any] = lambda done, of: None
    ) -> None:
        """Measures what is missing, some together, and writes after each of these; a table that was cut off goes on."""
        left = self.missing(plans)
        for first in range(0, len(left), TOGETHER):
            some = left[first : first + TOGETHER]
            runs = [compiled(network(unit, widths), self.runtime) for _, unit, widths in some]
            for (kind, _, widths), timing in zip(some, measure(runs, rounds), strict=True):
                self.kinds[kind]["points"][_key(widths)] = dataclasses.asdict(timing)
            self.write()
            keras.backend.clear_session()
            told(first + len(some), len(left))

    def seconds(self, unit: Unit) -> float:
        """Of one call of a unit alone, interpolated. Raises LatencyError where the table does not reach so far."""
        if unit.kind not in self.kinds:
            raise LatencyError(f"{self.path} has no {unit.kind}; build the table for this network with tools/latency.py")
        row = self.kinds[unit.kind]
        corners = [_between(axis, width) for axis, width in zip(row["axes"], unit.widths, strict=True)]
        if None in corners:
            raise LatencyError(
                f"{self.path} reaches {row['axes']} for {unit.kind}, and {unit.widths} is asked for; build it anew"
            )
        total = 0.0
        for corner in itertools.product(*(each for each in corners if each)):
            widths, shares = zip(*corner, strict=True)
            if _key(widths) not in row["points"]:
                raise LatencyError(f"{self.path} is not complete; go on with it by tools/latency.py")
            total += math.prod(shares) * row["points"][_key(widths)]["median"]
        return total

    def of(self, layers: Sequence[Layer]) -> float:
        """Seconds of a network's call: that of a call, and what every unit takes beyond it."""
        call = self.seconds(_call_unit())
        return call + sum(max(self.seconds(unit) - call, 0.0) for unit in units(layers))


def _key(widths: Iterable[int]) -> str:
    return ",".join(map(str, widths))


def _between(axis: Sequence[int], width: int) -> list[tuple[int, float]] | None:
    """[(width of the table, its share)] that interpolate to `width`; None outside of the axis."""
    if width in axis:
        return [(width, 1.0)]
    if not axis[0] < width < axis[-1]:
        return None
    above = next(i for i, each in enumerate(axis) if each > width)
    low, high = axis[above - 1], axis[above]
    share = (width - low) / (high - low)
    return [(low, 1 - share), (high, share)]

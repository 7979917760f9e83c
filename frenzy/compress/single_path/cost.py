"""What a network costs as a function of its indicators: plain arithmetic that takes numbers and tensors alike.

With indicators of 1 and 0 it is what frenzy/accounting counts in the exported, extracted network, exactly; it is linear in every
indicator, so its derivative by one is what switching that one would change. Vectors of live channels are float64, in which
all these counts are exact.

    frenzy     16-bit weights; a multiply 1/2, an add 1, n adds a dot product; BN and ReLU free; pools 3 k^2 (k + pad)^2
    micronet   the challenge: n - 1 adds, BN folded where it can be, ReLU 1/2; 16-bit weights and multiplies, nothing narrower
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from frenzy.compress.single_path.graph import OWN_CHANNELS, Network, Op

Number = Any  # int, float, or a float64 tensor
Vector = Any  # float64 (channels,), an array or a tensor

WEIGHT_BITS = 16
TASKS = {
    "cifar100": (36_500_000, 10_490_000_000),
    "imagenet": (6_900_000, 1_170_000_000),
}  # MicroNet's baselines: storage, operations


@dataclasses.dataclass(frozen=True)
class Choice:
    """A layer's options: height -> how much it is chosen, width of the kernel likewise, the live channels, and how many there can be."""

    heights: Mapping[int, Number]
    columns: Mapping[int, Number]
    live: Vector
    widths: tuple[int, ...]

    @property
    def taps(self) -> Number:
        return _expected(self.heights) * _expected(self.columns)

    @property
    def point(self) -> Number:
        """How much the kernel is 1x1."""
        return self.heights.get(1, 0) * self.columns.get(1, 0)


def _expected(options: Mapping[int, Number]) -> Number:
    return sum(side * share for side, share in options.items())


def _total(vector: Vector) -> Number:
    return float(vector.sum()) if isinstance(vector, np.ndarray) else tf.reduce_sum(vector)


def _joined(vectors: list[Vector]) -> Vector:
    return np.concatenate(vectors) if all(isinstance(each, np.ndarray) for each in vectors) else tf.concat(vectors, 0)


def fixed(op: Op) -> Choice:
    """The choice of a layer that is not searched."""
    return Choice({op.kernel[0]: 1}, {op.kernel[1]: 1}, np.ones(op.channels), (op.channels,))


def live_out(op: Op, reads: list[Vector], chosen: Mapping[str, Choice]) -> Vector:
    """Which channels of a layer's output are live, from those of what it reads."""
    if op.kind in OWN_CHANNELS:
        return chosen[op.name].live if op.name in chosen else np.ones(op.channels)
    if op.kind == "source":
        return np.ones(op.channels)
    if op.kind == "pad_channels":
        return _joined([reads[0], np.zeros(op.layer.after)])
    if op.kind == "concat":
        return _joined(reads)
    if op.kind == "flatten":
        return _joined([reads[0]] * (op.channels // reads[0].shape[0]))
    return functools.reduce(either, reads)


def either(a: Vector, b: Vector) -> Vector:
    return 1 - (1 - a) * (1 - b)


def live_vectors(network: Network, chosen: Mapping[str, Choice]) -> dict[str, Vector]:
    """The live channels of every layer's output."""
    found: dict[str, Vector] = {}
    for op in network.ops.values():
        found[op.name] = live_out(op, [found[name] for name in op.reads], chosen)
    return found


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a price looks at: taps of the kernel, live channels in and out, additions of two live values.

    folded: how much of a batch normalisation disappears into a layer beside it; `bias` and `bias_places`: the channels and
    pixels of what is left of it then.
    """

    op: Op
    taps: Number
    live_in: Number
    live_out: Number
    pairs: Number
    folded: Number = 0
    bias: Number = 0
    bias_places: int = 0

    @property
    def weights(self) -> Number:
        return self.taps * self.live_out * (1 if self.op.kind == "depthwise" else self.live_in)

    def elements(self, times: float = 1) -> Number:
        """Live numbers of the layer's map, times a constant; one multiplication of tensors, as a search pays for every one."""
        return self.live_out * (times * self.op.places)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Bits of weights, and 32-bit operations an image."""

    storage_bits: Number
    operations: Number

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.storage_bits + other.storage_bits, self.operations + other.operations)


NOTHING = Cost(0, 0)
Price = Callable[[Facts], Cost]


def _free(facts: Facts) -> Cost:
    return NOTHING


def _each(operations: float) -> Price:
    return lambda facts: Cost(0, facts.elements(operations))


def _bias(facts: Facts) -> Cost:
    return Cost(WEIGHT_BITS * facts.live_out, facts.elements()) if facts.op.bias else NOTHING


def _dot(facts: Facts, spared: int) -> Cost:
    """`spared`: adds less than multiplies in a dot product."""
    weights = facts.weights
    operations = weights * (1.5 * facts.op.places)
    return Cost(WEIGHT_BITS * weights, operations - facts.elements(spared) if spared else operations) + _bias(facts)


def _fitted_pool(facts: Facts) -> Cost:
    rows, columns = facts.op.kernel
    return Cost(0, facts.elements(3 * rows * columns * (rows + facts.op.pad[0]) * (columns + facts.op.pad[1])))


def _average(facts: Facts) -> Cost:
    return Cost(0, facts.elements(math.prod(facts.op.kernel) - 1 + 0.5))


def _maximum(facts: Facts) -> Cost:
    return Cost(0, facts.elements(math.prod(facts.op.kernel) - 1))


def _norm(facts: Facts) -> Cost:
    """A bias of the layer that it folds into, or a scale and a shift; of both where it depends on the kernel."""
    whole = Cost(2 * WEIGHT_BITS * facts.live_out, facts.elements(1.5))
    left = Cost(WEIGHT_BITS * facts.bias, facts.bias * facts.bias_places)
    if isinstance(facts.folded, int):
        return left if facts.folded else whole
    return Cost(
        facts.folded * left.storage_bits + (1 - facts.folded) * whole.storage_bits,
        facts.folded * left.operations + (1 - facts.folded) * whole.operations,
    )


_LINEAR: dict[bool, Price] = {spares: functools.partial(_dot, spared=int(spares)) for spares in (False, True)}
_MOVES = dict.fromkeys(("concat", "copy", "flatten", "pad_channels", "source"), _free)

FRENZY: dict[str, Price] = {
    **_MOVES,
    "add": lambda facts: Cost(0, facts.elements(len(facts.op.reads) - 1)),
    "average_pool": _fitted_pool,
    "batch_norm": _free,
    "conv": _LINEAR[False],
    "dense": _LINEAR[False],
    "depthwise": _LINEAR[False],
    "hard_swish": _each(2.0),  # + 3, relu6 free, times x, divided by 6
    "max_pool": _free,
    "relu": _free,
    "relu6": _free,
}
MICRONET: dict[str, Price] = {
    **_MOVES,
    "add": lambda facts: Cost(0, facts.pairs * facts.op.places),
    "average_pool": _average,
    "batch_norm": _norm,
    "conv": _LINEAR[True],
    "dense": _LINEAR[True],
    "depthwise": _LINEAR[True],
    "hard_swish": _each(3.0),
    "max_pool": _maximum,
    "relu": _each(0.5),
    "relu6": _each(1.0),
}
CONVENTIONS = {"frenzy": FRENZY, "micronet": MICRONET}


def _pairs(op: Op, reads: list[Vector]) -> Number:
    """Additions of two live values, sum by sum."""
    found: Number = 0
    if op.kind == "add":
        so_far = reads[0]
        for vector in reads[1:]:
            found += _total(so_far * vector)
            so_far = either(so_far, vector)
    return found


def _folding(network: Network, op: Op, chosen: Mapping[str, Choice], totals: Mapping[str, Number]) -> dict:
    """How much of a batch normalisation folds, and the bias that is left. Zeros around a map keep it from folding forward."""
    fold = network.folds.get(op.name)
    if fold is None:
        return {}
    into = network.ops[fold.into]
    share: Number = 1
    if fold.after and into.kind != "dense":
        choice = chosen.get(into.name) or fixed(into)
        share = 1 if into.padding == "valid" else choice.point
    return {"folded": share, "bias": 0 if fold.biased else totals[into.name], "bias_places": into.places}


def facts_of(network: Network, chosen: Mapping[str, Choice]) -> dict[str, Facts]:
    """The facts of every layer."""
    live = live_vectors(network, chosen)
    totals = {name: _total(vector) for name, vector in live.items()}
    found = {}
    for op in network.ops.values():
        choice = chosen.get(op.name) or fixed(op)
        reads = [live[name] for name in op.reads]
        fold = _folding(network, op, chosen, totals) if op.kind == "batch_norm" else {}
        live_in = totals[op.reads[0]] if op.reads else 0
        found[op.name] = Facts(op, choice.taps, live_in, totals[op.name], _pairs(op, reads), **fold)
    return found


def costs(network: Network, chosen: Mapping[str, Choice], convention: str = "micronet") -> dict[str, Cost]:
    """What every layer costs, by its name."""
    prices = CONVENTIONS[convention]
    return {name: prices[facts.op.kind](facts) for name, facts in facts_of(network, chosen).items()}


def cost(network: Network, chosen: Mapping[str, Choice], convention: str = "micronet") -> Cost:
    """What the whole network costs."""
    every = costs(network, chosen, convention).values()
    return Cost(_sum([each.storage_bits for each in every]), _sum([each.operations for each in every]))


def _sum(parts: list[Number]) -> Number:
    """Of numbers, and of tensors in one operation."""
    tensors = [part for part in parts if tf.is_tensor(part)]
    numbers = sum(part for part in parts if not tf.is_tensor(part))
    return tf.add_n(tensors) + numbers if tensors else numbers


def score(total: Cost, convention: str = "micronet", task: str = "cifar100") -> Number:
    """storage / S + operations / O. `frenzy` counts a 16-bit parameter as a whole one, as the submission did."""
    storage, operations = TASKS[task]
    bits = WEIGHT_BITS if convention == "frenzy" else 32
    return total.storage_bits / (bits * storage) + total.operations / operations

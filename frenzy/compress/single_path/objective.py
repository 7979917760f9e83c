"""What a search is about: one number of a network, as a callable of its choices that takes numbers and tensors alike.

operations, storage and score come from cost.py; `latency` from a table of times that somebody measured.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from frenzy.compress.single_path import cost
from frenzy.compress.single_path.cost import Choice, Number, Vector
from frenzy.compress.single_path.decisions import Decisions, choices
from frenzy.compress.single_path.graph import CONVS, OWN_CHANNELS, Network, Op
from frenzy.compress.tensors import CompressError

Measure = Callable[[Network, Mapping[str, Choice]], Number]
BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclasses.dataclass(frozen=True)
class Objective:
    """A measure by name, and how a text says a number of it, with its unit."""

    name: str
    measure: Measure
    text: Callable[[float], str]

    def of(self, network: Network, decisions: Decisions) -> float:
        """The number for decisions."""
        return float(self.measure(network, choices(network, decisions)))


def operations(convention: str = "micronet") -> Objective:
    """32-bit operations an image."""
    return Objective(
        "operations", lambda network, chosen: cost.cost(network, chosen, convention).operations, "{:,.0f} operations".format
    )


def storage(convention: str = "micronet") -> Objective:
    """Bytes of weights."""
    return Objective(
        "storage", lambda network, chosen: cost.cost(network, chosen, convention).storage_bits / 8, "{:,.0f} bytes".format
    )


def score(convention: str = "micronet", task: str = "cifar100") -> Objective:
    """The challenge's score."""

    def measure(network: Network, chosen: Mapping[str, Choice]) -> Number:
        return cost.score(cost.cost(network, chosen, convention), convention, task)

    return Objective("score", measure, "a score of {:.4f}".format)


def parse_bytes(text: str) -> float:
    """ "4MB" -> 4e6, "4MiB" -> 4 * 2^20, "4000" -> 4000. Raises CompressError."""
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    try:
        assert match is not None
        return float(match[1]) * BYTES[match[2].upper()]
    except (AssertionError, KeyError, ValueError):
        raise CompressError(f"{text!r} is no size; give bytes, or a number with KB, MB, KiB or MiB: 4MB") from None


# times that were measured

Seconds = Callable[[str, tuple[int, int], int, int, int, int, int], float]


def latency(seconds: Seconds) -> Objective:
    """Seconds an image as the sum over convolutions of a table's entries.

    seconds(kind, kernel, channels in, channels out, height, width, stride) is asked once for every combination of options, with
    kind "conv" or "depthwise" and the output's height and width; the time of a mixture is the mixture of times.
    """
    tables: dict[tuple[str, str], np.ndarray] = {}

    def table(network: Network, op: Op, axes: tuple[Sequence[int], ...]) -> np.ndarray:
        key = (network.name, repr((op.name, axes)))
        if key not in tables:
            heights, columns, ins, outs = axes
            entries = [
                seconds(op.kind, (h, w), i, o, *op.shape[:2], op.stride[0])
                for h in heights
                for w in columns
                for i in ins
                for o in outs
            ]
            tables[key] = np.reshape(entries, [len(axis) for axis in axes]).astype(np.float64)
        return tables[key]

    def measure(network: Network, chosen: Mapping[str, Choice]) -> Number:
        live, found = cost.live_vectors(network, chosen), 0.0
        for op in network.ops.values():
            if op.kind in CONVS:
                choice = chosen.get(op.name) or cost.fixed(op)
                ins, in_shares = _widths(network, op.reads[0], live, chosen)
                outs, out_shares = _widths(network, op.name, live, chosen) if op.kind == "conv" else ([0], np.ones(1))
                axes = (tuple(choice.heights), tuple(choice.columns), tuple(ins), tuple(outs))
                shares = (_vector(choice.heights), _vector(choice.columns), in_shares, out_shares)
                entries: Number = table(network, op, axes)
                for share in shares:
                    entries = _contracted(share, entries)
                found += entries
        return found

    return Objective("latency", measure, "{:.4g} seconds".format)


def _vector(options: Mapping[int, Number]) -> Vector:
    if any(map(tf.is_tensor, options.values())):
        return tf.stack([tf.cast(share, tf.float64) for share in options.values()])
    return np.array(list(options.values()), np.float64)


def _contracted(share: Vector, entries: Number) -> Number:
    """Sums over the first axis."""
    if tf.is_tensor(share) or tf.is_tensor(entries):
        return tf.tensordot(tf.convert_to_tensor(share), tf.convert_to_tensor(entries), 1)
    return np.tensordot(share, entries, 1)


def _sources(network: Network, name: str) -> list[str]:
    """The layers whose own channels make up a map."""
    op = network.ops[name]
    if op.kind in OWN_CHANNELS or op.kind == "source":
        return [name]
    if op.kind == "concat":
        raise CompressError(f"{network.name}: latency cannot follow '{name}', which joins maps")
    return [source for read in op.reads for source in _sources(network, read)]


def _widths(network: Network, name: str, live: Mapping[str, Vector], chosen: Mapping[str, Choice]) -> tuple[list[int], Vector]:
    """The numbers of live channels that a map can have, ascending, and how much each is chosen.

    Where channels 1 to n are live together, exactly n is so by the share live[n - 1] - live[n].
    """
    ends = sorted({end for source in _sources(network, name) for end in _options(network, source, chosen)})
    vector = live[name]
    shares = [
        vector[end - 1] - (vector[further - 1] if further else 0) for end, further in zip(ends, [*ends[1:], 0], strict=True)
    ]
    return ends, _vector(dict(enumerate(shares)))


def _options(network: Network, name: str, chosen: Mapping[str, Choice]) -> tuple[int, ...]:
    return chosen[name].widths if name in chosen else (network.ops[name].channels,)

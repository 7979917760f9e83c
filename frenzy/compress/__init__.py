"""Methods by name: `compress(model, "ttq")` gives a network to train on, `strip` the small one that comes of it.

The wrapped network trains as any tf_keras model, and checkpoints hold all of its state. `strip` leaves plain layers whose weights
are what inference used: logits are equal.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from functools import partial

import tf_keras as keras

from frenzy.compress.activations import FreezeRanges, MovingRange, calibrate, freeze
from frenzy.compress.binary import Hysteresis, McDonnell
from frenzy.compress.cluster import cluster
from frenzy.compress.prune import Mask, prune, prune_in_rounds
from frenzy.compress.tensors import EVERY_CONV, EVERY_KERNEL, IN_BLOCKS, CompressError, Rule, select
from frenzy.compress.ternary import TTQ, OneNegativeOne
from frenzy.compress.uniform import Uniform, check_bits
from frenzy.compress.wrap import check, quantize, strip


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to make a network smaller: a quantizer's class, or wrap(model, rule=..., **options), where `wraps`; the kernels that
    it takes and the width of maps (0: as they are) unless others are asked for; its source."""

    source: str
    make: Callable
    wraps: bool = False
    rule: Rule = IN_BLOCKS
    map_bits: int = 0

    @property
    def options(self) -> tuple[str, ...]:
        """What can be set beside the rule and map_bits."""
        parameters = inspect.signature(self.make).parameters.values()
        named = (p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
        return tuple(name for name in named if name not in ("model", "rule"))


METHODS = {
    "ttq": Method("Zhu et al., arXiv 1612.01064", TTQ),
    "one_negative_one": Method("MicroBotNet notes, 2020: TTQ with scales of 1", OneNegativeOne),
    "hysteresis": Method("BNN poster: signs with hysteresis, 8-bit maps", Hysteresis, map_bits=8),
    "mcdonnell": Method("McDonnell, arXiv 1802.08530: every conv", McDonnell, rule=EVERY_CONV),
    "int8": Method("even grids for kernels and maps alike", Uniform, rule=EVERY_KERNEL, map_bits=8),
    "prune": Method("tfmot, after Zhu & Gupta, arXiv 1710.01878", prune, wraps=True),
    "prune_in_rounds": Method("MicroNet challenge, 2019: normalised magnitudes, 10 % a round", Mask),
    "cluster": Method("tfmot's weight clustering", cluster, wraps=True),
}


def _check_options(method: str, options: Mapping) -> None:
    known = METHODS[method].options
    if unknown := next((name for name in options if name not in known), None):
        raise CompressError(f"{method} has no option {unknown!r}; it takes {', '.join(known) or 'none'}")


def compress(model: keras.Model, method: str, rule: Rule | None = None, map_bits: int | None = None, **options) -> keras.Model:
    """A trainable copy of a float32 tf_keras network, wrapped for a method of METHODS; the trained weights are the start.

    `rule`: which kernels, `map_bits`: the width of feature maps, 0 leaves them (None: the method's own); `options` as the method
    has them. Raises CompressError.
    """
    if method not in METHODS:
        raise CompressError(f"no method {method!r}; known: {', '.join(METHODS)}")
    _check_options(method, options)
    found = METHODS[method]
    rule, map_bits = rule or found.rule, found.map_bits if map_bits is None else map_bits
    if map_bits:
        check_bits(map_bits)
    if found.wraps:
        if map_bits:
            raise CompressError(
                f"{method} leaves feature maps as they are; strip its network, then compress that with map_bits"
            )
        return found.make(model, rule=rule, **options)
    return quantize(model, partial(found.make, **options), rule, partial(MovingRange, map_bits) if map_bits else None)


__all__ = [
    "METHODS", "CompressError", "FreezeRanges", "Method", "Rule", "calibrate", "check", "compress", "freeze", "prune_in_rounds",
    "quantize", "select", "strip",
]  # fmt: skip
